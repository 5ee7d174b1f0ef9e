//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the sockets from the closing thread,
//! without waiting for the connections' tasks to be scheduled: the server's side first, with a reset
//! that also drops what its socket still held.

mod accept;
mod cancel;
mod carry;
mod hold;
mod peer;
mod permit;
mod ways;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use stolon_core::proxy::{Passage, Passages, Route, Target};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::{Config, Keepalive, Listening};
use super::greeting::{self, Refusal};
use super::metrics::{Metrics, Port};
use accept::accept;
use carry::carry;
use hold::{Left, WaitingRoom, hold};
use permit::Permit;
use ways::{Seat, Ways};

/// How long connecting to the primary may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// Files kept for the store, metrics, and what the runtime needs.
const RESERVED_FILES: usize = 64;
/// Clients that may be carried at the same time, whatever the limit on files says.
const LEAST_PLACES: usize = 16;
const MOST_PLACES: usize = 1 << 20;
/// How long a client may take to say who it is and to hear why it is refused.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to begin, where it matters what it begins with: PostgreSQL's own limit
/// (`authentication_timeout`).
const BEGINNING_LIMIT: Duration = Duration::from_mins(1);
/// How long to wait before trying again to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(1);

/// Why a client was not let through although there was a way for it when it was tried.
const CHANGED: &str = "where clients go has just changed";

/// The relay of one port.
pub(super) struct Relay {
    address: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    port: Port,
    metrics: Metrics,
    keepalive: Keepalive,
    listen_retry: Duration,
    /// Held by the one task that has the address. One that was aborted may still run, and is waited for.
    listening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    waiting: WaitingRoom,
    refusals: Semaphore,
    /// Clients that can be carried at the same time, by all ports.
    places: Arc<Semaphore>,
    /// Nothing more is taken from clients: the proxy is stopping.
    last: CancellationToken,
    /// A connection ended.
    left: Notify,
}

struct State {
    ways: Ways,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

struct Connection {
    permit: Arc<Permit>,
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
}

/// Places for clients, as many as these files allow.
pub(super) fn places_for(files: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places(files)))
}

