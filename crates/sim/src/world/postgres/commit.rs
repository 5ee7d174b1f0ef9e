//! Statements: executed, flushed, waited for, answered.

use super::Ending;
use super::data::Record;
use crate::world::World;
use crate::world::client::{Operation, Response};
use crate::world::event::{Actor, ConnectionId, PostgresEvent, What};
use crate::world::network::Way;

/// As many rows as a read shows.
const SHOWN: usize = 8;

/// A commit that waits.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// The number of its record in the log, from 1.
    pub(crate) record: usize,
    /// Where its record ends.
    pub(crate) end: u64,
    /// The row.
    pub(crate) txn: u64,
    /// Who waits for it.
    pub(crate) connection: ConnectionId,
    /// Whether it is on disk and waits for standbys.
    pub(crate) on_disk: bool,
}

/// The standbys that `synchronous_standby_names` names: all of them are waited for.
pub(crate) fn named(names: &str) -> Vec<&str> {
    let inner = names
        .split_once('(')
        .map_or(names, |(_, rest)| rest.trim_end_matches(')'));
    let parts = inner.split(',').map(str::trim);
    parts.filter(|name| !name.is_empty()).collect()
}

impl World {
    /// A client, or a proxy for it, connects.
    pub(crate) fn client_connects_to(&mut self, k: usize, id: ConnectionId) {
        let life = self.instances[k].life;
        let server = self.instances[k].server.as_ref();
        let lets_anybody_in = self.lets_users_in_at_once();
        let lets_in = |server: &super::Server| lets_anybody_in || server.lets_users_in();
        if !server.is_some_and(|server| server.accepts() && lets_in(server)) {
            self.answer_client(k, id, Response::Closed);
            return;
        }
        self.check_gate(k);
        let connection = self.connections.get(&id);
        if connection.is_some_and(|connection| connection.proxy.is_some()) {
            self.opened_to_users(k);
        }
        self.answer_client(k, id, Response::Connected(life));
    }

