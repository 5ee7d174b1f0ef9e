//! Processes and their hosts: who runs, who stands still, by which clock.

use std::time::Duration;

use stolon_core::proxy::Event as ProxyEvent;
use stolon_core::time::Instant;

use super::client::Entry;
use super::clock::Clock;
use super::event::{Actor, What};
use super::{Time, World};
use crate::chance::Chance;

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) clock: Clock,
    pub(super) paused_until: Time,
}

impl Host {
    pub(super) fn new(seed: u64, number: usize) -> Self {
        Self {
            clock: Clock::new(Chance::of(seed, "clock", number as u64)),
            paused_until: Time::ZERO,
        }
    }
}

/// A process.
#[derive(Debug, Default, Clone)]
pub(crate) struct Process {
    /// Raised whenever it begins or ends.
    pub(crate) life: u32,
    pub(crate) up: bool,
    pub(super) paused_until: Time,
    /// It is killed after so many effects more.
    pub(super) crash_after: Option<u32>,
    /// The wake-up that counts; earlier ones were replaced.
    wake: u64,
}

impl World {
    pub(super) fn addressee(&self, what: &What) -> Option<Actor> {
        match what {
            What::Wake(actor, _, _) => Some(*actor),
            What::Keeper(k, _, _) | What::Act(k, _) => Some(Actor::Keeper(*k)),
            What::Sentinel(s, _, _) | What::Renew(s, _) | What::LeaseEnds(s, _) => {
                Some(Actor::Sentinel(*s))
            }
            What::Proxy(p, _, _)
            | What::FromClient(p, _, _, _)
            | What::FromServer(p, _, _, _)
            | What::SetRoute(p, _, _)
            | What::SetReadRoute(p, _, _) => Some(Actor::Proxy(*p)),
            What::Answer(call, _) | What::CallTimeout(call) => self.caller(*call),
            What::Postgres(k, _, _) => Some(Actor::Postgres(*k)),
            What::AtStore(_, _)
            | What::Start(_)
            | What::ToClient(_, _, _)
            | What::ClientTurn(_, _)
            | What::ClientTimeout(_, _)
            | What::OutsideWrites
            | What::Fault(_)
            | What::FaultEnds(_) => None,
        }
    }

    /// When somebody who stands still goes on; none: it goes.
    pub(crate) fn resumes_at(&self, actor: Actor) -> Option<Time> {
        let host = self.hosts[self.host_of(actor)].paused_until;
        let own = match actor {
            Actor::Postgres(k) => self.instances[k].hung_until,
            Actor::Store | Actor::Client(_) => Time::ZERO,
            Actor::Keeper(_) | Actor::Sentinel(_) | Actor::Proxy(_) => {
                self.process(actor).paused_until
            }
        };
        Some(host.max(own)).filter(|until| *until > self.now)
    }

    /// The host that somebody lives on.
    pub(crate) fn host_of(&self, actor: Actor) -> usize {
        let shape = &self.plan.shape;
        let apart = |before: usize, number: usize| 1 + shape.keepers + before + number;
        match actor {
            Actor::Store => 0,
            Actor::Postgres(k) if k >= shape.keepers => self.host_of_outside(k),
            Actor::Keeper(k) | Actor::Postgres(k) => 1 + k,
            Actor::Sentinel(i) | Actor::Proxy(i) if shape.together => 1 + i % shape.keepers,
            Actor::Sentinel(s) => apart(0, s),
            Actor::Proxy(p) => apart(shape.sentinels, p),
            Actor::Client(c) if self.clients[c].entry == Entry::Reading => {
                apart(shape.sentinels + shape.proxies + shape.outside, c)
            }
            Actor::Client(c) => apart(shape.sentinels + shape.proxies, c),
        }
    }

    pub(crate) fn clock_of(&self, actor: Actor) -> &Clock {
        &self.hosts[self.host_of(actor)].clock
    }

    /// The boot clock of somebody's host.
    pub(crate) fn local(&self, actor: Actor) -> Instant {
        self.clock_of(actor).local(self.now)
    }

    pub(crate) fn process(&self, actor: Actor) -> &Process {
        match actor {
            Actor::Keeper(k) => &self.keepers[k].process,
            Actor::Sentinel(s) => &self.sentinels[s].process,
            Actor::Proxy(p) => &self.proxies[p].process,
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {
                panic!("{actor} is no process of this program")
            }
        }
    }

    pub(super) fn process_mut(&mut self, actor: Actor) -> &mut Process {
        match actor {
            Actor::Keeper(k) => &mut self.keepers[k].process,
            Actor::Sentinel(s) => &mut self.sentinels[s].process,
            Actor::Proxy(p) => &mut self.proxies[p].process,
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {
                panic!("{actor} is no process of this program")
            }
        }
    }

    pub(super) fn lives(&self, actor: Actor, life: u32) -> bool {
        let process = self.process(actor);
        process.up && process.life == life
    }

    pub(super) fn start(&mut self, actor: Actor) {
        let process = self.process_mut(actor);
        if process.up {
            return;
        }
        process.up = true;
        process.life += 1;
        process.crash_after = None;
        self.say(|| format!("{actor} starts"));
        match actor {
            Actor::Keeper(k) if self.keepers[k].retired => self.process_mut(actor).up = false,
            Actor::Keeper(k) => self.start_keeper(k),
            Actor::Sentinel(s) => self.start_sentinel(s),
            Actor::Proxy(p) => self.start_proxy(p),
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {}
        }
    }

    /// Counts an effect that was carried out; true: the process dies here.
    pub(crate) fn may_crash(&mut self, actor: Actor) -> bool {
        let process = self.process_mut(actor);
        let Some(left) = process.crash_after.as_mut() else {
            return false;
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return false;
        }
        process.crash_after = None;
        self.note("killed-between-effects");
        self.kill(actor);
        true
    }

    /// Wakes a process at a moment of its clock; replaces what it asked for before.
    pub(crate) fn wake_at(&mut self, actor: Actor, at: Instant) {
        let at = self
            .clock_of(actor)
            .world(at)
            .max(self.now + Duration::from_micros(1));
        let process = self.process_mut(actor);
        process.wake += 1;
        let what = What::Wake(actor, process.life, process.wake);
        self.queue.put(at, what);
    }

    pub(super) fn wake(&mut self, actor: Actor, life: u32, serial: u64) {
        if !self.lives(actor, life) || self.process(actor).wake != serial {
            return;
        }
        match actor {
            Actor::Keeper(k) => self.keeper_hears(k, stolon_core::keeper::Event::Wake),
            Actor::Sentinel(s) => self.sentinel_hears(s, stolon_core::sentinel::Event::Wake),
            Actor::Proxy(p) => self.proxy_hears(p, ProxyEvent::Wake),
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {}
        }
    }
}
