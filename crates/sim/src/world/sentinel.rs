//! Sentinels: core's state machine, with the shell that looks, writes and keeps a lease.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::invariants::{Step, check};
use stolon_core::model::{ClusterData, SentinelUid};
use stolon_core::sentinel::{Effect, Event, Look, Sentinel, Settings};
use stolon_core::time::Instant;

use super::calls::{Looking, Purpose};
use super::event::{Actor, What};
use super::store::{Decided, Operation};
use super::{Process, Time, World};
use crate::chance::Chance;

/// A sentinel.
#[derive(Debug)]
pub(crate) struct SentinelNode {
    pub(crate) process: Process,
    /// Whether it is one of the Go program.
    pub(crate) is_go: bool,
    core: Option<Sentinel>,
    pub(crate) chance: Chance,
    starts: u32,
    token: String,
    /// Until when it leads, by its own clock.
    until: Option<Instant>,
    /// Until when it believes that it leads, whatever the store says.
    pub(super) deluded_until: Time,
    /// The revision that it looked at last.
    looked_at: Option<u64>,
    pub(crate) looking: Option<Looking>,
    looks: u64,
    /// The document that it looked at last.
    seen: Option<Arc<ClusterData>>,
}

impl SentinelNode {
    /// A sentinel that was not started.
    pub(crate) fn new(seed: u64, number: usize, is_go: bool) -> Self {
        Self {
            process: Process::default(),
            is_go,
            core: None,
            chance: Chance::of(seed, "sentinel", number as u64),
            starts: 0,
            token: String::new(),
            until: None,
            deluded_until: Time::ZERO,
            looked_at: None,
            looking: None,
            looks: 0,
            seen: None,
        }
    }

    /// Whether it believes that it leads.
    pub(crate) fn leading(&self) -> bool {
        self.process.up && self.core.as_ref().is_some_and(Sentinel::leading)
    }
}

impl World {
    pub(crate) fn start_sentinel(&mut self, s: usize) {
        let most_failovers = self.most_failovers();
        let node = &mut self.sentinels[s];
        node.starts += 1;
        node.token = format!("s{s}x{}", node.starts);
        node.until = None;
        node.looking = None;
        node.seen = None;
        node.core = Some(Sentinel::new(Settings {
            uid: SentinelUid::from(node.token.as_str()),
            version: "0".to_owned(),
            initial_spec: Some(self.plan.shape.spec.clone()),
            most_failovers,
        }));
        let life = node.process.life;
        let pause = node.chance.millis(1, 300);
        self.queue.put(self.now + pause, What::Renew(s, life));
        self.sentinel_hears(s, Event::Wake);
    }

    fn holds_lease(&self, s: usize) -> bool {
        let now = self.local(Actor::Sentinel(s));
        let node = &self.sentinels[s];
        self.now < node.deluded_until || node.until.is_some_and(|until| now < until)
    }

    /// Hands an event to the state machine and carries out what it wants; leadership may end by time
    /// alone, and is looked at on every turn.
    pub(crate) fn sentinel_hears(&mut self, s: usize, event: Event) {
        let mut event = Some(event);
        while let Some(next) = event.take() {
            let now = self.local(Actor::Sentinel(s));
            let Some(core) = self.sentinels[s].core.as_mut() else {
                return;
            };
            let effects = core.handle(now, next);
            for effect in effects {
                self.sentinel_effect(s, effect);
                if self.may_crash(Actor::Sentinel(s)) {
                    return;
                }
            }
            let holds = self.holds_lease(s);
            if self.sentinels[s]
                .core
                .as_ref()
                .is_some_and(|core| core.leading() != holds)
            {
                event = Some(Event::Leading(holds));
                if holds {
                    self.note("leadership");
                }
            }
        }
    }

