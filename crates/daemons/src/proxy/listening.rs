//! Where clients come in: sockets that this proxy binds or was started with, and what to do when
//! accepting fails.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::io::Errno;
use stolon_core::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::metrics::Metrics;
use crate::runtime::clock;
use crate::runtime::passed::Passed;

/// Connections that the kernel keeps until they are accepted; `net.core.somaxconn` where that is less.
const BACKLOG: i32 = 4096;
/// How long to wait before trying again to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// How long to wait before trying again to accept, as when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Accepting that has not failed for so long works again. Out of files it works and fails in turns.
const CALM: Duration = Duration::from_secs(5);

/// What is done with a client that has connected.
pub(super) type Serve = Arc<dyn Fn(TcpStream, SocketAddr) + Send + Sync>;

/// One place where clients come in.
pub(super) struct Listening {
    place: Arc<Place>,
    task: Option<JoinHandle<()>>,
    /// Sockets that this process was started with, for the first time that it listens.
    given: Vec<Passed>,
    /// Somebody else keeps them: clients get in whether this proxy listens or not, so that it answers
    /// them always.
    kept: bool,
    retired: bool,
}

struct Place {
    address: String,
    retry: Duration,
    serve: Serve,
    metrics: Metrics,
    /// Held by the one task that has the address. One that was aborted may still run, and is waited for.
    taken: tokio::sync::Mutex<()>,
    /// The sockets of that task, which end with it.
    sockets: Mutex<Vec<Weak<TcpListener>>>,
    trouble: Trouble,
}

impl Listening {
    /// Nobody is accepted yet.
    pub(super) fn new(host: &str, port: u16, metrics: Metrics, serve: Serve) -> Self {
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let place = Place {
            address,
            retry: LISTEN_RETRY,
            serve,
            metrics,
            taken: tokio::sync::Mutex::new(()),
            sockets: Mutex::default(),
            trouble: Trouble::default(),
        };
        Self {
            place: Arc::new(place),
            task: None,
            given: Vec::new(),
            kept: false,
            retired: false,
        }
    }

    /// Uses sockets that this process was started with, in the place of one that it would bind.
    pub(super) fn give(&mut self, sockets: Vec<Passed>) {
        self.kept = sockets.iter().any(|socket| socket.kept);
        self.given = sockets;
    }

    /// Accepts clients, or stops to.
    pub(super) fn listen(&mut self, listen: bool) {
        if self.retired || (self.kept && self.task.is_some()) {
            return;
        }
        self.stop();
        if listen {
            let given = std::mem::take(&mut self.given);
            self.task = Some(tokio::spawn(accept(self.place.clone(), given)));
        }
    }

    /// Accepts nobody any more, whatever is asked for later.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.given.clear();
        self.stop();
    }

    /// The sockets where clients come in now, for a successor.
    pub(super) fn sockets(&self, name: &str) -> std::io::Result<Vec<Passed>> {
        let sockets = lock(&self.place.sockets);
        let passed = |socket: Arc<TcpListener>| Passed::share(&socket, name, self.kept);
        sockets
            .iter()
            .filter_map(Weak::upgrade)
            .map(passed)
            .collect()
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Who finds the address taken tries again after this time.
    #[cfg(test)]
    pub(super) fn retry_after(&mut self, time: Duration) {
        Arc::get_mut(&mut self.place)
            .expect("nobody else's yet")
            .retry = time;
    }
}

async fn accept(place: Arc<Place>, given: Vec<Passed>) {
    // Dropped after the sockets: when this is aborted at any point.
    let _taken = place.taken.lock().await;
    let mut sockets = given.into_iter().filter_map(usable).collect::<Vec<_>>();
    if sockets.is_empty() {
        sockets.push(place.bind().await);
    }
    *lock(&place.sockets) = sockets.iter().map(Arc::downgrade).collect();
    join_all(sockets.iter().map(|socket| place.accept_from(socket))).await;
}

/// A socket that this process was started with.
fn usable(passed: Passed) -> Option<Arc<TcpListener>> {
    let name = passed.name.clone();
    passed
        .listener()
        .inspect(|socket| tracing::info!(name, "accepting clients at {:?}", socket.local_addr()))
        .inspect_err(|error| tracing::error!(%error, name, "cannot use a socket that was passed"))
        .map(Arc::new)
        .ok()
}

impl Place {
    async fn bind(&self) -> Arc<TcpListener> {
        let listener = loop {
            match TcpListener::bind(&self.address).await {
                Ok(listener) => break listener,
                Err(error) => {
                    let address = &self.address;
                    tracing::error!(%error, address, "cannot listen for clients; trying again");
                    tokio::time::sleep(self.retry).await;
                }
            }
        };
        // Clients that come while this process is suspended, or very many at once, are not refused.
        let _ = rustix::net::listen(&listener, BACKLOG);
        Arc::new(listener)
    }

    async fn accept_from(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, peer)) => {
                    self.trouble.accepted(clock::now());
                    self.metrics.accepted.inc();
                    (self.serve)(client, peer);
                }
                Err(error) => {
                    self.metrics.accept_failures.inc();
                    if concerns_one_client(&error) {
                        tracing::debug!(%error, "a client was gone before it was accepted");
                        continue;
                    }
                    self.trouble.failed(clock::now(), &error);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
struct Trouble(Mutex<Option<Instant>>);

impl Trouble {
    fn failed(&self, now: Instant, error: &Error) {
        let mut last = lock(&self.0);
        if last.replace(now).is_none() {
            tracing::warn!(%error, "cannot accept clients: they wait until it is possible again");
        }
    }

    fn accepted(&self, now: Instant) {
        let mut last = lock(&self.0);
        if last.is_some_and(|failed| now.since(failed) >= CALM) {
            *last = None;
            tracing::info!("accepting clients again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CALM, Trouble, concerns_one_client};
    use rustix::io::Errno;
    use std::io::Error;
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
        let lasts = |trouble: &Trouble| trouble.0.lock().expect("a lock").is_some();
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
