//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the servers' sockets from the closing
//! thread, without waiting for those who carry: with a reset that also drops what the socket still
//! held. Only then is a client told, by who carries it, where its session can be ended in words.

mod arrival;
mod bulk;
mod cancel;
mod carrier;
mod carry;
mod desk;
mod doors;
mod events;
mod frames;
mod gate;
mod gates;
mod hold;
mod listening;
mod peer;
mod permit;
mod reach;
mod secured;
mod serve;
mod session;

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use stolon_core::proxy::{ReadRoute, Route, Target};
use stolon_core::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{Config, Fallback, Keepalive};
use super::introduction::Introducers;
use super::metrics::Metrics;
use super::tls::Termination;
use crate::runtime::passed::Passed;
use desk::Carriers;
use doors::{Door, Doors};
use hold::WaitingRoom;
use listening::Listening;

/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// Requests to cancel that are handed on at the same time, each to every standby; others wait.
const MOST_CANCELS: usize = 16;
/// What metrics call the end of sessions whose route closed.
const CLOSED: &str = "route-closed";
/// What sockets are called that those who only read come by.
const READING: &str = super::metrics::READING;
/// Files kept for the store, metrics, and what the runtime needs.
const RESERVED_FILES: usize = 64;
/// Clients that may be carried at the same time, whatever the limit on files says.
const LEAST_PLACES: usize = 16;
const MOST_PLACES: usize = 1 << 20;

/// The relay.
pub(super) struct Relay {
    shared: Arc<Shared>,
    listening: Listening,
    /// None: no port leads to standbys.
    reading: Option<Listening>,
}

struct Shared {
    metrics: Metrics,
    keepalive: Keepalive,
    introducers: Introducers,
    /// None: the TLS of clients passes through.
    tls: OnceLock<Arc<Termination>>,
    doors: Arc<Doors>,
    waiting: WaitingRoom,
    /// For those who read.
    waiting_to_read: WaitingRoom,
    /// Those who read go to the primary where there is no standby for them.
    falls_back: bool,
    carriers: Carriers,
    refusals: Semaphore,
    /// Requests to cancel that may be handed on at the same time.
    cancels: Semaphore,
    /// Clients that can be carried at the same time.
    places: Arc<Semaphore>,
    /// Nothing more is taken from clients: the proxy is stopping.
    last: CancellationToken,
    /// Everybody who was accepted and has not gone, and the gates that somebody may still come by.
    clients: TaskTracker,
    /// For carriers, who are none of its threads.
    runtime: Handle,
}

