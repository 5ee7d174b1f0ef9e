//! One session that is carried: a client, its server, and what goes between them.

mod ending;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustix::io::Errno;
use stolon_core::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::bulk::Run;
use super::carry::{Pause, Way};
use super::frames::Frames;
use super::peer::{self, Silence};
use super::permit::Permit;
use super::{CLOSED, Shared};
use crate::runtime::clock;

/// A server that has not answered a client's first words for so long does not answer at all:
/// PostgreSQL asks for a password, or refuses, within milliseconds.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(10);

/// What metrics say ended a session.
pub(super) const CLIENT: &str = "client";
pub(super) const SERVER: &str = "server";
pub(super) const DRAIN: &str = "drain";
pub(super) const BROKEN: &str = "broken";

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<TcpStream>,
    pub(super) server: Arc<TcpStream>,
    permit: Arc<Permit>,
    up: Way,
    down: Way,
    up_run: Run,
    down_run: Run,
    frames: Frames,
    silences: [Silence; 2],
    /// When it is to be noted whether its server says anything; none: it was.
    answer_due: Option<Instant>,
    /// Its server has ended it: how long its client may take to do so too.
    alone_until: Option<Instant>,
    /// The server's side is gone, and the client is only to hear so, until the moment.
    parting: Option<Instant>,
    unread: usize,
    /// It is among those who wait for their turn.
    pub(super) is_queued: bool,
    /// It is among those who are looked at when nothing was heard of them for a moment.
    pub(super) is_looked_at: bool,
    /// Who ended its stream first, as metrics call it.
    ended_by: Option<&'static str>,
    guest: Guest,
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What happened to a socket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// There is something to read, or reading tells what is the matter.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The stream ends or is broken.
    pub(super) hangs_up: bool,
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for news.
    Rests,
    /// It has more to do, after others.
    Again,
    /// It was ended, and its client has until the moment to hear so.
    Parts(Instant),
    Over,
}

impl Session {
    pub(super) fn new(
        client: Arc<TcpStream>,
        server: Arc<TcpStream>,
        permit: Arc<Permit>,
        guest: Guest,
    ) -> Self {
        Self {
            client,
            server,
            permit,
            up: Way::default(),
            down: Way::default(),
            up_run: Run::default(),
            down_run: Run::default(),
            frames: Frames::new(),
            silences: Default::default(),
            answer_due: Some(clock::now().after(SILENT_AFTER)),
            alone_until: None,
            parting: None,
            unread: 0,
            is_queued: false,
            is_looked_at: false,
            ended_by: None,
            guest,
        }
    }

    /// Does what can be done after news of a side, without waiting.
    pub(super) fn hears(
        &mut self,
        side: Side,
        news: News,
        now: Instant,
        buffer: &mut [u8],
    ) -> Fate {
        if self.parting.is_some() {
            return self.hear_out(buffer);
        }
        let is_client = side == Side::Client;
        if news.hangs_up {
            let way = if is_client {
                &mut self.up
            } else {
                &mut self.down
            };
            way.hang_up();
        }
        // A side that is ready to take more concerns who waits for that.
        let up = if is_client {
            news.readable
        } else {
            news.writable && !self.up.is_empty()
        };
        let down = if is_client {
            news.writable && !self.down.is_empty()
        } else {
            news.readable
        };
        self.carry([up, down], now, buffer)
    }

    /// Goes on where it had to let others have their turn.
    pub(super) fn goes_on(&mut self, now: Instant, buffer: &mut [u8]) -> Fate {
        match self.parting {
            Some(_) => self.hear_out(buffer),
            None => self.carry([true, true], now, buffer),
        }
    }

    /// When to look whether there is something that nothing was heard of, because it carries much.
    pub(super) fn look_due(&self) -> Option<Instant> {
        self.up_run
            .due()
            .into_iter()
            .chain(self.down_run.due())
            .min()
    }

    /// Looks whether something has come, where that is due.
    pub(super) fn look_for_more(&mut self, now: Instant, buffer: &mut [u8]) -> Fate {
        let up = self.up_run.is_due(now);
        let down = self.down_run.is_due(now);
        if self.parting.is_some() || !(up || down) {
            return Fate::Rests;
        }
        self.carry([up, down], now, buffer)
    }

