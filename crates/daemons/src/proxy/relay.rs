//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the sockets from the closing thread,
//! without waiting for the connections' tasks to be scheduled: the server's side first, with a reset
//! that also drops what its socket still held.

mod carry;
mod hold;
mod peer;
mod permit;
mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use stolon_core::proxy::Route;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::{Config, Keepalive};
use super::introduction::Introducers;
use super::metrics::Metrics;
use hold::WaitingRoom;
use permit::Permit;
use serve::serve;

/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// Files kept for the store, metrics, and what the runtime needs.
const RESERVED_FILES: usize = 64;
/// Clients that may be carried at the same time, whatever the limit on files says.
const LEAST_PLACES: usize = 16;
const MOST_PLACES: usize = 1 << 20;
/// How long to wait before trying again to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// How long to wait before trying again to accept, as when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// The relay.
pub(super) struct Relay {
    address: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    metrics: Metrics,
    keepalive: Keepalive,
    introducers: Introducers,
    listen_retry: Duration,
    /// Held by the one task that has the address. One that was aborted may still run, and is waited for.
    listening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    waiting: WaitingRoom,
    refusals: Semaphore,
    /// Clients that can be carried at the same time.
    places: Arc<Semaphore>,
    /// Nothing more is taken from clients: the proxy is stopping.
    last: CancellationToken,
    /// A connection ended.
    left: Notify,
}

struct State {
    permit: Option<Arc<Permit>>,
    why_closed: String,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

struct Connection {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
}

impl Relay {
    /// A relay that may have so many files open.
    pub(super) fn new(config: &Config, metrics: Metrics, files: u64) -> Self {
        let state = State {
            permit: None,
            why_closed: "the cluster data were not read yet".to_owned(),
            connections: BTreeMap::new(),
            next: 0,
        };
        let shared = Shared {
            metrics,
            keepalive: config.keepalive,
            introducers: Introducers::new(&config.proxy_protocol_from),
            listen_retry: LISTEN_RETRY,
            listening: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            // Some places are left for those who need not wait.
            waiting: WaitingRoom::new(config.hold_timeout, config.most_held.min(places(files) / 2)),
            refusals: Semaphore::new(MOST_REFUSALS),
            places: Arc::new(Semaphore::new(places(files))),
            last: CancellationToken::new(),
            left: Notify::new(),
        };
        let host = &config.listen_address;
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{}", config.port)
        } else {
            format!("{host}:{}", config.port)
        };
        Self {
            address,
            shared: Arc::new(shared),
            listener: None,
        }
    }

    /// Accepts clients, or stops to. One that is stopping accepts nobody.
    pub(super) fn listen(&mut self, listen: bool) {
        if let Some(task) = self.listener.take() {
            task.abort();
        }
        if listen && !self.shared.last.is_cancelled() {
            let (address, shared) = (self.address.clone(), self.shared.clone());
            self.listener = Some(tokio::spawn(accept(address, shared)));
        }
    }

    /// Accepts nobody and takes nothing more from clients: their servers see the end of the stream,
    /// finish the statement they are at, and what they answer still goes back.
    pub(super) fn drain(&mut self) {
        self.shared.last.cancel();
        self.listen(false);
    }

    /// Waits until no connection is left.
    pub(super) async fn drained(&self) {
        loop {
            let left = self.shared.left.notified();
            if self.shared.lock().connections.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Lets clients go along a route and nowhere else. When this returns every connection to another
    /// place is gone, and every one whose permit had run out: a permit is prolonged only while it
    /// holds, so that nothing outlives a time in which nobody knew of it (I1).
    pub(super) fn set_route(&self, route: &Route) {
        match route {
            Route::Closed(why) => self.shared.close(why),
            Route::To { target, until } => {
                let mut state = self.shared.lock();
                if let Some(permit) = state
                    .permit
                    .as_ref()
                    .filter(|permit| permit.target == *target && permit.holds())
                {
                    permit.prolong(*until);
                    return;
                }
                self.shared.revoke(&mut state);
                state.permit = Some(Arc::new(Permit::new(target.clone(), *until)));
                self.shared.waiting.tell();
            }
        }
    }

    /// Ends everything.
    pub(super) fn close(&mut self, why: &str) {
        self.listen(false);
        self.shared.close(why);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        let mut state = self.lock();
        why.clone_into(&mut state.why_closed);
        self.revoke(&mut state);
    }

    fn revoke(&self, state: &mut State) {
        if let Some(permit) = state.permit.take() {
            permit.revoke();
        }
        for connection in state.connections.values() {
            abort(&connection.server);
        }
        self.waiting.tell();
        for (_, connection) in std::mem::take(&mut state.connections) {
            abort(&connection.client);
            self.metrics.closed.inc();
        }
    }

    /// The permit in force, or why there is none.
    fn permit(&self) -> Result<Arc<Permit>, String> {
        let state = self.lock();
        if self.last.is_cancelled() {
            return Err("the proxy is stopping".to_owned());
        }
        match &state.permit {
            Some(permit) if permit.holds() => Ok(permit.clone()),
            Some(_) => Err("no check of the cluster data succeeded lately".to_owned()),
            None => Err(state.why_closed.clone()),
        }
    }

    fn leave(&self, id: u64) {
        self.lock().connections.remove(&id);
        self.left.notify_waiters();
    }

    /// Enters a connection, unless its permit has ended meanwhile.
    fn enter(&self, permit: &Arc<Permit>, connection: Connection) -> Option<u64> {
        let mut state = self.lock();
        let current = state
            .permit
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, permit));
        if !current || !permit.holds() {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.connections.insert(id, connection);
        Some(id)
    }
}

/// How many clients can be carried with so many files. Enough are left for refusals and the store: a
/// proxy that clients keep from checking its permission would have to close to all of them.
fn places(files: u64) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let left = files.saturating_sub(MOST_REFUSALS + RESERVED_FILES);
    (left / 2).clamp(LEAST_PLACES, MOST_PLACES)
}

/// Resets a connection at once, dropping what its socket still holds (connect(2) with `AF_UNSPEC`
/// aborts a TCP connection on Linux).
fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(stream);
}

async fn accept(address: String, shared: Arc<Shared>) {
    // Dropped after the listener: when this is aborted at any point.
    let _address = shared.listening.lock().await;
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%error, address, "cannot listen for clients; trying again");
                tokio::time::sleep(shared.listen_retry).await;
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                shared.metrics.accepted.inc();
                tokio::spawn(serve(client, peer, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
