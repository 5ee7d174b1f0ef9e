//! PostgreSQL, as far as high availability can see it: data at rest, a server that starts, accepts,
//! is promoted, stops and crashes. What was written and not flushed is gone after a crash.

mod commit;
pub(crate) mod data;
mod follow;
mod reload;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use stolon_core::keeper::Event;
use stolon_core::keeper::decide::{Wanted, lets_users_in};

use super::event::{PostgresEvent, What};
use super::{Time, World};
use crate::chance::Chance;
pub(crate) use commit::{Commit, named};
pub(crate) use data::{Data, Ending, Folder, Record};
pub(crate) use stream::{Peer, Receiver};

/// Parameters that come into force by a restart only, with PostgreSQL's defaults.
const NEED_RESTART: &[(&str, u64)] = &[("max_connections", 100), ("max_wal_senders", 10)];

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Whether it accepts connections.
    pub(crate) ready: bool,
    /// Whether it is out of recovery.
    pub(crate) writable: bool,
    /// It is being stopped, and accepts nobody.
    pub(crate) stopping: bool,
    /// The postmaster is gone; its children go on.
    pub(crate) orphaned: bool,
    /// A promotion is under way.
    pub(crate) promoting: bool,
    /// The promotion was ordered by a document that the store has lost since.
    pub(crate) promoted_by_lost_word: bool,
    /// The configuration in force.
    pub(crate) config: Wanted,
    /// `synchronous_standby_names` in force.
    pub(crate) names: String,
    /// What only a restart changes, as it was at the start.
    pub(crate) fixed: BTreeMap<String, u64>,
    /// Commits that wait: for the disk, or for standbys.
    pub(crate) waiting: VecDeque<Commit>,
    /// Who receives its log, by name.
    pub(crate) peers: BTreeMap<String, Peer>,
    /// Whose log it receives.
    pub(crate) receiver: Option<Receiver>,
    /// A write to disk is on its way.
    pub(crate) flushing: bool,
    /// Where the log ended when it was started as a primary, until those it waits for have that (I9).
    pub(crate) restarted_at: Option<u64>,
}

/// An instance and the folders of its keeper.
#[derive(Debug)]
pub(crate) struct Instance {
    /// PGDATA.
    pub(crate) pgdata: Folder,
    /// What lies beside it.
    pub(crate) beside: Folder,
    /// The server, while there is one.
    pub(crate) server: Option<Server>,
    /// Raised whenever a server begins or ends.
    pub(crate) life: u32,
    /// It does nothing until then.
    pub(crate) hung_until: Time,
    /// How often it was made writable, or started so.
    pub(crate) writable_lives: u32,
    /// When it last stopped being writable.
    pub(crate) writable_until: Time,
    pub(crate) chance: Chance,
    /// How much of its log is kept whatever its slots say (`wal_keep_size`).
    pub(crate) wal_kept: u64,
    /// Where it dies as a primary in the middle of sending a record.
    halves: Option<Chance>,
    pub(crate) ailments: Ailments,
}

/// What is wrong with an instance or its disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ailments {
    /// Its next starts die.
    pub(crate) starts_die: u32,
    /// Copies break off.
    pub(crate) copies_fail: u32,
    /// Its next promotions break off half way.
    pub(crate) promotions_die: u32,
    /// There is no room.
    pub(crate) disk_full: u32,
    /// A write to disk takes up to so many milliseconds more.
    pub(crate) slow_disk: u64,
}