    /// Takes nothing more from the client.
    pub(super) fn drain(&mut self, now: Instant, buffer: &mut [u8]) -> Fate {
        self.up.finish();
        self.ended_by.get_or_insert(DRAIN);
        self.goes_on(now, buffer)
    }

    /// Looks whether a peer has been silent for `patience` while something waited for it, and once
    /// whether the server says anything at all, which the relay can do nothing about.
    pub(super) fn look(&mut self, now: Instant, patience: Duration) -> Fate {
        if self.parting.is_some() {
            return Fate::Rests;
        }
        if self.answer_due.is_some_and(|due| due <= now) {
            self.answer_due = None;
            if peer::received(&self.client) > 0 {
                let reach = &self.permit.reach;
                reach.answered(peer::received(&self.server) > 0);
            }
        }
        let [of_client, of_server] = &mut self.silences;
        if of_client.is_too_long(&self.client, now, patience)
            || of_server.is_too_long(&self.server, now, patience)
        {
            self.guest.shared.metrics.closed("peer-lost");
            return self.reset();
        }
        self.may_be_alone(now)
    }

    /// Whether its client had time enough to hear that it was ended.
    pub(super) fn is_left(&self, now: Instant) -> Fate {
        match self.parting {
            Some(until) if until <= now => Fate::Over,
            Some(_) | None => Fate::Rests,
        }
    }

    fn carry(&mut self, [up, down]: [bool; 2], now: Instant, buffer: &mut [u8]) -> Fate {
        let Self {
            client,
            server,
            permit,
            frames,
            guest,
            ..
        } = self;
        let metrics = &guest.shared.metrics;
        let mut carry = || {
            let (mut pause, mut up_bytes, mut down_bytes) = (Pause::Done, 0, 0);
            if up {
                let seen = |bytes: &[u8]| {
                    up_bytes += bytes.len();
                    count(&metrics.to_server, bytes);
                    frames.client_says(bytes);
                };
                pause = self.up.carry([client, server], permit, buffer, seen)?;
            }
            if down {
                let seen = |bytes: &[u8]| {
                    down_bytes += bytes.len();
                    count(&metrics.to_client, bytes);
                    frames.server_says(bytes);
                };
                let turn = self.down.carry([server, client], permit, buffer, seen)?;
                if turn == Pause::Turn {
                    pause = turn;
                }
            }
            self.up_run.goes_on(up_bytes, down_bytes, client, now);
            self.down_run.goes_on(down_bytes, up_bytes, server, now);
            Ok::<_, Errno>(pause)
        };
        match carry() {
            Ok(Pause::Turn) => Fate::Again,
            Ok(Pause::Done) => self.may_be_over(),
            // Whatever broke, it may be that it was broken because the permit ended.
            Err(_) if !self.permit.holds() => self.part(now),
            Err(_) => self.breaks_off(now, buffer),
        }
    }
}

fn count(counter: &Counter, bytes: &[u8]) {
    counter.inc_by(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
}

/// The place that a session takes among all of them, until it is dropped.
pub(super) struct Guest {
    shared: Arc<Shared>,
    sessions: Gauge,
    id: u64,
    permit: Arc<Permit>,
    client: SocketAddr,
    /// It was ended because its permit had run out, before whoever closes the door came to it.
    is_parted: bool,
    _place: OwnedSemaphorePermit,
    /// A proxy that stops waits for it.
    _counted: TaskTrackerToken,
}

impl Guest {
    pub(super) fn new(
        shared: Arc<Shared>,
        (id, permit): (u64, Arc<Permit>),
        client: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let sessions = shared.metrics.connections(permit.door.name());
        sessions.inc();
        let counted = shared.clients.token();
        Self {
            shared,
            sessions,
            id,
            permit,
            client,
            is_parted: false,
            _place: place,
            _counted: counted,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.sessions.dec();
        if self.shared.doors.leave(self.id, &self.permit) && self.is_parted {
            self.shared.metrics.closed(CLOSED);
        }
        tracing::debug!(client = %self.client, "a client has left");
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