    fn sentinel_effect(&mut self, s: usize, effect: Effect) {
        let actor = Actor::Sentinel(s);
        match effect {
            Effect::Look => {
                let sent_at = self.local(actor);
                let node = &mut self.sentinels[s];
                node.looks += 1;
                let serial = node.looks;
                node.looking = Some(Looking {
                    serial,
                    sent_at,
                    ..Looking::default()
                });
                for operation in [Operation::Get, Operation::Keepers, Operation::Proxies] {
                    self.call(actor, Purpose::Look(serial), operation);
                }
            }
            Effect::Write { expected, data } => {
                let data = self.as_sentinel_writes(s, *data);
                let data = self.tamper_with_decision(data);
                self.judge(s, &data);
                let decided = Decided {
                    by: self.sentinels[s].token.clone(),
                    base: self.sentinels[s].looked_at,
                    data: Arc::new(data),
                };
                let swap = Operation::Swap(expected, Arc::new(decided));
                self.call(actor, Purpose::Write, swap);
            }
            Effect::Publish(info, ttl) => {
                let info = self.as_sentinel_publishes(s, info);
                let publish = Operation::PublishSentinel(Arc::new(info), self.now + ttl);
                self.call(actor, Purpose::Publish, publish);
            }
            Effect::Record { .. } => {}
            Effect::Log(reason) => self.take_reason(actor, &reason),
            Effect::WakeAt(at) => self.wake_at(actor, at),
        }
    }

    /// A look is whole.
    pub(crate) fn take_look(&mut self, s: usize, look: Look) {
        self.sentinels[s].looked_at = look.revision;
        self.sentinels[s].seen.clone_from(&look.data);
        self.sentinel_hears(s, Event::Looked(Box::new(look)));
    }

    pub(crate) fn look_failed(&mut self, s: usize) {
        self.sentinel_hears(s, Event::LookFailed);
    }

    /// Holds a decision that is about to be written to the invariants.
    fn judge(&mut self, s: usize, after: &ClusterData) {
        let node = &self.sentinels[s];
        let view = node.core.as_ref().and_then(Sentinel::decided_from);
        // Without a document there is nothing to hold the first one to.
        let Some((before, view)) = node.seen.as_deref().zip(view) else {
            return;
        };
        if node.is_go || !self.judges_documents() {
            return;
        }
        let violations = check(Step {
            before,
            view,
            after,
        });
        for violation in violations {
            self.fail(violation.rule, format!("s{s} decides: {violation}"));
        }
    }

    /// Takes or renews the lease.
    pub(crate) fn renew(&mut self, s: usize) {
        let actor = Actor::Sentinel(s);
        let sent_at = self.local(actor);
        let token = self.sentinels[s].token.clone();
        let hold = Operation::Hold(token, self.plan.shape.lease);
        self.call(actor, Purpose::Lease(sent_at), hold);
    }

    /// What came of it; none: no answer.
    pub(crate) fn lease_answered(&mut self, s: usize, sent_at: Instant, held: Option<bool>) {
        let lease = self.plan.shape.lease;
        let until = match held {
            Some(true) => Some(sent_at.after(lease * 9 / 10)),
            Some(false) => None,
            None => self.sentinels[s].until,
        };
        self.sentinels[s].until = until;
        let life = self.sentinels[s].process.life;
        let pause = if until.is_some() {
            lease / 3
        } else {
            lease / 12
        };
        let pause = self.clock_of(Actor::Sentinel(s)).span(pause);
        self.queue.put(self.now + pause, What::Renew(s, life));
        if let Some(until) = until {
            let at = self.clock_of(Actor::Sentinel(s)).world(until);
            let at = at.max(self.now + Duration::from_micros(1));
            self.queue.put(at, What::LeaseEnds(s, life));
        }
        self.lease_turn(s);
    }

    /// What it believes about its leadership has begun or ended; one that does not run learns nothing.
    pub(crate) fn sentinel_turns(&mut self, s: usize) {
        if self.sentinels[s].process.up {
            let life = self.sentinels[s].process.life;
            self.queue.put(self.now, What::LeaseEnds(s, life));
        }
    }

    /// Looks whether leadership came or went.
    pub(crate) fn lease_turn(&mut self, s: usize) {
        let holds = self.holds_lease(s);
        let leads = self.sentinels[s].leading();
        if holds != leads {
            if holds {
                self.note("leadership");
            }
            self.sentinel_hears(s, Event::Leading(holds));
        }
    }
}
