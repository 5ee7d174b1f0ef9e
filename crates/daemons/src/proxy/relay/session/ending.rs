//! How a session ends, and what its client hears of that.

use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use stolon_core::time::Instant;

use super::super::super::greeting;
use super::super::abort;
use super::super::bulk::Run;
use super::{BROKEN, CLIENT, Fate, SERVER, Session, count};

/// How long a client may take to hear that its session was ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long it may keep its end open when its server has ended the session.
const ALONE: Duration = Duration::from_secs(10);
/// What it may still have said meanwhile: closing a socket with something unread resets it, and a
/// reset may reach the client before the message that it is to read.
const MOST_UNREAD: usize = 1024 * 1024;

impl Session {
    /// Over when both streams have ended.
    pub(super) fn may_be_over(&mut self) -> Fate {
        let first = match (self.up.is_over(), self.down.is_over()) {
            (false, false) => return Fate::Rests,
            (true, _) => CLIENT,
            // Nothing more is read from its server: nobody would hear that it was reset.
            (false, true) if !self.permit.holds() => return self.reset(),
            (false, true) => SERVER,
        };
        let by = *self.ended_by.get_or_insert(first);
        if self.up.is_over() && self.down.is_over() {
            self.guest.shared.metrics.ended(by);
            return Fate::Over;
        }
        Fate::Rests
    }

    /// PostgreSQL ends a session as a whole. A client that keeps its end open nevertheless keeps no place.
    pub(super) fn may_be_alone(&mut self, now: Instant) -> Fate {
        if !self.down.is_over() || self.up.is_over() {
            return Fate::Rests;
        }
        if !self.permit.holds() {
            return self.reset();
        }
        if *self.alone_until.get_or_insert(now.after(ALONE)) > now {
            return Fate::Rests;
        }
        self.guest.shared.metrics.ended(SERVER);
        Fate::Over
    }

    /// A socket is broken. If it is the server's, its last words may say why, as those of a shutdown or
    /// of a COPY that was refused: the client hears them, if they are whole.
    pub(super) fn breaks_off(&mut self, now: Instant, buffer: &mut [u8]) -> Fate {
        let Self {
            client,
            server,
            permit,
            frames,
            guest,
            ..
        } = self;
        let seen = |bytes: &[u8]| {
            count(&guest.shared.metrics.to_client, bytes);
            frames.server_says(bytes);
        };
        let carried = self.down.carry([server, client], permit, buffer, seen);
        let is_whole = match carried {
            Ok(_) => self.down.is_over(),
            Err(_) => self.is_between_messages(),
        };
        if !is_whole || shutdown(&self.client, Shutdown::Write).is_err() {
            return self.breaks();
        }
        self.guest.shared.metrics.ended(SERVER);
        abort(&self.server);
        self.hears_the_last(now)
    }

    /// Everything is said to the client, and its server's side is gone.
    fn hears_the_last(&mut self, now: Instant) -> Fate {
        let until = now.after(FAREWELL);
        self.parting = Some(until);
        self.up_run.ends(&self.client);
        self.down_run = Run::default();
        Fate::Parts(until)
    }

    /// It is broken, or ended before and is broken now.
    pub(in super::super) fn breaks(&self) -> Fate {
        let by = self.ended_by.unwrap_or(BROKEN);
        self.guest.shared.metrics.ended(by);
        self.reset()
    }

    /// One side is broken or gone: the other may not believe that it goes on.
    pub(super) fn reset(&self) -> Fate {
        abort(&self.server);
        abort(&self.client);
        Fate::Over
    }

    /// Ends it because its permit has ended, the server's side first (I1). The client is told why
    /// where it stands between two messages, all of what was read for it was handed over, and its
    /// socket takes the words at once.
    pub(super) fn part(&mut self, now: Instant) -> Fate {
        self.guest.is_parted = true;
        abort(&self.server);
        if self.is_between_messages() && self.say_farewell() {
            self.hears_the_last(now)
        } else {
            self.reset()
        }
    }

    fn is_between_messages(&self) -> bool {
        self.frames.is_between() && self.down.is_empty() && !self.down.is_over()
    }

    fn say_farewell(&self) -> bool {
        let words = greeting::farewell(self.permit.why_ended());
        let said = send(&self.client, &words, SendFlags::NOSIGNAL);
        said == Ok(words.len()) && shutdown(&self.client, Shutdown::Write).is_ok()
    }

    /// Reads what the client still says until it has closed its end too.
    pub(super) fn hear_out(&mut self, buffer: &mut [u8]) -> Fate {
        while self.unread < MOST_UNREAD {
            match rustix::io::read(&*self.client, &mut *buffer) {
                Ok(count @ 1..) => self.unread += count,
                Err(Errno::AGAIN) => return Fate::Rests,
                Ok(_) | Err(_) => break,
            }
        }
        Fate::Over
    }
}