impl Relay {
    /// A relay that listens there; the places are those of all relays.
    pub(super) fn new(
        listening: &Listening,
        config: &Config,
        (port, metrics): (Port, Metrics),
        places: &Arc<Semaphore>,
    ) -> Self {
        let state = State {
            ways: Ways::default(),
            connections: BTreeMap::new(),
            next: 0,
        };
        // Some places are left for those who need not wait, of two ports.
        let most_held = config.most_held.min(places.available_permits() / 4);
        let shared = Shared {
            port,
            metrics,
            keepalive: config.keepalive,
            listen_retry: LISTEN_RETRY,
            listening: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            waiting: WaitingRoom::new(config.hold_timeout, most_held),
            refusals: Semaphore::new(MOST_REFUSALS),
            places: places.clone(),
            last: CancellationToken::new(),
            left: Notify::new(),
        };
        Self {
            address: listening.to_string(),
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

    /// Lets clients go along a route and nowhere else, as [`Relay::set_passages`] says.
    pub(super) fn set_route(&self, route: &Route) {
        let passages = match route {
            Route::Closed(why) => Passages {
                to: Vec::new(),
                closed: why.clone(),
            },
            Route::To { target, until } => Passages {
                to: vec![Passage {
                    target: target.clone(),
                    until: *until,
                    is_spare: false,
                }],
                closed: String::new(),
            },
        };
        self.set_passages(&passages);
    }

    /// Lets clients go these ways and no others. When this returns every connection to another place
    /// is gone, and every one whose permit had run out: a permit is prolonged only while it holds, so
    /// that nothing outlives a time in which nobody knew of it (I1).
    pub(super) fn set_passages(&self, passages: &Passages) {
        self.shared.set_passages(passages);
    }

    /// Ends everything.
    pub(super) fn close(&mut self, why: &str) {
        self.listen(false);
        self.set_route(&Route::Closed(why.to_owned()));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_passages(&self, passages: &Passages) {
        let mut state = self.lock();
        let news = state.ways.set(passages);
        let is_gone = |connection: &Connection| connection.permit.is_revoked();
        for connection in state.connections.values().filter(|c| is_gone(c)) {
            abort(&connection.server);
        }
        if news {
            self.waiting.tell();
        }
        for (_, connection) in state.connections.extract_if(.., |_, c| is_gone(c)) {
            abort(&connection.client);
            self.metrics.closed.inc();
        }
    }

    /// A seat on the best way that was not tried yet, or why there is none.
    fn seat(&self, tried: &[Arc<Permit>]) -> Result<Seat, String> {
        if self.last.is_cancelled() {
            return Err("the proxy is stopping".to_owned());
        }
        self.lock().ways.seat(tried)
    }

    fn is_current(&self, permit: &Arc<Permit>) -> bool {
        !self.last.is_cancelled() && self.lock().ways.has(permit)
    }

    fn leave(&self, id: u64) {
        self.lock().connections.remove(&id);
        self.left.notify_waiters();
    }

    /// Enters a connection, unless its permit has ended meanwhile.
    fn enter(&self, connection: Connection) -> Option<u64> {
        let mut state = self.lock();
        if !state.ways.has(&connection.permit) {
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

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    peer::prepare(&client, shared.keepalive);
    let Ok(_place) = shared.places.clone().try_acquire_owned() else {
        return refuse(client, &shared, &Refusal::Full).await;
    };
    if shared.port == Port::ReadOnly {
        // Whose session it is about only the servers know.
        match greeting::asks_to_cancel(&client, BEGINNING_LIMIT).await {
            Ok(true) => return cancel::pass_on(client, &shared).await,
            Ok(false) => {}
            Err(_) => return,
        }
    }
    let admitted = match admit(&shared).await {
        Ok(admitted) => Ok(admitted),
        Err(why) => hold(&client, &shared, why).await,
    };
    match admitted {
        Ok((seat, server)) => serve_between(client, server, &seat, &shared).await,
        Err(Left::Refused(why)) => refuse(client, &shared, &shared.port.nowhere(why)).await,
        Err(Left::Gone) => {}
    }
}

/// A seat, and a connection to where it leads.
type Admitted = (Seat, TcpStream);

/// A connection to an instance that clients may reach now, or why there is none.
async fn admit(shared: &Shared) -> Result<Admitted, String> {
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let seat = match shared.seat(&tried) {
            Ok(seat) => seat,
            Err(why) => return Err(last.unwrap_or(why)),
        };
        match connect(seat.permit(), shared).await {
            Ok(server) => return Ok((seat, server)),
            Err(why) => last = Some(why),
        }
        tried.push(seat.permit().clone());
    }
}

async fn connect(permit: &Arc<Permit>, shared: &Shared) -> Result<TcpStream, String> {
    let Target { host, port, .. } = &permit.target;
    let address = (host.as_str(), port.parse().unwrap_or(0));
    let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address));
    let connected = tokio::select! {
        biased;
        // An attempt to connect to a host that is gone is not waited out.
        () = permit.revoked() => return Err(CHANGED.to_owned()),
        connected = connecting => connected,
    };
    let name = shared.port.name_of_target();
    let server = match connected {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            permit.failed();
            return Err(format!(
                "the {name} at {host}:{port} cannot be reached: {error}"
            ));
        }
        Err(_) => {
            permit.failed();
            return Err(format!("the {name} at {host}:{port} does not answer"));
        }
    };
    // Nothing was read from the client yet: it can still be told when this ended meanwhile.
    if !shared.is_current(permit) {
        return Err(CHANGED.to_owned());
    }
    peer::prepare(&server, shared.keepalive);
    Ok(server)
}

async fn serve_between(client: TcpStream, server: TcpStream, seat: &Seat, shared: &Shared) {
    let (client, server, permit) = (Arc::new(client), Arc::new(server), seat.permit());
    let connection = Connection {
        permit: permit.clone(),
        client: client.clone(),
        server: server.clone(),
    };
    let Some(id) = shared.enter(connection) else {
        abort(&server);
        abort(&client);
        return;
    };
    shared.metrics.connections.inc();
    let never = CancellationToken::new();
    let both = async {
        tokio::try_join!(
            carry(&client, &server, permit, &shared.last),
            carry(&server, &client, permit, &never)
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
    shared.leave(id);
    shared.metrics.connections.dec();
}

/// Tells a client why it is refused, unless too many are being told.
async fn refuse(client: TcpStream, shared: &Shared, why: &Refusal) {
    shared.metrics.refused.inc();
    let place = match why {
        // Those who had a place are few, and may all have waited until now.
        Refusal::NoPrimary(_) | Refusal::NoStandby(_) => {
            let free = tokio::time::timeout(REFUSAL_LIMIT, shared.refusals.acquire());
            free.await.ok().and_then(Result::ok)
        }
        Refusal::Full => shared.refusals.try_acquire().ok(),
    };
    if place.is_some() {
        greeting::refuse(client, why, REFUSAL_LIMIT).await;
    }
}

#[cfg(test)]
mod tests;
