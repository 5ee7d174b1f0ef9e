//! Many sessions that do nothing, and some of them that do something.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::e2e::harness::cluster::Cluster;
use crate::stand_in::{StandIn, say};

/// How long the active ones talk.
const TALK: Duration = Duration::from_secs(5);

/// Holds `idle` sessions, lets `active` of them talk, and tells what that took.
pub(crate) fn measure(cluster: &Cluster, stand_in: &StandIn, idle: u64, active: u64) {
    let runtime = &stand_in.runtime;
    let pid = cluster.proxy.pid();
    let before = resident(pid);
    let mut sessions = Vec::new();
    for _ in 0..idle {
        let connected = runtime.block_on(TcpStream::connect(("127.0.0.1", cluster.proxy_port)));
        sessions.push(connected.expect("a session"));
    }
    // The last one answers: all are carried.
    let last = sessions.last_mut().expect("a session");
    runtime.block_on(say(last)).expect("an answer");
    let each = resident(pid).saturating_sub(before) * 1024 / idle.max(1);
    println!("\n{idle} idle sessions: {each} bytes of the proxy's memory each");
    let began = Instant::now();
    let spent = super::processor_time(pid);
    let talking: Vec<_> = sessions
        .drain(
            ..usize::try_from(active)
                .expect("a number")
                .min(sessions.len()),
        )
        .map(|mut session| {
            runtime.spawn(async move {
                let mut rounds = 0_u64;
                while began.elapsed() < TALK {
                    say(&mut session).await?;
                    rounds += 1;
                }
                Ok::<_, std::io::Error>(rounds)
            })
        })
        .collect();
    let mut rounds = 0;
    let mut errors = 0;
    for task in talking {
        match runtime.block_on(task).expect("a task") {
            Ok(count) => rounds += count,
            Err(_) => errors += 1,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(rounds).unwrap_or(u32::MAX)) / seconds;
    let cost = (super::processor_time(pid) - spent) / (rate * seconds) * 1e6;
    println!("{active} of them active: {rate:.0} answers/s, {cost:.2} us/answer, {errors} errors");
}

/// The memory of a process that is in use, in KiB (proc(5), `status`).
fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.expect("VmRSS").split_whitespace().next();
    words.expect("a number").parse().expect("a number")
}
