//! Steps: which one is run, and what its end means.

use std::time::Duration;

use super::decide::{Decision, Step, decide};
use super::facts::{Health, Process};
use super::sync::SyncTracker;
use super::{Effect, Keeper, Outcome};
use crate::reason::Reason;
use crate::time::Instant;

/// A failed step is tried again after this, or after sleepInterval when that is longer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Keeper {
    pub(super) fn postmaster_gone(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.facts.process.is_running() {
            return;
        }
        let stopping = matches!(self.running, Some(Step::Stop { .. } | Step::KillAll));
        if !stopping {
            effects.push(Effect::Log(Reason::warn(
                "postmaster-gone",
                "the postmaster ended",
            )));
        }
        if matches!(self.facts.health, Health::Unknown | Health::Starting(_)) {
            self.facts.starts_failed = self.facts.starts_failed.saturating_add(1);
        }
        self.instance_ended(now);
        // I8: whatever comes next is decided from a document read after this moment.
        self.read(effects);
    }

    fn instance_ended(&mut self, now: Instant) {
        self.facts.process = Process::Leftovers;
        self.facts.health = Health::Unknown;
        self.facts.writable_until = now;
        self.facts.applied = None;
        self.outdated = false;
        self.sync = SyncTracker::new(false);
        self.round_closed = false;
    }

    pub(super) fn step_ended(&mut self, now: Instant, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(step) = self.running.take() else {
            return;
        };
        self.round_closed = false;
        match outcome {
            Outcome::Done(disk) => {
                self.facts.error = None;
                self.facts.disk = disk;
                self.step_done(now, step);
            }
            Outcome::Started(disk) => {
                self.facts.error = None;
                self.facts.disk = disk;
                self.facts.process = Process::Started;
                self.facts.health = Health::Unknown;
                self.facts.released_at = None;
                self.sync = SyncTracker::new(false);
            }
            Outcome::Failed(error, disk) => {
                self.facts.disk = disk;
                let text = step.failure_text();
                let reason = Reason::error("step-failed", text).with("error", &error);
                effects.push(Effect::Log(reason));
                if matches!(step, Step::Start { .. }) {
                    self.facts.starts_failed = self.facts.starts_failed.saturating_add(1);
                    self.facts.process = Process::Leftovers;
                }
                self.facts.error = Some(format!("{text}: {error}"));
                self.retry_at = Some(now.after(RETRY_PAUSE));
            }
        }
    }

    fn step_done(&mut self, now: Instant, step: Step) {
        match step {
            Step::Configure(wanted) => {
                self.facts.applied = Some(*wanted);
                self.instance_changed();
            }
            Step::Slots { .. } | Step::Promote => self.instance_changed(),
            Step::KillAll => self.facts.process = Process::None,
            Step::Stop { .. } => {
                self.instance_ended(now);
                self.read_again = true;
            }
            Step::Release { revision } => self.facts.released_at = Some(revision),
            Step::SetUpRoles => self.facts.parameters_known = true,
            Step::Stir => self.sync.stirred(),
            Step::SaveState(_)
            | Step::Initialize { .. }
            | Step::Copy { .. }
            | Step::Swap { .. }
            | Step::Discard
            | Step::Claim { .. }
            | Step::Start { .. } => {}
        }
    }

    fn instance_changed(&mut self) {
        self.outdated = true;
        self.early_look = self.observing;
    }

    /// Decides and begins the next step, when none is running.
    pub(super) fn proceed(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.running.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        // Decided from how the instance was before the step, the step would be taken again.
        if self.outdated && self.facts.process.is_running() {
            return;
        }
        let Some(document) = &self.document else {
            return;
        };
        let Decision { step, reasons } = decide(&self.settings, &self.facts, document, &self.sync);
        self.say(reasons, effects);
        match step {
            Some(Step::Release { revision }) => {
                self.facts.released_at = Some(revision);
            }
            Some(step) => {
                self.retry_at = None;
                self.running = Some(step.clone());
                effects.push(Effect::Run(Box::new(step)));
            }
            None => self.close_round(effects),
        }
    }

    /// What follows every round that found nothing to change (contract, section 2).
    fn close_round(&mut self, effects: &mut Vec<Effect>) {
        if self.round_closed || !matches!(self.facts.health, Health::Running(_)) {
            return;
        }
        self.round_closed = true;
        let Some(db) = self
            .document
            .as_ref()
            .and_then(|d| d.data.db_of(&self.settings.uid))
        else {
            return;
        };
        let role = db
            .spec
            .role
            .as_ref()
            .map_or("", |role| role.as_str())
            .to_owned();
        for text in [
            format!("our db requested role is {role}"),
            format!("already {role}"),
            "postgres parameters not changed".to_owned(),
        ] {
            effects.push(Effect::Log(Reason::info("round", text)));
        }
    }

    /// Logs the reasons that were not there at the last decision.
    fn say(&mut self, reasons: Vec<Reason>, effects: &mut Vec<Effect>) {
        let key = |reason: &Reason| (reason.code.clone(), reason.text.clone());
        let now: Vec<_> = reasons.iter().map(key).collect();
        let fresh = reasons
            .into_iter()
            .filter(|reason| !self.said.contains(&key(reason)));
        effects.extend(fresh.map(Effect::Log));
        self.said = now;
    }
}
