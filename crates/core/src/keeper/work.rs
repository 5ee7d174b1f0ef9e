//! Steps: which one is run, and what its end means.

use std::time::Duration;

use super::decide::{Decision, Step, decide};
use super::facts::{Health, Process};
use super::source::Source;
use super::sync::SyncTracker;
use super::{Effect, Keeper, Outcome};
use crate::model::Role;
use crate::reason::Reason;
use crate::time::Instant;

/// A failed step is tried again after this, and after twice as long each time, up to sleepInterval.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Doublings of that pause.
const MOST_DOUBLINGS: u32 = 10;

impl Keeper {
    pub(super) fn postmaster_gone(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.facts.process.is_running() {
            return;
        }
        let stopping = matches!(self.running, Some(Step::Stop { .. } | Step::KillAll));
        let answered = !matches!(self.facts.health, Health::Unknown | Health::Starting(_));
        if !stopping && answered {
            let text = "the postmaster ended";
            effects.push(Effect::Log(Reason::warn("postmaster-gone", text)));
        } else if !stopping {
            let why = "the postmaster ended before it accepted connections: its own log says why";
            self.start_failed(now, why, effects);
        }
        self.instance_ended(now);
        // What failed over a connection has nothing to wait for any more.
        self.retry_at = None;
        // I8: whatever comes next is decided from a document read after this moment.
        self.read(effects);
    }

    /// The instance runs and will never accept connections: its data are as those that no instance
    /// starts on.
    pub(super) fn never_starts(&mut self, why: &str) {
        let most = super::decide::MOST_FAILED_STARTS;
        self.facts.starts_failed = self.facts.starts_failed.max(most);
        self.facts.error = Some(why.to_owned());
    }

    /// Nothing writable is left, or what is left is about to be ended.
    fn instance_ended(&mut self, now: Instant) {
        self.facts.process = Process::Leftovers;
        self.facts.health = Health::Unknown;
        self.facts.is_health_fresh = true;
        self.facts.writable_until = now;
        self.facts.applied = None;
        // Somebody may have set a password since the last look: rules that do not take it as it is stored
        // would shut the keeper out of the next instance, and then nobody looks again.
        self.facts.md5_verifiers = None;
        self.promote_at = None;
        self.outdated_look = self.observing;
        self.sync = SyncTracker::new(false);
        self.round_closed = false;
    }

    fn start_failed(&mut self, now: Instant, error: &str, effects: &mut Vec<Effect>) {
        let text = "failed to start postgres";
        let reason = Reason::error("start-failed", text).with("error", error);
        effects.push(Effect::Log(reason));
        self.facts.error = Some(format!("{text}: {error}"));
        self.start_at = Some(now.after(self.pause(self.facts.starts_failed)));
        self.facts.starts_failed = self.facts.starts_failed.saturating_add(1);
    }

    /// The instance answers: its data can be used.
    pub(super) fn answered(&mut self) {
        if self.facts.starts_failed > 0 {
            self.facts.starts_failed = 0;
            self.facts.error = None;
        }
        self.facts.made_anew = 0;
    }

