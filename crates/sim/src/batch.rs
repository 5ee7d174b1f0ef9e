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

/// What must have happened in a batch of some size, of plans as they are drawn without a name: a world in
/// which nothing happens proves nothing.
pub const SOMETIMES: &[&str] = &[
    "failover",
    "failover-limit",
    "election-refused",
    "promotion",
    "synchronous-change",
    "synchronous-commit",
    "proxy-closed",
    "proxy-opened",
    "proxy-fenced",
    "late-bytes",
    "lost-answer",
    "write-unknown",
    "store-unavailable",
    "store-slow",
    "late-expiry",
    "watch-stalled",
    "wall-jump",
    "isolated",
    "isolated-one-way",
    "lossy",
    "disk-full",
    "disk-slow",
    "disk-lost",
    "wal-removed",
    "copies-fail",
    "synchronous-union",
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
/// What else must have happened where processes of the Go program are among ours.
const SOMETIMES_MIXED: &[&str] = &[
    "go-replaced",
    "go-returns",
    "go-stops-at-start",
    "reading-stopped-for-a-sentinel",
];
/// What else must have happened where clusters follow a server outside.
const SOMETIMES_STANDBY: &[&str] = &[
    "restored-from-backup",
    "data-taken-over",
    "standby-cluster-failover",
    "cluster-promoted",
    "source-crashed",
    "source-promoted",
    "source-went-back",
    "source-switched",
    "source-copied",
    "source-rewound-to",
];

/// What else must have happened where clients read from standbys.
const SOMETIMES_READING: &[&str] = &[
    "read-from-standby",
    "readers-sent-away",
    "left-for-its-lag",
    "failover-waited-for-readers",
    "reading-fenced",
    "writes-refused-to-reader",
];

/// A way to draw plans.
type Draw = fn(u64) -> Plan;

/// How plans are drawn, by name; the names of what must have happened besides.
const PLANS: &[(&str, Draw, &[&str])] = &[
    ("drawn", swarm::plan, SOMETIMES),
    ("failovers", swarm::failovers, &[]),
    ("lagging", swarm::lagging_standbys, &[]),
    ("restored", swarm::store_restored, &[]),
    ("leaders", swarm::two_leaders, &[]),
    ("readers", swarm::readers, SOMETIMES_READING),
    ("mixed", swarm::mixed, SOMETIMES_MIXED),
    ("standby", swarm::standby, SOMETIMES_STANDBY),
    ("days", swarm::days, &[]),
    ("years", swarm::years, &[]),
];
/// Plans that are part of a batch of which nothing is said: the others take long for each seed.
const USUAL: usize = 8;

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
    pub fn missing(&self, sometimes: &[&'static str]) -> Vec<&'static str> {
        let missing = sometimes
            .iter()
            .filter(|what| !self.noted.contains_key(**what));
        missing.copied().collect()
    }

    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated += other.simulated;
        self.acknowledged += other.acknowledged;
        self.stuck += other.stuck;
        for (what, times) in &other.noted {
            *self.noted.entry(what).or_default() += times;
        }
        self.reasons.extend(other.reasons.iter().cloned());
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

/// The plans of a name; none: those that are drawn without one.
fn plans(
    name: Option<&String>,
) -> anyhow::Result<&'static (&'static str, Draw, &'static [&'static str])> {
    let name = name.map_or("drawn", String::as_str);
    let names = || PLANS.iter().map(|(name, _, _)| *name).collect::<Vec<_>>();
    let found = PLANS.iter().find(|(known, _, _)| *known == name);
    found.with_context(|| format!("no plans are called {name:?}: {}", names().join(", ")))
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
            let (_, draw, _) = plans(arguments.get(2))?;
            replay(&draw(number(1)?.context("seed: which?")?), out)
        }
        Some("batch") => {
            let seconds = number(1)?.context("batch: for how many seconds?")?;
            let (limit, first) = (Duration::from_secs(seconds), number(2)?.unwrap_or(1));
            let chosen = match arguments.get(3) {
                None => &PLANS[..USUAL],
                Some(_) => std::slice::from_ref(plans(arguments.get(3))?),
            };
            batches(chosen, limit, first, out)
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

/// A batch of each kind of plan, of which the first has half of the time.
fn batches(
    chosen: &[(&str, Draw, &[&'static str])],
    limit: Duration,
    first: u64,
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    let (mut all, mut found, mut sometimes) = (Tally::default(), false, Vec::new());
    let parts = u32::try_from(chosen.len())?;
    for (index, (name, draw, own)) in chosen.iter().enumerate() {
        let share = match (parts, index) {
            (1, _) => limit,
            (_, 0) => limit / 2,
            _ => limit / 2 / (parts - 1),
        };
        let tally = run_many(*draw, first, u64::MAX / 2, Some(share));
        found |= !tally.failures.is_empty();
        tell_failures(name, *draw, &tally, out)?;
        sometimes.extend_from_slice(own);
        all.add(&tally);
    }
    let seconds = began.elapsed().as_secs_f64();
    writeln!(
        out,
        "{} seeds, {:.1} a second, {:.1} simulated hours, {} events, {} acknowledged writes; {} ended \
         for want of data",
        all.seeds,
        f64::from(u32::try_from(all.seeds)?) / seconds,
        all.simulated.as_secs_f64() / 3600.0,
        all.events,
        all.acknowledged,
        all.stuck,
    )?;
    for (what, times) in &all.noted {
        writeln!(out, "{times:>9} {what}")?;
    }
    let missing = all.missing(&sometimes);
    if !missing.is_empty() {
        writeln!(out, "did not happen: {}", missing.join(", "))?;
    }
    Ok(found || !missing.is_empty())
}

fn tell_failures(name: &str, draw: Draw, tally: &Tally, out: &mut dyn Write) -> anyhow::Result<()> {
    for (seed, violation) in tally.failures.iter().take(MOST_TOLD) {
        let (rule, text) = (violation.rule, &violation.text);
        writeln!(out, "seed {seed} of {name}: {rule}: {text}")?;
    }
    if let Some((seed, violation)) = tally.failures.first_key_value() {
        let small = shrink(&draw(*seed), violation.rule);
        writeln!(out, "\n{}", story::tell(&small, violation))?;
    }
    let (seeds, hours) = (tally.seeds, tally.simulated.as_secs_f64() / 3600.0);
    let failed = tally.failures.len();
    writeln!(
        out,
        "{name}: {seeds} seeds, {hours:.1} simulated hours; {failed} seeds failed"
    )?;
    Ok(())
}
