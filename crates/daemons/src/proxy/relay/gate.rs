//! A socket where clients come in, and what to do when accepting fails. Every carrier accepts from it.
//!
//! What clients' sockets are to be like is set here once: on Linux they have it from the listening socket,
//! of the time when they connected.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use stolon_core::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::doors::Door;
use super::listening::Taken;
use super::{Shared, peer};

/// How long to wait before trying again to accept, as when the process is out of files.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Accepting that has not failed for so long works again. Out of files it works and fails in turns.
const CALM: Duration = Duration::from_secs(5);

/// A gate. The socket is closed when the last carrier has heard that nobody is to come by it any more.
pub(super) struct Gate {
    pub(super) listener: Arc<TcpListener>,
    pub(super) door: Door,
    pub(super) shared: Arc<Shared>,
    is_closed: AtomicBool,
    /// Some may wait who connected before it was prepared.
    is_young: AtomicBool,
    trouble: Trouble,
    /// A relay that stops is not done before nobody can come in.
    _counted: TaskTrackerToken,
    /// Let go after the socket.
    _taken: Arc<Taken>,
}

/// Keeps a gate open as long as it lives.
pub(super) struct Open(Arc<Gate>);

/// What came of accepting.
pub(super) enum Accepted {
    Client(TcpStream, SocketAddr),
    /// There is nobody, or somebody who is gone already.
    Nobody,
    /// It is to be tried again at the moment.
    Failed(Instant),
}

impl Gate {
    /// Lets clients come in by a socket.
    pub(super) fn open(
        listener: Arc<TcpListener>,
        taken: Arc<Taken>,
        door: Door,
        shared: &Arc<Shared>,
    ) -> Open {
        peer::prepare(&*listener, shared.keepalive);
        let gate = Self {
            listener,
            door,
            shared: shared.clone(),
            is_closed: AtomicBool::new(false),
            is_young: AtomicBool::new(true),
            trouble: Trouble::default(),
            _counted: shared.clients.token(),
            _taken: taken,
        };
        let gate = Arc::new(gate);
        shared.carriers.open(&gate);
        Open(gate)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Whether other threads of this process accept by it too.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.carriers.are_several()
    }

    /// Whether some may wait who connected before it was prepared.
    pub(super) fn is_young(&self) -> bool {
        self.is_young.load(Ordering::Relaxed)
    }

    /// Accepts one client; its socket does not block.
    pub(super) fn accept(&self, now: Instant) -> Accepted {
        if self.is_closed() {
            return Accepted::Nobody;
        }
        self.accept_anyway(now)
    }

    /// The same of one that is closed: for a client of whom nobody else was told.
    pub(super) fn accept_anyway(&self, now: Instant) -> Accepted {
        let metrics = &self.shared.metrics;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let error = match acceptfrom_with(&*self.listener, flags) {
            Ok((client, from)) => {
                self.trouble.accepted(now);
                metrics.accepted.inc();
                // Without an address it is no socket of clients, which start-up makes sure of.
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                if self.is_young() {
                    peer::prepare(&client, self.shared.keepalive);
                }
                return from.map_or(Accepted::Nobody, |from| {
                    Accepted::Client(client.into(), from)
                });
            }
            Err(Errno::AGAIN) => {
                self.is_young.store(false, Ordering::Relaxed);
                return Accepted::Nobody;
            }
            Err(Errno::INTR) => return Accepted::Nobody,
            Err(error) => Error::from(error),
        };
        metrics.accept_failures.inc();
        if concerns_one_client(&error) {
            tracing::debug!(%error, "a client was gone before it was accepted");
            return Accepted::Nobody;
        }
        self.trouble.failed(now, &error);
        Accepted::Failed(now.after(ACCEPT_RETRY))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.shared.carriers.look_around();
    }
}

/// Whether a failure is that of the connection that was to be accepted, and not of accepting
/// (accept(2), "Error handling").
fn concerns_one_client(error: &Error) -> bool {
    const OF_ONE: [Errno; 8] = [
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    let code = Errno::from_io_error(error);
    error.kind() == ErrorKind::ConnectionAborted || code.is_some_and(|code| OF_ONE.contains(&code))
}

/// Whether accepting fails, told when that changes and not with each client.
#[derive(Debug, Default)]
struct Trouble {
    is_there: AtomicBool,
    last: Mutex<Option<Instant>>,
}

impl Trouble {
    fn failed(&self, now: Instant, error: &Error) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(now).is_none() {
            self.is_there.store(true, Ordering::Release);
            tracing::warn!(%error, "cannot accept clients: they wait until it is possible again");
        }
    }

    fn accepted(&self, now: Instant) {
        if !self.is_there.load(Ordering::Acquire) {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|failed| now.since(failed) >= CALM) {
            *last = None;
            self.is_there.store(false, Ordering::Release);
            tracing::info!("accepting clients again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CALM, Trouble, concerns_one_client};
    use rustix::io::Errno;
    use std::io::Error;
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use stolon_core::time::Instant;

    #[test]
    fn accepting_goes_on_at_once_after_a_client_that_was_gone() {
        let concerns = |errno: Errno| concerns_one_client(&Error::from(errno));
        assert!(concerns(Errno::CONNABORTED) && concerns(Errno::NETUNREACH));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!concerns(errno), "{errno}");
        }
    }

    #[test]
    fn trouble_is_over_when_accepting_has_not_failed_for_a_while() {
        let trouble = Trouble::default();
        let at = |after: Duration| Instant::from_boot(Duration::from_secs(100) + after);
        let lasts = |trouble: &Trouble| trouble.is_there.load(Ordering::Acquire);
        trouble.failed(at(Duration::ZERO), &Error::from(Errno::MFILE));
        trouble.accepted(at(CALM / 2));
        assert!(lasts(&trouble), "it works and fails in turns");
        trouble.failed(at(CALM), &Error::from(Errno::MFILE));
        trouble.accepted(at(CALM * 3 / 2));
        assert!(lasts(&trouble));
        trouble.accepted(at(CALM * 2));
        assert!(!lasts(&trouble));
    }
}
