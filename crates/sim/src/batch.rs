//! Many seeds, two at a time, for as long as is wanted; or one of them with its whole trace.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::plan::Plan;
use crate::record::{Record, Violation};
use crate::run::{Outcome, run};
use crate::shrink::shrink;
use crate::{story, swarm};

/// Seeds that are run at the same time.
const THREADS: usize = 2;
/// Most failing seeds that are told of.
const MOST_TOLD: usize = 5;

/// What must have happened in a batch of some size: a world in which nothing happens proves nothing.
pub const SOMETIMES: &[&str] = &[
    "failover",
    "promotion",
    "synchronous-change",
    "synchronous-commit",
    "proxy-closed",
    "proxy-opened",
    "lost-answer",
    "write-unknown",
    "store-unavailable",
    "resync",
    "swap",
    "adopted",
    "orphans",
    "hung",
    "paused",
    "host-paused",
    "host-crashed",
    "cut",
    "two-leaders",
    "operator",
    "killed-between-effects",
    "start-died",
    "promotion-died",
    "stream-refused",
    "asynchronous-loss",
    "data-removed",
    "store-went-back",
    "closed-for-older-data",
    "rewind",
    "request-done",
    "half-a-record",
];

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seeds run.
    pub seeds: u64,
    /// Events in all.
    pub events: u64,
    /// Simulated time in all.
    pub simulated: Duration,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Runs that ended stuck, for want of data that a fault had destroyed.
    pub stuck: u64,
    /// What happened, and how often.
    pub noted: BTreeMap<&'static str, u64>,
    /// The codes of all reasons given.
    pub reasons: BTreeSet<String>,
    /// The seeds that failed.
    pub failures: BTreeMap<u64, Violation>,
}

impl Tally {
    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.record.events;
        self.simulated += outcome.lasted;
        self.acknowledged += outcome.acknowledged;
        for (what, times) in outcome.record.noted {
            *self.noted.entry(what).or_default() += times;
        }
        self.stuck += u64::from(outcome.well_after.is_none() && outcome.record.violation.is_none());
        self.reasons.extend(outcome.record.reasons);
        if let Some(violation) = outcome.record.violation {
            self.failures.insert(seed, violation);
        }
    }

    /// What should have happened and did not.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = SOMETIMES
            .iter()
            .filter(|what| !self.noted.contains_key(**what));
        missing.copied().collect()
    }
}

/// Runs seeds from `first` on, until so many are run or the time is over.
pub fn run_many(drawn: fn(u64) -> Plan, first: u64, most: u64, limit: Option<Duration>) -> Tally {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while limit.is_none_or(|limit| began.elapsed() < limit) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + most {
                        return;
                    }
                    let outcome = run(&drawn(seed), Record::default());
                    tally
                        .lock()
                        .expect("no thread panics with it")
                        .take(seed, outcome);
                }
            });
        }
    });
    tally.into_inner().expect("no thread panics with it")
}

/// How plans are drawn, by name.
fn drawn(name: Option<&String>) -> anyhow::Result<fn(u64) -> Plan> {
    match name.map(String::as_str) {
        None => Ok(swarm::plan),
        Some("failovers") => Ok(swarm::failovers),
        Some("lagging") => Ok(swarm::lagging_standbys),
        Some("restored") => Ok(swarm::store_restored),
        Some("leaders") => Ok(swarm::two_leaders),
        Some("days") => Ok(swarm::days),
        Some(other) => {
            anyhow::bail!(
                "no plans are called {other:?}: failovers, lagging, restored, leaders, days"
            )
        }
    }
}

/// `batch SECONDS [FIRST [PLANS]]`, or `seed N [PLANS]`; true: something was found.
pub fn command(arguments: &[String], out: &mut dyn Write) -> anyhow::Result<bool> {
    let number = |index: usize| -> anyhow::Result<Option<u64>> {
        let text = arguments.get(index);
        text.map(|text| {
            text.parse()
                .with_context(|| format!("{text:?} is not a number"))
        })
        .transpose()
    };
    match arguments.first().map(String::as_str) {
        Some("seed") => {
            let drawn = drawn(arguments.get(2))?;
            replay(&drawn(number(1)?.context("seed: which?")?), out)
        }
        Some("batch") => {
            let seconds = number(1)?.context("batch: for how many seconds?")?;
            let (limit, first) = (Duration::from_secs(seconds), number(2)?.unwrap_or(1));
            batch(drawn(arguments.get(3))?, limit, first, out)
        }
        _ => anyhow::bail!("say `batch SECONDS [FIRST-SEED [PLANS]]` or `seed N [PLANS]`"),
    }
}

fn replay(plan: &Plan, out: &mut dyn Write) -> anyhow::Result<bool> {
    let outcome = run(plan, Record::tracing());
    for line in &outcome.record.trace {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", outcome.state)?;
    writeln!(out, "{:?}", outcome.record.noted)?;
    Ok(outcome.record.violation.is_some())
}

fn batch(
    drawn: fn(u64) -> Plan,
    limit: Duration,
    first: u64,
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    let tally = run_many(drawn, first, u64::MAX / 2, Some(limit));
    let seconds = began.elapsed().as_secs_f64();
    for (seed, violation) in tally.failures.iter().take(MOST_TOLD) {
        writeln!(out, "seed {seed}: {}: {}", violation.rule, violation.text)?;
    }
    if let Some((seed, violation)) = tally.failures.first_key_value() {
        let small = shrink(&drawn(*seed), violation.rule);
        writeln!(out, "\n{}", story::tell(&small, violation))?;
    }
    writeln!(
        out,
        "{} seeds, {:.1} a second, {:.1} simulated hours, {} events, {} acknowledged writes; {} seeds \
         failed, {} ended for want of data",
        tally.seeds,
        f64::from(u32::try_from(tally.seeds)?) / seconds,
        tally.simulated.as_secs_f64() / 3600.0,
        tally.events,
        tally.acknowledged,
        tally.failures.len(),
        tally.stuck,
    )?;
    for (what, times) in &tally.noted {
        writeln!(out, "{times:>9} {what}")?;
    }
    let missing = tally.missing();
    if !missing.is_empty() {
        writeln!(out, "did not happen: {}", missing.join(", "))?;
    }
    Ok(!tally.failures.is_empty() || !missing.is_empty())
}
