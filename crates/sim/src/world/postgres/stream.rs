//! Streaming: a standby asks its source for the log after what it has; the source ships what is on
//! its disk, and hears what is on the standby's.

use std::time::Duration;

use super::follow::has_slot;
use crate::world::event::{Actor, Batch, PostgresEvent, What};
use crate::world::network::Way;
use crate::world::{Time, World};

/// Most records sent at a time.
const MOST_RECORDS: usize = 200;
/// Silence after which either end gives the other up (`wal_receiver_timeout`, `wal_sender_timeout`).
const SILENCE: Duration = Duration::from_mins(1);
/// A source that does not answer at all is given up earlier.
const NO_ANSWER: Duration = Duration::from_secs(5);
/// `wal_retrieve_retry_interval`, as the keeper sets it.
const RETRY: Duration = Duration::from_millis(500);

/// Somebody who receives a server's log.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) standby: usize,
    /// The life of the standby's server.
    pub(crate) life: u32,
    pub(crate) session: u64,
    /// Records sent.
    sent: usize,
    /// The end of what it has on disk.
    pub(crate) flushed: u64,
    /// Whether it has caught up.
    pub(crate) streaming: bool,
    heard: Time,
    spoken: Time,
}

impl Peer {
    pub(super) fn new(standby: usize, life: u32, sent: usize, session: u64, now: Time) -> Self {
        Self {
            standby,
            life,
            session,
            sent,
            flushed: 0,
            streaming: false,
            heard: now,
            spoken: now,
        }
    }
}

/// The source of a standby.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) source: usize,
    /// The name by which it comes there.
    name: String,
    pub(crate) session: u64,
    /// Whether the source has answered.
    pub(crate) established: bool,
    heard: Time,
}

impl Receiver {
    /// One that the source has not answered yet.
    pub(super) fn new(source: usize, name: String, session: u64, now: Time) -> Self {
        Self {
            source,
            name,
            session,
            established: false,
            heard: now,
        }
    }
}

impl World {
    pub(super) fn server_and_data(&self, k: usize) -> Option<(&super::Server, &super::Data)> {
        let instance = &self.instances[k];
        instance.server.as_ref().zip(instance.pgdata.data.as_ref())
    }

    /// A standby asks for the log.
    pub(super) fn asked(&mut self, k: usize, name: &str, peer: Peer, last: u64) {
        let is_removed = self.server_and_data(k).is_some_and(|(server, data)| {
            server.accepts() && data.end_of(peer.sent) < data.oldest_wal
        });
        if is_removed {
            self.note("wal-removed");
        }
        let allowed = self.server_and_data(k).is_some_and(|(server, data)| {
            server.accepts()
                && !is_removed
                && (data.slots.contains_key(name) || !has_slot(name))
                && data.flushed >= peer.sent
                && data.leads_to(peer.sent, last)
        });
        if !allowed {
            self.note("stream-refused");
            self.end_session(k, peer.standby, peer.life, peer.session);
            return;
        }
        if let Some(server) = self.instances[k].server.as_mut() {
            server.peers.insert(name.to_owned(), peer);
        }
        self.ship(k, name, true);
    }

    pub(super) fn end_session(&mut self, k: usize, other: usize, life: u32, session: u64) {
        let what = What::Postgres(other, life, PostgresEvent::Ended(session));
        self.send(
            Actor::Postgres(k),
            Actor::Postgres(other),
            Way::Stream,
            what,
        );
    }

    /// Sends every peer what it does not have.
    pub(super) fn ship_all(&mut self, k: usize) {
        let server = self.instances[k].server.as_ref();
        let names: Vec<String> =
            server.map_or_else(Vec::new, |s| s.peers.keys().cloned().collect());
        for name in names {
            self.ship(k, &name, false);
        }
    }

    fn ship(&mut self, k: usize, name: &str, even_nothing: bool) {
        let now = self.now;
        let instance = &mut self.instances[k];
        let (Some(server), Some(data)) = (instance.server.as_mut(), instance.pgdata.data.as_ref())
        else {
            return;
        };
        let Some(peer) = server.peers.get_mut(name) else {
            return;
        };
        let to = data.flushed.min(peer.sent + MOST_RECORDS);
        let records = data.wal.get(peer.sent..to).unwrap_or_default().to_vec();
        if records.is_empty() && !even_nothing {
            return;
        }
        let batch = Batch {
            session: peer.session,
            from: peer.sent,
            records,
            history: data.history.clone(),
            least: data.least.clone(),
        };
        peer.sent = peer.sent.max(to);
        peer.streaming = peer.sent == data.flushed;
        peer.spoken = now;
        let (standby, life) = (peer.standby, peer.life);
        let what = What::Postgres(standby, life, PostgresEvent::Batch(Box::new(batch)));
        self.send(
            Actor::Postgres(k),
            Actor::Postgres(standby),
            Way::Stream,
            what,
        );
    }

    /// A standby receives log.
    pub(super) fn take_batch(&mut self, k: usize, batch: Batch) {
        let now = self.now;
        let instance = &mut self.instances[k];
        let (Some(server), Some(data)) = (instance.server.as_mut(), instance.pgdata.data.as_mut())
        else {
            return;
        };
        let Some(receiver) = server
            .receiver
            .as_mut()
            .filter(|r| r.session == batch.session)
        else {
            return;
        };
        if data.wal.len() != batch.from {
            self.leave_source(k);
            return;
        }
        receiver.established = true;
        receiver.heard = now;
        data.wal.extend_from_slice(&batch.records);
        if !batch.records.is_empty() {
            data.half = 0;
        }
        let timeline = batch
            .records
            .last()
            .map_or(data.timeline, |record| record.timeline);
        if timeline > data.timeline {
            data.timeline = timeline;
            data.history = batch.history;
            data.history.retain(|(ended, _)| *ended < timeline);
        }
        data.least = batch.least;
        if batch.records.is_empty() {
            self.tell_source(k);
        } else {
            self.flush_soon(k);
        }
    }

