//! What keeps an instance from serving that is no fault of its own: places for connections that are
//! all taken, a disk that takes nothing more (scenarios B2, B3, B10).

use std::time::Duration;

use super::facts::{Facts, Health, Observation};
use super::{Effect, Keeper};
use crate::reason::Reason;
use crate::time::Instant;

/// Trouble is new when it was away for this long.
const AWAY: Duration = Duration::from_mins(1);

/// What there is of it now.
pub(super) fn trouble(facts: &Facts) -> Vec<Reason> {
    let observation = match &facts.health {
        Health::Running(observation) | Health::Saturated(observation) => observation,
        Health::Unknown | Health::Starting(_) | Health::Silent(_) => return at_rest(facts),
    };
    if !facts.process.is_running() {
        return at_rest(facts);
    }
    let mut reasons = Vec::new();
    if !observation.taken.is_empty() {
        reasons.push(Reason::warn("saturated", &observation.taken));
    }
    if is_full(observation) {
        let text = "the disk is full: less than one file of WAL fits into it";
        let free = observation.free_space.unwrap_or_default();
        reasons.push(Reason::error("disk-trouble", text).with("free_bytes", free));
    }
    reasons
}

fn at_rest(facts: &Facts) -> Vec<Reason> {
    if facts.disk.trouble.is_empty() {
        return Vec::new();
    }
    vec![Reason::error("disk-trouble", &facts.disk.trouble)]
}

fn is_full(observation: &Observation) -> bool {
    let free = observation.free_space;
    free.is_some_and(|free| free < observation.wal_segment)
}

/// The same in words, before what else there is to say.
pub(super) fn with_trouble(facts: &Facts, said: &str) -> String {
    let words = trouble(facts).into_iter().map(|reason| reason.text);
    let words = words.chain(Some(said.to_owned()).filter(|said| !said.is_empty()));
    words.collect::<Vec<_>>().join("; ")
}

impl Keeper {
    /// Tells of it when it comes; of what comes and goes at its limit, once.
    pub(super) fn tell_trouble(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.trouble.retain(|_, seen| now.since(*seen) < AWAY);
        for reason in trouble(&self.facts) {
            let told = self.trouble.insert(reason.text.clone(), now);
            if told.is_none() {
                effects.push(Effect::Log(reason));
            }
        }
    }
}