pub(crate) fn number(config: &Wanted, name: &str, default: u64) -> u64 {
    let text = config.parameters.get(name);
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn fixed(config: &Wanted) -> BTreeMap<String, u64> {
    let value =
        |(name, default): &(&str, u64)| ((*name).to_owned(), number(config, name, *default));
    NEED_RESTART.iter().map(value).collect()
}

impl Server {
    fn new(config: Wanted, writable: bool) -> Self {
        let names = config.parameters.get("synchronous_standby_names");
        Self {
            ready: false,
            writable,
            stopping: false,
            orphaned: false,
            promoting: false,
            promoted_by_lost_word: false,
            names: names.cloned().unwrap_or_default(),
            fixed: fixed(&config),
            config,
            waiting: VecDeque::new(),
            peers: BTreeMap::new(),
            receiver: None,
            flushing: false,
            restarted_at: None,
        }
    }

    /// Parameters that wait for a restart.
    pub(crate) fn pending_restart(&self) -> Vec<String> {
        let wanted = fixed(&self.config);
        let differ = wanted
            .into_iter()
            .filter(|(name, value)| self.fixed.get(name) != Some(value));
        differ.map(|(name, _)| name).collect()
    }

    /// Whether the access rules in force let users in.
    pub(crate) fn lets_users_in(&self) -> bool {
        lets_users_in(&self.config.access_rules, "postgres", "repl")
    }

    /// Whether it takes new connections.
    pub(crate) fn accepts(&self) -> bool {
        self.ready && !self.stopping && !self.orphaned
    }
}

impl Instance {
    /// An instance without data.
    pub(crate) fn new(seed: u64, number: usize) -> Self {
        let mut chance = Chance::of(seed, "wal", number as u64);
        let wal_kept = if chance.happens(300) {
            chance.between(1000, 30_000)
        } else {
            u64::MAX
        };
        let mut halves = Chance::of(seed, "half records", number as u64);
        let has_halves = halves.happens(300);
        Self {
            halves: has_halves.then_some(halves),
            pgdata: Folder::default(),
            beside: Folder::default(),
            server: None,
            life: 0,
            hung_until: Time::ZERO,
            writable_lives: 0,
            writable_until: Time::ZERO,
            chance: Chance::of(seed, "postgres", number as u64),
            wal_kept,
            ailments: Ailments::default(),
        }
    }

    /// Whether statements could change something here now.
    pub(crate) fn is_writable(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.writable)
    }

    /// Whether a postmaster runs.
    pub(crate) fn has_postmaster(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.orphaned)
    }
}

impl World {
    /// Puts something in the future of an instance's present server.
    pub(crate) fn postgres_later(&mut self, k: usize, pause: Duration, event: PostgresEvent) {
        let life = self.instances[k].life;
        self.queue
            .put(self.now + pause, What::Postgres(k, life, event));
    }

    /// A postmaster is started on what is in place.
    pub(crate) fn start_server(&mut self, k: usize) {
        let instance = &mut self.instances[k];
        let Some(config) = instance.pgdata.config.clone() else {
            return;
        };
        let writable = !instance.pgdata.signal;
        let Some(data) = instance.pgdata.data.as_mut() else {
            return;
        };
        let recovers = data.ending == Ending::Crash;
        data.ending = Ending::Crash;
        data.half = 0;
        let mut server = Server::new(config, writable);
        let is_below = !writable
            && data
                .least
                .iter()
                .any(|(name, least)| server.fixed.get(name).is_some_and(|v| v < least));
        if writable {
            data.least.clone_from(&server.fixed);
        }
        let (low, high) = if recovers { (200, 3000) } else { (50, 600) };
        let pause = instance.chance.millis(low, high);
        let dies = is_below || instance.ailments.starts_die > 0 || instance.ailments.disk_full > 0;
        instance.ailments.starts_die = instance.ailments.starts_die.saturating_sub(1);
        server.orphaned = false;
        server.restarted_at = writable.then(|| data.flush_lsn());
        instance.server = Some(server);
        instance.life += 1;
        if dies {
            self.note("start-died");
            self.postgres_later(k, pause / 2, PostgresEvent::StopEnds(false));
        } else {
            self.postgres_later(k, pause, PostgresEvent::Ready);
        }
        if writable {
            self.became_writable(k);
        } else {
            self.postgres_later(k, pause, PostgresEvent::Follows);
        }
        self.postgres_later(k, self.plan.shape.standby_status, PostgresEvent::Status);
    }