    /// Sends a client an answer, through its proxy where it has one.
    pub(crate) fn answer_client(&mut self, k: usize, id: ConnectionId, response: Response) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (client, proxy) = (connection.client, connection.proxy);
        let from = Actor::Postgres(k);
        if let Some(p) = proxy {
            let life = self.proxies[p].process.life;
            let what = What::FromServer(p, life, id, response);
            self.send(from, Actor::Proxy(p), Way::Stream, what);
        } else {
            let what = What::ToClient(client, id, response);
            self.send(from, Actor::Client(client), Way::Stream, what);
        }
    }

    /// A statement arrives.
    pub(crate) fn do_statement(&mut self, k: usize, id: ConnectionId, operation: Operation) {
        let Some(server) = &self.instances[k].server else {
            return;
        };
        if server.stopping || !server.ready {
            self.answer_client(k, id, Response::Closed);
            return;
        }
        match operation {
            Operation::Write(_) if !server.writable => self.answer_client(k, id, Response::Failed),
            Operation::Write(txn) => {
                self.check_writing(k, id);
                let (record, end) = self.append(k, txn);
                self.history.written(txn, end);
                if let Some(server) = self.instances[k].server.as_mut() {
                    server.waiting.push_back(Commit {
                        record,
                        end,
                        txn,
                        connection: id,
                        on_disk: false,
                    });
                }
                self.flush_soon(k);
            }
            Operation::Read => {
                let rows = self.visible_rows(k);
                self.answer_client(k, id, Response::Seen(rows));
            }
        }
    }

    /// The newest rows that are visible: a commit that waits is not.
    fn visible_rows(&self, k: usize) -> Vec<u64> {
        let instance = &self.instances[k];
        let (Some(server), Some(data)) = (&instance.server, &instance.pgdata.data) else {
            return Vec::new();
        };
        let waits = |txn: u64| server.waiting.iter().any(|commit| commit.txn == txn);
        let records = data.wal.iter().take(data.flushed).rev();
        let rows = records.map(|record| record.txn).filter(|txn| *txn != 0);
        rows.filter(|txn| !waits(*txn)).take(SHOWN).collect()
    }

    /// Writes a record; its number, from 1, and where it ends.
    pub(crate) fn append(&mut self, k: usize, txn: u64) -> (usize, u64) {
        self.serial += 1;
        let id = self.serial;
        let instance = &mut self.instances[k];
        let size = 8 * instance.chance.between(12, 400);
        let Some(data) = instance.pgdata.data.as_mut() else {
            return (0, 0);
        };
        let end = data.end_of(data.wal.len()) + size;
        let timeline = data.timeline;
        data.wal.push(Record {
            id,
            end,
            timeline,
            txn,
        });
        (data.wal.len(), end)
    }

    /// Has what is written flushed.
    pub(crate) fn flush_soon(&mut self, k: usize) {
        let instance = &mut self.instances[k];
        let data = instance.pgdata.data.as_ref();
        let written = data.map_or(0, |data| data.wal.len());
        let slow = instance.ailments.slow_disk;
        let pause = instance.chance.millis(0, 4 + slow);
        let Some(server) = instance.server.as_mut() else {
            return;
        };
        if !server.flushing {
            server.flushing = true;
            self.postgres_later(k, pause, PostgresEvent::Flushed(written));
        }
    }

    /// What was written up to here is on disk.
    pub(crate) fn flushed(&mut self, k: usize, to: usize) {
        if self.instances[k].ailments.disk_full > 0 && self.instances[k].is_writable() {
            // PostgreSQL panics when it cannot write its log.
            self.note("disk-full-panic");
            self.kill_postmaster(k, false);
            return;
        }
        let instance = &mut self.instances[k];
        let (Some(server), Some(data)) = (instance.server.as_mut(), instance.pgdata.data.as_mut())
        else {
            return;
        };
        server.flushing = false;
        data.flushed = data.flushed.max(to.min(data.wal.len()));
        // A checkpoint removes what no slot keeps.
        let kept = data.flush_lsn().saturating_sub(instance.wal_kept);
        let oldest = data.slots.values().copied().fold(kept, u64::min);
        if !self.plan.has_go() {
            data.oldest_wal = data.oldest_wal.max(oldest);
        }
        let (rest, flushed) = (data.flushed < data.wal.len(), data.flushed);
        for commit in &mut server.waiting {
            commit.on_disk |= commit.record <= flushed;
        }
        let (waits_for_nobody, writable) = (server.names.is_empty(), server.writable);
        if rest {
            self.flush_soon(k);
        }
        if writable {
            self.release(k, waits_for_nobody);
        } else {
            self.tell_source(k);
        }
        self.ship_all(k);
    }

    /// Lets those commits go that nobody has to be waited for any more.
    pub(crate) fn release(&mut self, k: usize, all: bool) {
        let Some(server) = self.instances[k].server.as_mut() else {
            return;
        };
        let peers = &server.peers;
        let has = |name: &str| {
            let peer = peers.get(name).filter(|peer| peer.streaming);
            peer.map(|peer| peer.flushed)
        };
        let reached = named(&server.names).into_iter().map(has).min().flatten();
        let mut released = Vec::new();
        server.waiting.retain(|commit| {
            let goes = commit.on_disk && (all || reached.is_some_and(|lsn| commit.end <= lsn));
            if goes {
                released.push(commit.clone());
            }
            !goes
        });
        for commit in released {
            let is_promised = !all && !self.checks.is_unsettled;
            self.history.committed(commit.txn, commit.end, is_promised);
            let response = Response::Committed {
                txn: commit.txn,
                synchronous: !all,
            };
            self.answer_client(k, commit.connection, response);
        }
    }

    /// A clean end writes one record more, and everything is on disk.
    pub(crate) fn shutdown_checkpoint(&mut self, k: usize) {
        if self.instances[k].is_writable() {
            self.append(k, 0);
        }
        let instance = &mut self.instances[k];
        let lags = instance.chance.happens(300);
        if let Some(data) = instance.pgdata.data.as_mut() {
            data.flushed = data.wal.len();
            // What recovery last noted may be a little behind what lies there.
            data.min_recovery = data.end_of(data.flushed.saturating_sub(usize::from(lags)));
        }
        self.ship_all(k);
    }

    /// A promotion ends the timeline and begins the next one, with a record that says so.
    pub(crate) fn begin_timeline(&mut self, k: usize) {
        self.leave_source(k);
        let instance = &mut self.instances[k];
        instance.pgdata.signal = false;
        if let Some(data) = instance.pgdata.data.as_mut() {
            data.flushed = data.wal.len();
            data.half = 0;
            data.history.push((data.timeline, data.flush_lsn()));
            data.timeline = data.timeline.max(data.passed_over) + 1;
            let (system, timeline) = (data.system.clone(), data.timeline);
            self.timeline_begun(k, system, timeline);
        }
        self.append(k, 0);
        self.flush_soon(k);
    }

    /// A postmaster is killed; its children may go on for a while.
    pub(crate) fn kill_postmaster(&mut self, k: usize, leaves_orphans: bool) {
        let server = self.instances[k].server.as_mut();
        let Some(server) = server.filter(|server| !server.orphaned) else {
            return;
        };
        if leaves_orphans && server.ready {
            server.orphaned = true;
            self.note("orphans");
        } else {
            self.end_server(k, Ending::Crash);
        }
        self.tell_of_the_end(k);
    }
}
