//! How long clients cannot write when something of the primary fails, and what is lost.
//!
//! A client inserts a row every 10 ms through the proxy and connects again when its session ends; the
//! gap is the longest time between two acknowledgements. Each fault is done several times (ROUNDS,
//! 5), each time on the whole cluster again: three hosts (network namespaces) with an etcd member, a
//! sentinel and a keeper each, and a fourth with the proxy and the client. Without root there is one
//! host with the embedded store, and no link to cut.
//!
//! `make bench` runs it; words after `cargo bench --bench gap --` choose: those rounds are done whose
//! mode and fault contain one of them.

#[path = "../tests/e2e"]
mod e2e {
    #[allow(dead_code, reason = "the tests use more of it")]
    pub(crate) mod harness;
}

use std::time::Duration;

use e2e::harness::can_make_hosts;
use e2e::harness::cluster::{Cluster, Plan, Store};
use rustix::process::Signal;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to the primary's postmaster.
    Postmaster,
    /// SIGKILL to the primary's keeper and all of its PostgreSQL.
    Node,
    /// SIGSTOP to all of them; SIGCONT after the failover.
    Freeze,
    /// The cable of the primary's host is pulled; plugged in after the failover.
    Link,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Postmaster, Self::Node, Self::Freeze, Self::Link];

    const fn name(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster killed",
            Self::Node => "node killed",
            Self::Freeze => "node frozen",
            Self::Link => "link cut",
        }
    }
}

/// What one round showed.
struct Round {
    gap: Duration,
    acknowledged: usize,
    lost: usize,
}

fn main() {
    // `cargo bench` hands on its own flags.
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(5).max(1);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen = |mode: &str, fault: Fault| {
        let name = format!("{mode} {}", fault.name());
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let hosts = can_make_hosts("link cut");
    println!("the time without acknowledged writes, in seconds: median of {rounds} (each round)");
    println!("sleepInterval 1s, failInterval 4s, proxyCheckInterval 1s, proxyTimeout 3s\n");
    for (mode, synchronous) in [("asynchronous", false), ("synchronous", true)] {
        if !Fault::ALL.into_iter().any(|fault| chosen(mode, fault)) {
            continue;
        }
        let plan = if hosts {
            Plan::on_hosts()
        } else {
            Plan::new(Store::Sqlite)
        };
        let plan = plan.with("failInterval", "4s".into());
        let plan = if synchronous {
            plan.synchronous()
        } else {
            plan
        };
        let mut cluster = Cluster::start(&plan);
        for fault in Fault::ALL.into_iter().filter(|fault| chosen(mode, *fault)) {
            if fault == Fault::Link && !hosts {
                println!("{mode:<13} {:<18} not run", fault.name());
                continue;
            }
            let done: Vec<Round> = (0..rounds).map(|_| round(&mut cluster, fault)).collect();
            tell(mode, fault, &done);
        }
    }
}

fn round(cluster: &mut Cluster, fault: Fault) -> Round {
    let primary = cluster.primary();
    let writer = cluster.writer();
    writer.writes(100);
    match fault {
        Fault::Postmaster => cluster.keepers[primary].signal_postmaster(Signal::KILL),
        Fault::Node => cluster.keepers[primary].kill(),
        Fault::Freeze => cluster.freeze(primary),
        Fault::Link => cluster.network.as_ref().expect("hosts").cut(primary),
    }
    writer.notices();
    writer.writes(100);
    match fault {
        Fault::Postmaster => {}
        Fault::Node => cluster.keepers[primary].daemon.start(),
        Fault::Freeze => cluster.keepers[primary].thaw(),
        Fault::Link => cluster.network.as_ref().expect("hosts").heal(primary),
    }
    cluster.is_whole();
    let account = writer.stop();
    Round {
        gap: account.gap,
        acknowledged: account.acknowledged.len(),
        lost: cluster.lost(&account).len(),
    }
}

fn tell(mode: &str, fault: Fault, rounds: &[Round]) {
    let mut gaps: Vec<f64> = rounds.iter().map(|round| round.gap.as_secs_f64()).collect();
    let each: Vec<String> = gaps.iter().map(|gap| format!("{gap:.2}")).collect();
    gaps.sort_by(f64::total_cmp);
    let median = gaps[gaps.len() / 2];
    let lost: usize = rounds.iter().map(|round| round.lost).sum();
    let acknowledged: usize = rounds.iter().map(|round| round.acknowledged).sum();
    println!(
        "{mode:<13} {:<18} {median:5.2}  ({})  {lost} lost of {acknowledged} acknowledged",
        fault.name(),
        each.join(" ")
    );
}