    /// The server is gone, and what it had not flushed. Everybody who was connected hears it, as far
    /// as the network goes.
    pub(crate) fn end_server(&mut self, k: usize, ending: Ending) {
        let now = self.now;
        if ending == Ending::Crash {
            self.send_half_a_record(k);
        }
        let instance = &mut self.instances[k];
        let Some(server) = instance.server.take() else {
            return;
        };
        instance.life += 1;
        instance.hung_until = now;
        if server.writable {
            instance.writable_until = now;
        }
        if let Some(data) = instance.pgdata.data.as_mut() {
            data.ending = ending;
            if ending == Ending::Crash {
                let written = data.wal.len() - data.flushed;
                // Some of it may have come to the disk by itself.
                let kept = instance.chance.below(written as u64 + 1);
                data.flushed += usize::try_from(kept).unwrap_or(0);
                data.wal.truncate(data.flushed);
            }
        }
        for peer in server.peers.values() {
            self.end_session(k, peer.standby, peer.life, peer.session);
        }
        if let Some(receiver) = &server.receiver {
            let life = self.instances[receiver.source].life;
            self.end_session(k, receiver.source, life, receiver.session);
        }
        let connections: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.target == k)
            .map(|(id, _)| *id)
            .collect();
        for id in connections {
            self.answer_client(k, id, super::client::Response::Closed);
        }
    }

    /// The postmaster is gone: the keeper, where it runs, hears it.
    pub(crate) fn tell_of_the_end(&mut self, k: usize) {
        let Some(node) = self.keepers.get(k) else {
            return;
        };
        let life = node.process.life;
        let soon = self.now + Duration::from_millis(1);
        let event = Box::new(Event::PostmasterGone);
        self.queue.put(soon, What::Keeper(k, life, event));
    }

    /// Something happens to a server.
    pub(crate) fn postgres_hears(&mut self, k: usize, life: u32, event: PostgresEvent) {
        if self.instances[k].life != life || self.instances[k].server.is_none() {
            match event {
                PostgresEvent::Connect(id) | PostgresEvent::Do(id, _) => {
                    self.answer_client(k, id, super::client::Response::Closed);
                }
                PostgresEvent::Asked {
                    standby,
                    life,
                    session,
                    ..
                } => {
                    self.end_session(k, standby, life, session);
                }
                _ => {}
            }
            return;
        }
        match event {
            PostgresEvent::Ready => {
                if let Some(server) = self.instances[k].server.as_mut() {
                    server.ready = true;
                }
                self.note_caught_up(k);
            }
            PostgresEvent::Flushed(to) => self.flushed(k, to),
            PostgresEvent::Reloaded => self.reloaded(k),
            PostgresEvent::StopEnds(cleanly) => self.stop_ends(k, cleanly),
            PostgresEvent::Promotes(part) => self.promotes(k, part),
            PostgresEvent::Follows => self.follows(k),
            PostgresEvent::Asked {
                standby,
                life,
                name,
                from,
                last,
                session,
            } => {
                let peer = Peer::new(standby, life, from, session, self.now);
                self.asked(k, &name, peer, last);
            }
            PostgresEvent::Batch(batch) => self.take_batch(k, *batch),
            PostgresEvent::Half(session, bytes) => self.take_half(k, session, bytes),
            PostgresEvent::Ended(session) => self.session_ended(k, session),
            PostgresEvent::Told {
                name,
                session,
                flushed,
            } => self.told(k, &name, session, flushed),
            PostgresEvent::Status => self.status(k),
            PostgresEvent::Connect(id) => self.client_connects_to(k, id),
            PostgresEvent::Do(id, operation) => self.do_statement(k, id, operation),
        }
    }

    /// Ends a server that was being stopped, or whose start has failed.
    fn stop_ends(&mut self, k: usize, cleanly: bool) {
        if cleanly {
            self.shutdown_checkpoint(k);
        }
        let is_standby = !self.instances[k].is_writable();
        let ending = match (cleanly, is_standby) {
            (false, _) => Ending::Crash,
            (true, true) => Ending::InRecovery,
            (true, false) => Ending::Shutdown,
        };
        self.say(|| format!("pg{k} ends: {ending:?}"));
        self.end_server(k, ending);
        self.tell_of_the_end(k);
    }

    fn promotes(&mut self, k: usize, part: u8) {
        let instance = &mut self.instances[k];
        if part == 0 && instance.ailments.promotions_die > 0 {
            instance.ailments.promotions_die -= 1;
            self.note("promotion-died");
            self.say(|| format!("pg{k} dies in its promotion"));
            self.end_server(k, Ending::Crash);
            self.tell_of_the_end(k);
            return;
        }
        if part == 0 {
            self.begin_timeline(k);
            let pause = self.instances[k].chance.millis(1, 100);
            self.postgres_later(k, pause, PostgresEvent::Promotes(1));
            return;
        }
        if let Some(server) = instance.server.as_mut() {
            server.writable = true;
            server.promoting = false;
            if let Some(data) = instance.pgdata.data.as_mut() {
                data.least.clone_from(&server.fixed);
            }
        }
        self.note("promotion");
        self.became_writable(k);
    }
}
