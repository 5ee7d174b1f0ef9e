//! Carrying bytes one way, as far as it goes without waiting.

use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::permit::Permit;

/// What is read at a time at the most. Half of it is when that was not taken at once, down to the least:
/// the rest has to be kept.
pub(super) const MOST: usize = 128 * 1024;
const LEAST: usize = 16 * 1024;
/// How much one way may carry before others, timers and orders get their turn.
const TURN: usize = 256 * 1024;

/// One way of a session. It holds bytes only while the side they go to does not take them.
#[derive(Debug)]
pub(super) struct Way {
    rest: Vec<u8>,
    /// How much of `rest` was handed over.
    done: usize,
    /// How much is read at a time.
    size: usize,
    end: End,
    /// The side that the bytes come from has said that its stream ends or is broken.
    hangs_up: bool,
}

/// How far the end of the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Away,
    /// Nothing more is read.
    Read,
    PassedOn,
}

/// Why carrying paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Nothing more goes until a socket is ready, or ever.
    Done,
    /// It is the others' turn.
    Turn,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            rest: Vec::new(),
            done: 0,
            size: MOST,
            end: End::Away,
            hangs_up: false,
        }
    }
}

impl Way {
    /// Carries what can be carried now; `seen` is told what was read. The sockets must not block, and
    /// whoever calls must hear of every change of them (epoll(7), edge-triggered).
    ///
    /// # Errors
    ///
    /// When a socket is broken, or the permit does not hold any more: `Errno::PERM`.
    pub(super) fn carry(
        &mut self,
        [from, to]: [&TcpStream; 2],
        permit: &Permit,
        buffer: &mut [u8],
        mut seen: impl FnMut(&[u8]),
    ) -> Result<Pause, Errno> {
        let mut carried = 0;
        loop {
            if !self.hand_over_rest(to, permit)? || self.end == End::PassedOn {
                return Ok(Pause::Done);
            }
            if self.end == End::Read {
                self.end = End::PassedOn;
                rustix::net::shutdown(to, rustix::net::Shutdown::Write)?;
                return Ok(Pause::Done);
            }
            if carried >= TURN {
                return Ok(Pause::Turn);
            }
            let wanted = self.size.min(buffer.len());
            let into = buffer.get_mut(..wanted).unwrap_or_default();
            // read(2) does the same by a longer way, that of files.
            let count = match rustix::net::recv(from, into, RecvFlags::empty()) {
                Ok((0, _)) => {
                    self.end = End::Read;
                    continue;
                }
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(Pause::Done),
                Err(error) => return Err(error),
            };
            carried += count;
            let bytes = buffer.get(..count).unwrap_or_default();
            seen(bytes);
            let handed = hand_over(bytes, to, permit).inspect_err(|_| {
                // Where it broke off nobody may say anything more.
                self.rest = bytes.to_vec();
            })?;
            if handed < count {
                self.rest = bytes.get(handed..).unwrap_or_default().to_vec();
                self.size = (self.size / 2).max(LEAST);
            } else if count == wanted {
                self.size = (self.size * 2).min(MOST);
            } else if !self.hangs_up {
                // A stream socket that gave less than was asked for has nothing more, and what comes
                // later is told. An end that came meanwhile would not be (epoll(7)).
                return Ok(Pause::Done);
            }
        }
    }

    /// The side that the bytes come from ends its stream, or is broken: reading tells which.
    pub(super) fn hang_up(&mut self) {
        self.hangs_up = true;
    }

    /// Nothing more is read; what was is still handed over, and then the end of the stream.
    pub(super) fn finish(&mut self) {
        if self.end == End::Away {
            self.end = End::Read;
        }
    }

    /// Whether the end of the stream was passed on.
    pub(super) fn is_over(&self) -> bool {
        self.end == End::PassedOn
    }

    /// Whether everything that was read was handed over.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether the side that the bytes go to is behind no more.
    fn hand_over_rest(&mut self, to: &TcpStream, permit: &Permit) -> Result<bool, Errno> {
        if self.rest.is_empty() {
            return Ok(true);
        }
        let bytes = self.rest.get(self.done..).unwrap_or_default();
        self.done += hand_over(bytes, to, permit)?;
        if self.done < self.rest.len() {
            return Ok(false);
        }
        self.rest = Vec::new();
        self.done = 0;
        Ok(true)
    }
}

/// Hands over what the socket takes, and says how much that was. When it was not all, the socket's
/// room is told later.
fn hand_over(bytes: &[u8], to: &TcpStream, permit: &Permit) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        // By the clock and not by what others have noticed: this process may have been paused. That
        // it is paused between this look and the write is all that is left to chance.
        if !permit.holds() {
            return Err(Errno::PERM);
        }
        match rustix::net::send(to, rest, SendFlags::NOSIGNAL) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(count) => done += count,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