impl Relay {
    /// A relay that may have so many files open.
    ///
    /// # Errors
    ///
    /// When the system gives no threads to carry with.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub(super) fn new(config: &Config, metrics: &Metrics, files: u64) -> std::io::Result<Self> {
        // A session by TLS has its server's socket twice.
        let files = if config.tls.is_some() {
            files / 3 * 2
        } else {
            files
        };
        let doors = if config.reading.is_some() { 2 } else { 1 };
        // Some places are left for those who need not wait.
        let seats = config.most_held.min(places(files) / 2 / doors);
        let shared = Shared {
            metrics: metrics.clone(),
            keepalive: config.keepalive,
            introducers: Introducers::new(&config.proxy_protocol_from),
            tls: OnceLock::new(),
            doors: Arc::new(Doors::new(metrics.clone())),
            waiting: WaitingRoom::new(config.hold_timeout, seats),
            waiting_to_read: WaitingRoom::new(config.hold_timeout, seats),
            falls_back: config
                .reading
                .as_ref()
                .is_some_and(|reading| reading.fallback == Fallback::Primary),
            carriers: Carriers::start(config.threads, peer::patience(config.keepalive))?,
            refusals: Semaphore::new(MOST_REFUSALS),
            cancels: Semaphore::new(MOST_CANCELS),
            places: Arc::new(Semaphore::new(places(files))),
            last: CancellationToken::new(),
            clients: TaskTracker::new(),
            runtime: Handle::current(),
        };
        let shared = Arc::new(shared);
        let listening = |host: &str, port, door| Listening::new(host, port, door, shared.clone());
        let reading = config.reading.as_ref();
        let reading = reading.map(|to| listening(&to.listen_address, to.port, Door::Reading));
        Ok(Self {
            listening: listening(&config.listen_address, config.port, Door::Primary),
            reading,
            shared,
        })
    }

    /// Accepts clients, or stops to. One that has retired accepts nobody.
    pub(super) fn listen(&mut self, listen: bool) {
        for listening in self.all_listening() {
            listening.listen(listen);
        }
    }

    fn all_listening(&mut self) -> impl Iterator<Item = &mut Listening> {
        std::iter::once(&mut self.listening).chain(&mut self.reading)
    }

    /// Lets the TLS of clients end here, from the first on.
    pub(super) fn terminate(&self, tls: Arc<Termination>) {
        // It is told once.
        let _ = self.shared.tls.set(tls);
    }

    /// Uses sockets that this process was started with: for those who only read the ones of that name,
    /// for the others all others.
    pub(super) fn give(&mut self, sockets: Vec<Passed>) {
        let to_read = |passed: &Passed| passed.name == READING;
        let (to_read, others): (Vec<_>, Vec<_>) = sockets.into_iter().partition(to_read);
        self.listening.give(others);
        if let Some(reading) = &mut self.reading {
            reading.give(to_read);
        } else if !to_read.is_empty() {
            tracing::warn!(
                "a socket called {READING:?} was passed, and is closed: without --read-only-port there is nothing for it"
            );
        }
    }

    /// The sockets where clients come in now, for a successor.
    pub(super) fn sockets(&self) -> std::io::Result<Vec<Passed>> {
        let mut sockets = self.listening.sockets("clients")?;
        if let Some(reading) = &self.reading {
            sockets.extend(reading.sockets(READING)?);
        }
        Ok(sockets)
    }

    /// Accepts nobody any more; who is there already goes on.
    pub(super) fn retire(&mut self) {
        for listening in self.all_listening() {
            listening.retire();
        }
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
        self.shared.doors.connections()
    }

    /// Lets clients go along a route and nowhere else: when this returns every connection to another
    /// place is gone (I1).
    pub(super) fn set_route(&self, route: &Route) {
        match route {
            Route::Closed(why) => self.shared.close(Door::Primary, why, CLOSED),
            Route::To { target, until } => {
                self.shared
                    .open(Door::Primary, vec![(target.clone(), *until)]);
            }
        }
    }

    /// The same for those who only read.
    pub(super) fn set_read_route(&self, route: &ReadRoute) {
        match route {
            ReadRoute::Closed(why) => self.shared.close(Door::Reading, why, CLOSED),
            ReadRoute::To(targets) => self.shared.open(Door::Reading, targets.clone()),
        }
    }

    /// Ends everything.
    pub(super) fn close(&mut self, why: &str) {
        self.listen(false);
        for door in [Door::Primary, Door::Reading] {
            self.shared.close(door, why, "stopping");
        }
    }
}

impl Shared {
    /// Serves a client in a task of its own, which a relay that stops waits for.
    fn spawn(&self, serve: impl Future<Output = ()> + Send + 'static) {
        self.clients.spawn_on(serve, &self.runtime);
    }

    const fn waiting(&self, door: Door) -> &WaitingRoom {
        match door {
            Door::Primary => &self.waiting,
            Door::Reading => &self.waiting_to_read,
        }
    }

    fn open(&self, door: Door, targets: Vec<(Target, Instant)>) {
        if self.doors.open(door, targets) {
            self.tell(door);
        }
    }

    fn close(&self, door: Door, why: &str, cause: &'static str) {
        self.doors.close(door, (why, cause));
        self.tell(door);
    }

    /// Wakes who may be let through now, or hear another reason why not.
    fn tell(&self, door: Door) {
        self.waiting(door).tell();
        self.carriers.look_around();
        if door == Door::Primary && self.falls_back {
            self.waiting_to_read.tell();
        }
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
