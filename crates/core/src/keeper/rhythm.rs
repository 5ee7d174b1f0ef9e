//! When a keeper looks, reads and publishes.

use std::time::Duration;

use super::decide::restart::needs_peers;
use super::facts::{Health, Observation};
use super::{Effect, Keeper, report};
use crate::model::db::PLACEHOLDER_STANDBY;
use crate::model::{ClusterData, DbSpec, DbUid};
use crate::time::Instant;

/// Time between two looks while something is awaited.
const AWAIT_PAUSE: Duration = Duration::from_millis(50);
/// The same while the instance starts: each look is a line in its log.
const START_PAUSE: Duration = Duration::from_millis(150);
/// What was awaited for long is looked for less often: after this part of the time that it was, and that
/// often at the least.
const AWAITED_PART: u32 = 20;
const LONGEST_AWAIT: Duration = Duration::from_secs(1);
/// An answer later than this, or than sleepInterval when that is longer, is missed.
const LATE_LOOK: Duration = Duration::from_secs(1);
/// Publications that are due to a change follow one another no faster than this.
const PUBLICATION_PAUSE: Duration = Duration::from_millis(100);
/// What operators ask for, and others do, is looked at so often while it concerns this keeper.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// A read that failed is tried again after this, or after sleepInterval when that is shorter.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Whether commits wait for a standby that has not come yet: the sooner it is seen and told, the
/// sooner they go on.
fn awaits_a_standby(spec: &DbSpec, observation: &Observation) -> bool {
    let waits = spec
        .external_synchronous_standbys
        .iter()
        .any(|name| name == PLACEHOLDER_STANDBY);
    let streams = |follower: &DbUid| {
        let name = follower.replication_name();
        let mut peers = observation.peers.iter();
        peers.any(|peer| peer.name == name && peer.state == "streaming")
    };
    waits && !spec.followers.is_empty() && !spec.followers.iter().any(streams)
}

/// Whether a look shows something else than the one before it, of what may be awaited.
fn has_moved(before: &Health, now: &Health) -> bool {
    let (Health::Running(before), Health::Running(now)) = (before, now) else {
        return std::mem::discriminant(before) != std::mem::discriminant(now);
    };
    let peers = |seen: &Observation| -> Vec<(String, String)> {
        let peers = seen.peers.iter();
        peers.map(|p| (p.name.clone(), p.state.clone())).collect()
    };
    before.postmaster != now.postmaster
        || before.in_recovery != now.in_recovery
        || before.timeline != now.timeline
        || before.synchronous_standby_names != now.synchronous_standby_names
        || before.streams_from != now.streams_from
        || peers(before) != peers(now)
}

impl Keeper {
    /// Takes in what the instance is now. Where something moved, what is awaited may be near.
    pub(super) fn take_state(&mut self, health: Health) {
        let health = match (health, &self.facts.health) {
            // It has not answered since its start: it is not listening yet.
            (Health::Silent(why), Health::Unknown | Health::Starting(_)) => Health::Starting(why),
            (health, _) => health,
        };
        if has_moved(&self.facts.health, &health) {
            self.awaiting_since = None;
        }
        self.facts.health = health;
    }

    /// What is awaited may be near also where the newest document has other followers, or one of them
    /// comes back.
    pub(super) fn note_followers(&mut self, newest: &ClusterData) {
        let followers = |data: &ClusterData| -> Vec<(DbUid, bool)> {
            let db = data.db_of(&self.settings.uid);
            let followers = db.into_iter().flat_map(|db| db.spec.followers.iter());
            let is_well = |uid: &DbUid| data.dbs.get(uid).is_some_and(|db| db.status.healthy);
            followers.map(|uid| (uid.clone(), is_well(uid))).collect()
        };
        let before = self.document.as_ref().map(|known| followers(&known.data));
        if before != Some(followers(newest)) {
            self.awaiting_since = None;
        }
    }

    /// Time between two looks.
    fn look_pause(&mut self, now: Instant, interval: Duration) -> Duration {
        if !self.is_awaiting() {
            self.awaiting_since = None;
            return interval;
        }
        let since = *self.awaiting_since.get_or_insert(now);
        let least = if matches!(self.facts.health, Health::Starting(_)) {
            START_PAUSE
        } else {
            AWAIT_PAUSE
        };
        let longest = interval.min(LONGEST_AWAIT);
        let share = now.since(since).checked_div(AWAITED_PART);
        share.unwrap_or_default().min(longest).max(least)
    }