    /// How long to wait after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let longest = self.spec().sleep_interval.max(RETRY_PAUSE);
        let factor = 2_u32.saturating_pow(failures.min(MOST_DOUBLINGS));
        RETRY_PAUSE.saturating_mul(factor).min(longest)
    }

    pub(super) fn step_ended(&mut self, now: Instant, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(step) = self.running.take() else {
            return;
        };
        self.cancelling = false;
        self.round_closed = false;
        match outcome {
            Outcome::Cancelled(disk) => self.take_disk(disk),
            Outcome::Done(disk) => {
                self.failures = 0;
                // What a failed start left to say is said until an instance answers.
                if self.facts.starts_failed == 0 {
                    self.facts.error = None;
                }
                self.take_disk(disk);
                self.step_done(now, step);
            }
            Outcome::Started(disk) => {
                self.failures = 0;
                self.take_disk(disk);
                self.facts.process = Process::Started;
                self.awaiting_since = None;
                self.facts.health = Health::Unknown;
                self.facts.released_at = None;
                self.sync = SyncTracker::new(false);
            }
            Outcome::Failed(error, disk) => {
                self.take_disk(disk);
                self.step_failed(now, &step, &error, effects);
            }
        }
    }

    fn step_failed(&mut self, now: Instant, step: &Step, error: &str, effects: &mut Vec<Effect>) {
        if matches!(step, Step::Start { .. }) {
            self.facts.process = Process::Leftovers;
            self.facts.released_at = None;
            self.start_failed(now, error, effects);
            return;
        }
        if matches!(step, Step::Configure(_) | Step::TakeOver { .. }) {
            // Nobody knows how much of it was written.
            self.facts.applied = None;
        }
        if let Step::Rewind { db, .. }
        | Step::FromOutside {
            db, rewind: true, ..
        } = step
        {
            let before = self.facts.rewinds_failed.take();
            let before = before.filter(|(tried, _)| tried == db);
            let times = before.map_or(0, |(_, times)| times).saturating_add(1);
            self.facts.rewinds_failed = Some((db.clone(), times));
        }
        let text = step.failure_text();
        let reason = Reason::error("step-failed", text).with("error", error);
        effects.push(Effect::Log(reason));
        self.facts.error = Some(format!("{text}: {error}"));
        self.retry_at = Some(now.after(self.pause(self.failures)));
        self.failures = self.failures.saturating_add(1);
    }

    fn step_done(&mut self, now: Instant, step: Step) {
        match step {
            // The instance it was written for may have ended meanwhile, and with it what decides
            // whether the next one is to start as a standby.
            Step::Configure(_) if self.facts.process == Process::Leftovers => {}
            Step::Configure(_) if self.passwords_changed => self.look_again(),
            Step::Configure(wanted) => {
                self.mind_source(super::decide::conninfo(&wanted));
                self.facts.applied = Some(*wanted);
                self.look_again();
            }
            Step::KillAll => {
                // I8: an orphaned backend could commit until now. Whatever comes next is decided
                // from a document read after this moment.
                self.instance_ended(now);
                self.facts.process = Process::None;
                self.read_again = true;
            }
            Step::Checkpoint => {
                self.facts.checkpoint_of = self.facts.health.postmaster().map(str::to_owned);
            }
            Step::Stop { .. } => self.instance_ended(now),
            Step::Release { revision } => self.facts.released_at = Some(revision),
            Step::SetUpRoles => {
                self.facts.roles_set_up = true;
                self.look_again();
            }
            Step::Stir => {
                self.sync.stirred();
                self.look_again();
            }
            Step::Promote { .. } => {
                // It takes a while, and is seen by looking.
                self.promote_at = Some(now.after(RETRY_PAUSE));
                self.look_again();
            }
            Step::Slots { .. } => self.look_again(),
            // Other data take this place: nothing that was done to the old ones was done to them.
            Step::Swap { .. } => {
                self.facts.applied = None;
                self.facts.has_parted = false;
                self.facts.copied_from = None;
                self.source = Source::default();
                if self.facts.starts_failed > 0 {
                    self.facts.starts_failed = 0;
                    self.facts.made_anew = self.facts.made_anew.saturating_add(1);
                    self.start_at = None;
                }
            }
            Step::FromOutside { conninfo, .. } => self.facts.copied_from = Some(conninfo),
            Step::Initialize { .. } | Step::Restore { .. } => self.facts.roles_set_up = false,
            // Their configuration stands aside as the base of ours.
            Step::TakeOver { .. } => {
                self.facts.roles_set_up = false;
                self.facts.applied = None;
            }
            Step::SaveState(_)
            | Step::Copy { .. }
            | Step::Rewind { .. }
            | Step::Discard
            | Step::Claim { .. }
            | Step::Start { .. } => {}
        }
    }

    /// What is known of the instance is from before it was changed.
    fn look_again(&mut self) {
        if self.facts.process.is_running() {
            self.facts.is_health_fresh = false;
            self.outdated_look = self.observing;
            self.last_observation = None;
            self.awaiting_since = None;
        }
    }

    /// Decides and begins the next step, when none is running; gives one up that is not wanted.
    pub(super) fn proceed(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.note_pending(now);
        self.note_absence(now);
        let Some(document) = &self.document else {
            return;
        };
        let decision = decide(&self.settings, &self.facts, document, &self.sync);
        if let Some(running) = &self.running {
            if !self.cancelling && is_overtaken(running, &decision) {
                self.cancelling = true;
                if makes_data(running) {
                    let text =
                        "giving the copy up: it is not what the cluster data ask for any more";
                    effects.push(Effect::Log(Reason::info("copy-overtaken", text)));
                }
                effects.push(Effect::Cancel);
            }
            return;
        }
        let Decision {
            step,
            reasons,
            settled,
        } = decision;
        if settled || !reasons.is_empty() {
            self.say(reasons, effects);
        }
        match step {
            Some(Step::Release { revision }) => self.facts.released_at = Some(revision),
            Some(Step::Start { .. }) if self.start_at.is_some_and(|at| now < at) => {}
            Some(Step::Promote { .. }) if self.promote_at.is_some_and(|at| now < at) => {}
            Some(step) => {
                self.retry_at = None;
                self.passwords_changed = false;
                self.running = Some(step.clone());
                effects.push(Effect::Run(Box::new(step)));
            }
            None if settled => self.close_round(effects),
            None => {}
        }
    }

    /// Leaves out the parameters whose restart would change nothing.
    pub(super) fn keep_worthwhile_restarts(&self, health: &mut Health) {
        if let Health::Running(seen) | Health::Saturated(seen) = health {
            let (in_recovery, applied) = (seen.in_recovery, self.facts.applied.as_ref());
            seen.pending_restart
                .retain(|name| super::decide::is_worth_a_restart(name, in_recovery, applied));
        }
    }

    /// Notes since when parameters wait for a restart. A look right after a reload may miss it: only when
    /// everybody has looked once more does anybody act on what others report of themselves.
    fn note_pending(&mut self, now: Instant) {
        let is_pending = matches!(&self.facts.health, Health::Running(observation)
            if !observation.pending_restart.is_empty());
        let since = self.pending_since.unwrap_or(now);
        self.pending_since = is_pending.then_some(since);
        self.facts.may_restart = is_pending && now.since(since) >= self.spec().sleep_interval * 2;
    }

    /// What follows every round that found nothing to change (contract, section 2).
    fn close_round(&mut self, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.round_closed, true) {
            return;
        }
        let document = self.document.as_ref();
        let db = document.and_then(|document| document.data.db_of(&self.settings.uid));
        let role = db
            .and_then(|db| db.spec.role.as_ref())
            .map_or("", Role::as_str);
        for text in [
            format!("our db requested role is {role}"),
            format!("already {role}"),
            "postgres parameters not changed".to_owned(),
        ] {
            effects.push(Effect::Log(Reason::info("round", text)));
        }
    }

    /// Logs the reasons that were not there at the last decision that had any.
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

/// Whether a step is not what the newest document asks for, and need not be waited for: it may take hours,
/// or the instance is to be ended meanwhile. All others end soon by themselves.
fn is_overtaken(running: &Step, decision: &Decision) -> bool {
    if *running == Step::Checkpoint {
        let is_wanted = decision.step.as_ref() == Some(running);
        return !is_wanted && (decision.step.is_some() || decision.settled);
    }
    if matches!(running, Step::Promote { .. } | Step::Discard) {
        return matches!(decision.step, Some(Step::Stop { .. } | Step::KillAll));
    }
    match &decision.step {
        _ if !makes_data(running) => false,
        Some(Step::Restore { .. } | Step::FromOutside { .. }) => {
            decision.step.as_ref() != Some(running)
        }
        Some(step) => running.makes_from().is_none() || step.makes_from() != running.makes_from(),
        // The source may be silent for a moment; a copy that stands still ends by itself.
        None => decision.reasons.iter().any(|reason| reason.code == "no-db"),
    }
}

/// Whether a step copies, restores or rewinds.
fn makes_data(step: &Step) -> bool {
    matches!(step, Step::Restore { .. } | Step::FromOutside { .. }) || step.makes_from().is_some()
}
