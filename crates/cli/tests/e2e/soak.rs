//! What `make soak` finds processes by that keep what they should give back: that it finds them.

use std::net::{TcpListener, TcpStream};

use verdict::{Sample, growth};

use crate::harness::eventually;

#[path = "../../benches/soak/verdict.rs"]
mod verdict;
#[allow(dead_code, reason = "the soak uses more of it")]
#[path = "../../benches/soak/watch.rs"]
mod watch;

/// A proxy of 20 MiB with some sessions, which sways.
fn steady(number: u64) -> Sample {
    Sample {
        memory: 20_000 + number * 7919 % 2000,
        descriptors: 200 + number * 31 % 40,
        threads: 9,
        half_closed: number % 3,
    }
}

/// What leaks, and how.
type Leak = (&'static str, fn(u64) -> Sample);

/// Samples of an hour, every five seconds.
fn samples(of: impl Fn(u64) -> Sample) -> Vec<Sample> {
    (0..720).map(of).collect()
}

fn beyond(samples: &[Sample]) -> Vec<String> {
    growth(samples, 60).expect("enough samples").beyond
}

#[test]
fn a_process_that_does_not_grow_holds() {
    assert_eq!(beyond(&samples(steady)), Vec::<String>::new());
    // What it takes before it is warm, it may keep.
    let warms = |number| Sample {
        memory: if number < 60 { 5000 } else { 30_000 },
        ..steady(number)
    };
    assert_eq!(beyond(&samples(warms)), Vec::<String>::new());
    // Sessions that are missing in failovers are not missed.
    let fails_over = |number| Sample {
        descriptors: if number < 240 && number % 12 < 6 {
            20
        } else {
            200
        },
        ..steady(number)
    };
    assert_eq!(beyond(&samples(fails_over)), Vec::<String>::new());
    // A fifth and 4 MiB are allowed; this is half a MiB.
    let little = |number| Sample {
        memory: steady(number).memory + number,
        ..steady(number)
    };
    assert_eq!(beyond(&samples(little)), Vec::<String>::new());
}

#[test]
fn a_process_that_leaks_is_found() {
    let leaks: [Leak; 4] = [
        ("KiB of memory", |n| Sample {
            memory: 20_000 + n * 20,
            ..steady(n)
        }),
        // One for each failover.
        ("descriptors", |n| Sample {
            descriptors: steady(n).descriptors + n / 12,
            ..steady(n)
        }),
        ("threads", |n| Sample {
            threads: 9 + n / 12,
            ..steady(n)
        }),
        ("sockets in CLOSE_WAIT", |n| Sample {
            half_closed: n / 12,
            ..steady(n)
        }),
    ];
    for (what, leak) in leaks {
        let found = beyond(&samples(leak));
        let [found] = &found[..] else {
            panic!("{what}: {found:?}");
        };
        assert!(found.starts_with(what), "{found}");
    }
}

#[test]
fn a_process_that_was_not_watched_for_long_enough_is_not_judged() {
    assert_eq!(growth(&samples(steady)[..75], 60), None);
    assert_eq!(growth(&[], 60), None);
    assert!(growth(&samples(steady)[..76], 60).is_some());
}

#[test]
fn what_a_process_keeps_is_seen() {
    let pid = i32::try_from(std::process::id()).expect("a pid");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("its address");
    let seen = || watch::sample(pid, &watch::Sockets::now()).expect("this process");
    assert!(seen().memory > 1000 && seen().threads > 0);
    let kept: Vec<TcpStream> = (0..50)
        .map(|_| {
            // The other end is closed at once.
            drop(TcpStream::connect(address).expect("a connection"));
            listener.accept().expect("a connection").0
        })
        .collect();
    // Tests beside this one have some of their own, and close them.
    eventually("half-closed sockets are seen", || {
        let now = seen();
        (now.half_closed >= 50 && now.descriptors > 50).then_some(())
    });
    drop(kept);
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let child_pid = i32::try_from(child.id()).expect("a pid");
    eventually("the end of a process is seen", || {
        watch::sample(child_pid, &watch::Sockets::now())
            .is_none()
            .then_some(())
    });
    child.wait().expect("a child");
}