    pub(super) fn publish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(document) = self.document.as_ref().filter(|_| !self.publishing) else {
            return;
        };
        let Some(cluster) = document.data.cluster.as_ref() else {
            return;
        };
        let age = self.last_publication.map(|last| now.since(last));
        let soonest = self.beat().min(PUBLICATION_PAUSE);
        if age.is_some_and(|age| age < soonest) {
            return;
        }
        let mut info = report::report(
            &self.settings,
            &self.facts,
            &self.sync,
            document,
            self.running.as_ref(),
        );
        let looked_ago = self.looked_at.map(|at| now.since(at));
        report::tell_age(&mut info, looked_ago);
        let changed = self
            .published
            .as_ref()
            .is_none_or(|p| report::differs(p, &info));
        let due = age.is_none_or(|age| age >= self.beat() || (changed && age >= PUBLICATION_PAUSE));
        if !due || cluster.uid.is_empty() {
            return;
        }
        self.publishing = true;
        self.last_publication = Some(now);
        self.published = Some(info.clone());
        let ttl = Duration::from_secs(20).max(self.spec().sleep_interval);
        effects.push(Effect::Publish(Box::new(info), ttl));
    }

    /// The longest time between two publications: a little less than the sleepInterval within which
    /// the sentinel expects one.
    fn beat(&self) -> Duration {
        self.spec().sleep_interval.mul_f64(0.9)
    }

    /// Asks for the next looks, and to be woken for whatever time brings.
    pub(super) fn schedule(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let interval = self.spec().sleep_interval;
        let since = |last: Option<Instant>| last.map_or(Duration::MAX, |last| now.since(last));
        let read_pause = if self.read_failed {
            interval.min(READ_PAUSE)
        } else {
            interval
        };
        if !self.reading && since(self.last_read) >= read_pause {
            self.round_closed = false;
            self.read(effects);
        }
        self.ask(now, interval, effects);
        let pause = self.look_pause(now, interval);
        let observable = self.facts.process.is_running();
        if observable && !self.observing && since(self.last_observation) >= pause {
            self.observing = true;
            self.look_began = Some(now);
            effects.push(Effect::Observe);
        }
        let after = |last: Option<Instant>, pause| last.map(|last| last.after(pause));
        let times = [
            after(self.last_read, read_pause),
            after(
                self.part.last_asked.filter(|_| self.takes_part()),
                ASK_PAUSE,
            ),
            after(self.last_observation.filter(|_| observable), pause),
            after(self.last_publication, PUBLICATION_PAUSE),
            after(self.last_publication, self.beat()),
            self.part.note_again_at,
            after(self.pending_since, interval * 2),
            self.retry_at,
            self.start_at,
            self.promote_at,
            self.late_at(),
        ];
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        let longest = now.after(interval);
        let wake = next.map_or(longest, |next| next.min(longest));
        effects.push(Effect::WakeAt(wake));
    }

    /// Looks at what operators ask for: before anything is decided, with every sleepInterval, and more
    /// often while this keeper has a part in it.
    fn ask(&mut self, now: Instant, interval: Duration, effects: &mut Vec<Effect>) {
        let pause = if self.takes_part() {
            interval.min(ASK_PAUSE)
        } else {
            interval
        };
        let is_due = self
            .part
            .last_asked
            .is_none_or(|last| now.since(last) >= pause);
        if self.part.asking || !is_due || self.document.is_none() {
            return;
        }
        self.part.asking = true;
        let peers = self.waits_for_peers();
        effects.push(Effect::Ask { peers });
    }

    fn waits_for_peers(&self) -> bool {
        match &self.facts.health {
            Health::Running(observation) => {
                needs_peers(observation, self.spec().automatic_pg_restart)
            }
            Health::Unknown | Health::Saturated(_) | Health::Starting(_) | Health::Silent(_) => {
                false
            }
        }
    }

    /// Whether what others do, or a request, is waited for here.
    pub(super) fn takes_part(&self) -> bool {
        let asked = self.facts.asked.as_ref();
        let is_concerned = asked.is_some_and(|asked| {
            let mut live = asked
                .requests
                .iter()
                .filter(|request| request.is_live(asked.wall));
            live.any(|request| request.keepers.contains(&self.settings.uid))
        });
        is_concerned || self.waits_for_peers()
    }

    /// When the look on its way counts as unanswered for the time being. A busy host makes answers
    /// late: they are waited for longer than that, and each brings the instance back, so that only one
    /// that does not answer at all is silent for all of failInterval.
    fn late_at(&self) -> Option<Instant> {
        let began = self.look_began.filter(|_| self.observing)?;
        let spec = self.spec();
        let patience = match &self.running {
            // It may have the connection, and then the look waits for it.
            Some(step) if step.uses_the_session() => {
                spec.convergence_timeout.max(spec.sleep_interval)
            }
            Some(_) | None => spec.sleep_interval,
        };
        Some(began.after(patience.max(LATE_LOOK)))
    }

    /// Takes a look that is late for an instance that does not answer, until it does.
    pub(super) fn note_late_look(&mut self, now: Instant) {
        let is_late = self.late_at().is_some_and(|at| at <= now);
        if is_late && matches!(self.facts.health, Health::Running(_)) {
            let waited = self
                .look_began
                .map_or(Duration::ZERO, |began| now.since(began));
            let text = format!("no answer for {:.1}s", waited.as_secs_f64());
            self.facts.health = Health::Silent(text);
        }
    }

    /// Whether something is on its way that only looking again will show.
    fn is_awaiting(&self) -> bool {
        let Some(db) = self
            .document
            .as_ref()
            .and_then(|d| d.data.db_of(&self.settings.uid))
        else {
            return false;
        };
        let converged = self
            .facts
            .disk
            .state
            .as_ref()
            .is_some_and(|state| state.uid == db.uid && state.generation == db.generation);
        let unsettled = match &self.facts.health {
            Health::Running(observation) => !converged || awaits_a_standby(&db.spec, observation),
            Health::Unknown | Health::Starting(_) => true,
            Health::Saturated(_) | Health::Silent(_) => false,
        };
        unsettled || self.sync.is_awaiting(&db.spec.synchronous_standbys)
    }
}
