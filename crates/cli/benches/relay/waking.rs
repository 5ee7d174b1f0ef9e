//! What it takes on this machine to wake a thread that sleeps: much of what any proxy costs, whatever it
//! is made of.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const ROUNDS: u32 = 20_000;
/// Machines of one's own are below, by far; virtual ones that halt their idle processors are above.
const DEAR: f64 = 20.0;

/// Tells how long a word to another thread and back takes.
pub(crate) fn tell() {
    let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
    let echo = std::thread::spawn(move || {
        let mut word = [0];
        while there.read_exact(&mut word).is_ok() {
            there.write_all(&word).expect("written");
        }
    });
    let began = Instant::now();
    for _ in 0..ROUNDS {
        here.write_all(&[0]).expect("written");
        here.read_exact(&mut [0]).expect("an answer");
    }
    let round = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    drop(here);
    echo.join().expect("a thread");
    println!("a word to a thread that sleeps, and back: {round:.1} us");
    if round > DEAR {
        println!(
            "  to wake an idle processor is dear here and hides what ways differ in: docs/testing.md"
        );
    }
}
