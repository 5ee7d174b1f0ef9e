//! What is kept of a run: a digest, the trace where one is wanted, what happened, what was found.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::Time;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it was found.
    pub at: Time,
    /// The rule's stable name.
    pub rule: &'static str,
    /// What was found.
    pub text: String,
}

/// What is kept of a run.
#[derive(Debug, Clone, Default)]
pub struct Record {
    tracing: bool,
    /// What was said, where a trace is wanted.
    pub trace: Vec<String>,
    /// Changes with every event and its time: two runs of the same seed have the same.
    pub digest: u64,
    /// Events so far.
    pub events: u64,
    /// What happened, of the things that are to happen sometimes.
    pub noted: BTreeMap<&'static str, u64>,
    /// The codes of all reasons that were logged.
    pub reasons: BTreeSet<String>,
    /// The last write that was acknowledged through each proxy: when, and by which instance.
    writes: BTreeMap<usize, (Time, usize)>,
    /// The first thing found that must not be.
    pub violation: Option<Violation>,
}

impl Record {
    /// A record with a trace.
    pub fn tracing() -> Self {
        Self {
            tracing: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing
    }

    pub(crate) fn count(&mut self, now: Time) {
        self.events += 1;
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.digest = (self.digest.rotate_left(5) ^ nanos).wrapping_mul(0x0100_0000_01B3);
    }

    pub(crate) fn say(&mut self, now: Time, text: impl FnOnce() -> String) {
        if self.tracing {
            self.trace
                .push(format!("{:>10.3} {}", now.as_secs_f64(), text()));
        }
    }

    pub(crate) fn note(&mut self, what: &'static str) {
        *self.noted.entry(what).or_default() += 1;
    }

    pub(crate) fn wrote_through(&mut self, now: Time, proxy: usize, target: usize) {
        self.writes.insert(proxy, (now, target));
    }

    pub(crate) fn wrote_since(&self, proxy: usize, target: usize, since: Time) -> bool {
        let last = self.writes.get(&proxy);
        last.is_some_and(|(at, to)| *to == target && *at >= since)
    }

    pub(crate) fn reason(&mut self, code: &str) {
        if !self.reasons.contains(code) {
            self.reasons.insert(code.to_owned());
        }
    }

    pub(crate) fn fail(&mut self, now: Time, rule: &'static str, text: String) {
        if self.violation.is_none() {
            self.say(now, || format!("VIOLATION {rule}: {text}"));
            self.violation = Some(Violation {
                at: now,
                rule,
                text,
            });
        }
    }
}
