//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the sockets from the closing thread,
//! without waiting for the connections' tasks to be scheduled: the server's side first, with a reset
//! that also drops what its socket still held.

mod carry;
mod peer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use stolon_core::proxy::{Route, Target};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::config::{Config, Keepalive};
use super::greeting;
use super::metrics::Metrics;
use crate::runtime::clock;
use carry::carry;

/// How long connecting to the primary may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// How long to wait before trying again to listen, or to accept when the process is out of files.
const RETRY: Duration = Duration::from_millis(200);

/// The relay.
pub(super) struct Relay {
    address: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    metrics: Metrics,
    keepalive: Keepalive,
    state: Mutex<State>,
    refusals: Arc<Semaphore>,
}

struct State {
    permit: Option<Arc<Permit>>,
    why_closed: String,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

/// Leave to forward to one target.
struct Permit {
    target: Target,
    /// Nanoseconds on the boot clock until which it holds.
    until: AtomicU64,
    revoked: AtomicBool,
}

impl Permit {
    fn holds(&self) -> bool {
        let now = u64::try_from(clock::now().since_boot().as_nanos()).unwrap_or(u64::MAX);
        !self.revoked.load(Ordering::Acquire) && now < self.until.load(Ordering::Acquire)
    }
}

struct Connection {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
}

impl Relay {
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        let state = State {
            permit: None,
            why_closed: "the cluster data were not read yet".to_owned(),
            connections: BTreeMap::new(),
            next: 0,
        };
        let shared = Shared {
            metrics,
            keepalive: config.keepalive,
            state: Mutex::new(state),
            refusals: Arc::new(Semaphore::new(MOST_REFUSALS)),
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

    /// Accepts clients, or stops to.
    pub(super) fn listen(&mut self, listen: bool) {
        if let Some(task) = self.listener.take() {
            task.abort();
        }
        if listen {
            let (address, shared) = (self.address.clone(), self.shared.clone());
            self.listener = Some(tokio::spawn(accept(address, shared)));
        }
    }

    /// Lets clients go along a route and nowhere else. When this returns every connection to another
    /// place is gone, and every one whose permit had run out: a permit is prolonged only while it
    /// holds, so that nothing outlives a time in which nobody knew of it (I1).
    pub(super) fn set_route(&self, route: &Route) {
        match route {
            Route::Closed(why) => self.shared.close(why),
            Route::To { target, until } => {
                let until = u64::try_from(until.since_boot().as_nanos()).unwrap_or(u64::MAX);
                let mut state = self.shared.lock();
                if let Some(permit) = state
                    .permit
                    .as_ref()
                    .filter(|permit| permit.target == *target && permit.holds())
                {
                    permit.until.store(until, Ordering::Release);
                    return;
                }
                self.shared.revoke(&mut state);
                state.permit = Some(Arc::new(Permit {
                    target: target.clone(),
                    until: AtomicU64::new(until),
                    revoked: AtomicBool::new(false),
                }));
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
            permit.revoked.store(true, Ordering::Release);
        }
        for connection in state.connections.values() {
            abort(&connection.server);
        }
        for (_, connection) in std::mem::take(&mut state.connections) {
            abort(&connection.client);
            self.metrics.closed.inc();
        }
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

/// Resets a connection at once, dropping what its socket still holds (connect(2) with `AF_UNSPEC`
/// aborts a TCP connection on Linux).
fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(stream);
}

async fn accept(address: String, shared: Arc<Shared>) {
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%error, address, "cannot listen for clients; trying again");
                tokio::time::sleep(RETRY.saturating_mul(5)).await;
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.metrics.accepted.inc();
                tokio::spawn(serve(client, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let (permit, why) = {
        let state = shared.lock();
        let permit = state.permit.clone().filter(|permit| permit.holds());
        (permit, state.why_closed.clone())
    };
    peer::prepare(&client, shared.keepalive);
    let Some(permit) = permit else {
        return refuse(client, &shared, &why).await;
    };
    let address = (
        permit.target.host.as_str(),
        permit.target.port.parse().unwrap_or(0),
    );
    let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let server = match connecting {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            let why = format!(
                "the primary at {}:{} cannot be reached: {error}",
                address.0, address.1
            );
            return refuse(client, &shared, &why).await;
        }
        Err(_) => {
            let why = format!("the primary at {}:{} does not answer", address.0, address.1);
            return refuse(client, &shared, &why).await;
        }
    };
    peer::prepare(&server, shared.keepalive);
    let (client, server) = (Arc::new(client), Arc::new(server));
    let connection = Connection {
        client: client.clone(),
        server: server.clone(),
    };
    let Some(id) = shared.enter(&permit, connection) else {
        abort(&server);
        abort(&client);
        return;
    };
    shared.metrics.connections.inc();
    let both = async {
        tokio::try_join!(
            carry(&client, &server, &permit),
            carry(&server, &client, &permit)
        )
    };
    let whole = tokio::select! {
        both = both => both.is_ok(),
        () = peer::gone([&client, &server], peer::patience(shared.keepalive)) => false,
    };
    if !whole {
        // One side is broken or gone, or the permit ended: neither may believe that it goes on.
        abort(&server);
        abort(&client);
    }
    shared.lock().connections.remove(&id);
    shared.metrics.connections.dec();
}

/// Tells a client why there is no primary for it, unless too many are being told.
async fn refuse(client: TcpStream, shared: &Shared, why: &str) {
    shared.metrics.refused.inc();
    if let Ok(_place) = shared.refusals.clone().try_acquire_owned() {
        greeting::refuse(client, why).await;
    }
}

#[cfg(test)]
mod tests;