    /// A primary dies while it sends: what it has flushed may end in the middle of a record, and those
    /// that have caught up receive that much of it.
    pub(super) fn send_half_a_record(&mut self, k: usize) {
        let instance = &mut self.instances[k];
        let (Some(server), Some(data)) = (&instance.server, &instance.pgdata.data) else {
            return;
        };
        let Some(chance) = instance.halves.as_mut().filter(|_| server.writable) else {
            return;
        };
        let flushed = data.flushed;
        let next = data.wal.get(flushed).map(|record| record.end);
        let most = next.map_or(1000, |end| end.saturating_sub(data.flush_lsn()));
        let (bytes, happens) = (chance.between(1, most.max(2) - 1), chance.happens(500));
        let peers: Vec<(usize, u32, u64)> = server
            .peers
            .values()
            .filter(|peer| happens && peer.sent == flushed)
            .map(|peer| (peer.standby, peer.life, peer.session))
            .collect();
        for (standby, life, session) in peers {
            self.note("half-a-record");
            let half = What::Postgres(standby, life, PostgresEvent::Half(session, bytes));
            self.send(
                Actor::Postgres(k),
                Actor::Postgres(standby),
                Way::Stream,
                half,
            );
        }
    }

    /// A standby receives part of a record, and flushes it.
    pub(super) fn take_half(&mut self, k: usize, session: u64, bytes: u64) {
        let instance = &mut self.instances[k];
        let (Some(server), Some(data)) = (&instance.server, instance.pgdata.data.as_mut()) else {
            return;
        };
        let receives = |receiver: &Receiver| receiver.session == session && receiver.established;
        if server.receiver.as_ref().is_some_and(receives) {
            data.half = bytes;
        }
    }

    /// A standby tells its source what it has on disk.
    pub(super) fn tell_source(&mut self, k: usize) {
        let Some((server, data)) = self.server_and_data(k) else {
            return;
        };
        let receiver = server
            .receiver
            .as_ref()
            .filter(|receiver| receiver.established);
        let Some(receiver) = receiver else {
            return;
        };
        let source = receiver.source;
        let told = PostgresEvent::Told {
            name: receiver.name.clone(),
            session: receiver.session,
            flushed: data.flush_lsn() + data.half,
        };
        let what = What::Postgres(source, self.instances[source].life, told);
        self.send(
            Actor::Postgres(k),
            Actor::Postgres(source),
            Way::Stream,
            what,
        );
    }

    /// A source hears what a standby has.
    pub(super) fn told(&mut self, k: usize, name: &str, session: u64, flushed: u64) {
        let now = self.now;
        let instance = &mut self.instances[k];
        let Some((server, data)) = instance.server.as_mut().zip(instance.pgdata.data.as_mut())
        else {
            return;
        };
        let writable = server.writable && !server.names.is_empty();
        let Some(peer) = server
            .peers
            .get_mut(name)
            .filter(|peer| peer.session == session)
        else {
            return;
        };
        peer.flushed = peer.flushed.max(flushed);
        peer.heard = now;
        if let Some(slot) = data.slots.get_mut(name) {
            *slot = flushed.max(*slot);
        }
        let is_quiet = now.saturating_sub(peer.spoken) > SILENCE / 4;
        if writable {
            self.note_caught_up(k);
            self.release(k, false);
        }
        self.ship(k, name, is_quiet);
    }

    /// A standby stops receiving.
    pub(crate) fn leave_source(&mut self, k: usize) {
        let server = self.instances[k].server.as_mut();
        let Some(receiver) = server.and_then(|server| server.receiver.take()) else {
            return;
        };
        let source = receiver.source;
        let life = self.instances[source].life;
        self.end_session(k, source, life, receiver.session);
    }

    /// The other end of a session is gone.
    pub(super) fn session_ended(&mut self, k: usize, session: u64) {
        let Some(server) = self.instances[k].server.as_mut() else {
            return;
        };
        server.peers.retain(|_, peer| peer.session != session);
        if server
            .receiver
            .as_ref()
            .is_some_and(|receiver| receiver.session == session)
        {
            server.receiver = None;
            self.postgres_later(k, RETRY, PostgresEvent::Follows);
        }
    }

    /// Once in a while: silence ends sessions, and a standby tells what it has.
    pub(super) fn status(&mut self, k: usize) {
        let now = self.now;
        self.postgres_later(k, self.plan.shape.standby_status, PostgresEvent::Status);
        let Some(server) = self.instances[k].server.as_mut() else {
            return;
        };
        server
            .peers
            .retain(|_, peer| now.saturating_sub(peer.heard) < SILENCE);
        let limit = |receiver: &Receiver| {
            if receiver.established {
                SILENCE
            } else {
                NO_ANSWER
            }
        };
        match &server.receiver {
            Some(receiver) if now.saturating_sub(receiver.heard) > limit(receiver) => {
                self.leave_source(k);
                self.follows(k);
            }
            Some(_) => self.tell_source(k),
            None => self.follows(k),
        }
    }
}
