//! The sockets where clients come in: those that this proxy binds, and those that it was started with.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Shared;
use super::doors::Door;
use super::gate::{Gate, Open};
use crate::runtime::passed::Passed;

/// Connections that the kernel keeps until they are accepted; `net.core.somaxconn` where that is less.
const BACKLOG: i32 = 4096;
/// How long to wait before trying again to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(1);

/// Had by whoever may accept at an address, until the last of its sockets is closed.
pub(super) type Taken = tokio::sync::OwnedMutexGuard<()>;

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
    door: Door,
    shared: Arc<Shared>,
    /// Had by the one task that has the address, and by those who accept for it: one that was aborted
    /// may still have sockets, and is waited for.
    taken: Arc<tokio::sync::Mutex<()>>,
    /// The sockets of that task, which end with it.
    sockets: Mutex<Vec<Weak<TcpListener>>>,
}

impl Listening {
    /// Nobody is accepted yet.
    pub(super) fn new(host: &str, port: u16, door: Door, shared: Arc<Shared>) -> Self {
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let place = Place {
            address,
            retry: LISTEN_RETRY,
            door,
            shared,
            taken: Arc::default(),
            sockets: Mutex::default(),
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
        let passed = |socket: Arc<TcpListener>| Passed::share(&*socket, name, self.kept);
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
    let taken = Arc::new(place.taken.clone().lock_owned().await);
    let mut sockets = given.into_iter().filter_map(usable).collect::<Vec<_>>();
    if sockets.is_empty() {
        sockets.push(place.bind().await);
    }
    *lock(&place.sockets) = sockets.iter().map(Arc::downgrade).collect();
    let open = |socket| Gate::open(socket, taken.clone(), place.door, &place.shared);
    let _open: Vec<Open> = sockets.into_iter().map(open).collect();
    // Until this is aborted.
    std::future::pending::<()>().await;
}

/// A socket that this process was started with.
fn usable(passed: Passed) -> Option<Arc<TcpListener>> {
    let name = passed.name.clone();
    let listener = passed.listener();
    let usable = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let usable = usable
        .inspect(|(address, _)| tracing::info!(name, %address, "accepting clients"))
        .inspect_err(|error| tracing::error!(%error, name, "cannot use a socket that was passed"));
    Some(Arc::new(usable.ok()?.1))
}

impl Place {
    async fn bind(&self) -> Arc<TcpListener> {
        let listener = loop {
            let bound = tokio::net::TcpListener::bind(&self.address).await;
            match bound.and_then(tokio::net::TcpListener::into_std) {
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
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
