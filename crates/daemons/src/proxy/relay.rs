//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the servers' sockets from the closing
//! thread, without waiting for those who carry: with a reset that also drops what the socket still
//! held. Only then is a client told, by who carries it, where its session can be ended in words.

mod carrier;
mod carry;
mod frames;
mod hold;
mod peer;
mod permit;
mod reach;
mod secured;
mod serve;
mod session;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use stolon_core::proxy::Route;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Config, Keepalive};
use super::introduction::Introducers;
use super::listening::{Listening, Serve};
use super::metrics::Metrics;
use super::tls::Termination;
use crate::runtime::passed::Passed;
use carrier::Carriers;
use hold::WaitingRoom;
use permit::Permit;
use serve::{CHANGED, serve};

/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// Files kept for the store, metrics, and what the runtime needs.
const RESERVED_FILES: usize = 64;
/// Clients that may be carried at the same time, whatever the limit on files says.
const LEAST_PLACES: usize = 16;
const MOST_PLACES: usize = 1 << 20;

/// The relay.
pub(super) struct Relay {
    shared: Arc<Shared>,
    listening: Listening,
}

struct Shared {
    metrics: Metrics,
    keepalive: Keepalive,
    introducers: Introducers,
    /// None: the TLS of clients passes through.
    tls: OnceLock<Arc<Termination>>,
    state: Mutex<State>,
    waiting: WaitingRoom,
    carriers: Carriers,
    refusals: Semaphore,
    /// Clients that can be carried at the same time.
    places: Arc<Semaphore>,
    /// Nothing more is taken from clients: the proxy is stopping.
    last: CancellationToken,
    /// Everybody who was accepted and has not gone.
    clients: TaskTracker,
}

struct State {
    permit: Option<Arc<Permit>>,
    why_closed: String,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

struct Connection {
    #[cfg(test)]
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
}

impl Relay {
    /// A relay that may have so many files open.
    ///
    /// # Errors
    ///
    /// When the system gives no threads to carry with.
    pub(super) fn new(config: &Config, metrics: Metrics, files: u64) -> std::io::Result<Self> {
        // A session by TLS has its server's socket twice.
        let files = if config.tls.is_some() {
            files / 3 * 2
        } else {
            files
        };
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
            tls: OnceLock::new(),
            state: Mutex::new(state),
            // Some places are left for those who need not wait.
            waiting: WaitingRoom::new(config.hold_timeout, config.most_held.min(places(files) / 2)),
            carriers: Carriers::start(peer::patience(config.keepalive))?,
            refusals: Semaphore::new(MOST_REFUSALS),
            places: Arc::new(Semaphore::new(places(files))),
            last: CancellationToken::new(),
            clients: TaskTracker::new(),
        };
        let shared = Arc::new(shared);
        let of_all = shared.clone();
        let serve: Serve = Arc::new(move |client, peer| {
            of_all.clients.spawn(serve(client, peer, of_all.clone()));
        });
        let metrics = shared.metrics.clone();
        Ok(Self {
            shared,
            listening: Listening::new(&config.listen_address, config.port, metrics, serve),
        })
    }

    /// Accepts clients, or stops to. One that has retired accepts nobody.
    pub(super) fn listen(&mut self, listen: bool) {
        self.listening.listen(listen);
    }

    /// Lets the TLS of clients end here, from the first on.
    pub(super) fn terminate(&self, tls: Arc<Termination>) {
        // It is told once.
        let _ = self.shared.tls.set(tls);
    }

    /// Uses sockets that this process was started with.
    pub(super) fn give(&mut self, sockets: Vec<Passed>) {
        self.listening.give(sockets);
    }

    /// The sockets where clients come in now, for a successor.
    pub(super) fn sockets(&self) -> std::io::Result<Vec<Passed>> {
        self.listening.sockets("clients")
    }

    /// Accepts nobody any more; who is there already goes on.
    pub(super) fn retire(&mut self) {
        self.listening.retire();
        self.shared.clients.close();
    }

    /// Accepts nobody and takes nothing more from clients: their servers see the end of the stream,
    /// finish the statement they are at, and what they answer still goes back. Who is held is refused.
    pub(super) fn drain(&mut self) {
        self.retire();
        self.shared.last.cancel();
        self.shared.carriers.drain();
    }

    /// Waits until nobody is left: carried, held, or to be told why not. For one that has retired.
    pub(super) async fn drained(&self) {
        self.shared.clients.wait().await;
    }

    /// How many connections are carried.
    pub(super) fn connections(&self) -> usize {
        self.shared.lock().connections.len()
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
                self.shared.revoke(&mut state, CHANGED);
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
        self.revoke(&mut state, why);
    }

    /// Ends every session: when this returns nothing reaches a server any more. Those who carry them
    /// hear of it from the sockets, and tell the clients.
    fn revoke(&self, state: &mut State, why: &str) {
        if let Some(permit) = state.permit.take() {
            permit.revoke(why);
        }
        for (_, connection) in std::mem::take(&mut state.connections) {
            abort(&connection.server);
            self.metrics.closed.inc();
        }
        self.waiting.tell();
    }

    /// The permit in force, or why there is none.
    fn permit(&self) -> Result<Arc<Permit>, String> {
        let state = self.lock();
        if self.last.is_cancelled() {
            return Err("the proxy is stopping".to_owned());
        }
        match &state.permit {
            Some(permit) if permit.holds() => Ok(permit.clone()),
            Some(permit) => Err(permit.why_ended().to_owned()),
            None => Err(state.why_closed.clone()),
        }
    }

    fn leave(&self, id: u64) {
        self.lock().connections.remove(&id);
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
fn abort(stream: &impl AsFd) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(stream);
}

#[cfg(test)]
mod tests;
