//! A client that has just come to the primary's door, and is on its way there.
//!
//! A carrier takes it there by itself, so that a new session costs no more than its sockets do. Nothing
//! here waits, and nothing is read of the client: whatever is not as usual is left to a task ([`serve`]),
//! which begins as if the client had just come.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use stolon_core::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::doors::{Connection, Door};
use super::gate::Gate;
use super::permit::{Coming, Permit};
use super::serve::{self, CONNECT_LIMIT};
use super::session::{Guest, Session};
use super::{Shared, peer};

/// A client and the connection to its server that is being made.
pub(super) struct Arrival {
    shared: Arc<Shared>,
    client: TcpStream,
    from: SocketAddr,
    place: OwnedSemaphorePermit,
    pub(super) server: TcpStream,
    permit: Arc<Permit>,
    began: Instant,
    _coming: Coming,
    /// A relay that stops waits for it.
    _counted: TaskTrackerToken,
}

impl Arrival {
    /// Begins to connect a client to the primary; none: it is another's business.
    pub(super) fn begin(
        client: TcpStream,
        from: SocketAddr,
        gate: &Gate,
        now: Instant,
    ) -> Option<Self> {
        let shared = &gate.shared;
        if let Some((permit, server, place)) = way(shared, gate.door, from) {
            return Some(Self {
                shared: shared.clone(),
                client,
                from,
                place,
                server,
                began: now,
                _coming: permit.coming(),
                _counted: shared.clients.token(),
                permit,
            });
        }
        shared.spawn(serve::serve(client, from, gate.door, shared.clone()));
        None
    }

    /// Until when the server may take to answer.
    pub(super) fn until(&self) -> Instant {
        self.began.after(CONNECT_LIMIT)
    }

    /// Whether it may still go where it goes.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.permit.holds() && !self.shared.last.is_cancelled()
    }

    /// The server's socket has become ready: there is a session, or, where its permit has just ended,
    /// none.
    pub(super) fn connected(self, now: Instant) -> Option<Session> {
        let took = now.since(self.began).as_secs_f64();
        self.shared.metrics.connect_time.observe(took);
        self.permit.reach.reached();
        if !self.is_on_its_way() {
            self.turns_round();
            return None;
        }
        let (client, server) = (Arc::new(self.client), Arc::new(self.server));
        let connection = Connection::new(&client, &server, &self.permit);
        let Some(id) = self.shared.doors.enter(connection) else {
            // Nobody else has it.
            if let Some(client) = Arc::into_inner(client) {
                serve_again(&self.shared, client, (self.from, self.place), None);
            }
            return None;
        };
        tracing::debug!(client = %self.from, "letting a client through to {}", self.permit.reach);
        let guest = Guest::new(
            self.shared,
            (id, self.permit.clone()),
            self.from,
            self.place,
        );
        Some(Session::new(client, server, self.permit, guest))
    }

    /// What is the matter with the server's socket, if anything is. It is told once.
    pub(super) fn error(&self) -> Option<Errno> {
        sockopt::socket_error(&self.server).map_or_else(Some, Result::err)
    }

    /// The server's socket is broken.
    pub(super) fn failed(self, error: Errno) {
        let why = self.permit.reach.refused(&error.into());
        serve_again(
            &self.shared,
            self.client,
            (self.from, self.place),
            Some(why),
        );
    }

    /// The server did not answer in time.
    pub(super) fn gives_up(self) {
        let why = self.permit.reach.too_late();
        serve_again(
            &self.shared,
            self.client,
            (self.from, self.place),
            Some(why),
        );
    }

    /// The way that it was on is closed. There may be another one.
    pub(super) fn turns_round(self) {
        serve_again(&self.shared, self.client, (self.from, self.place), None);
    }
}

/// A way to the primary that needs nothing else: no TLS, no header of a balancer, no question for a name.
fn way(
    shared: &Shared,
    door: Door,
    from: SocketAddr,
) -> Option<(Arc<Permit>, TcpStream, OwnedSemaphorePermit)> {
    let is_plain = door == Door::Primary
        && shared.tls.get().is_none()
        && !shared.introducers.include(from.ip())
        && !shared.last.is_cancelled();
    let permits = is_plain.then(|| shared.doors.permits(door).ok())??;
    let permit = permits.into_iter().next()?;
    let address = permit.reach.address()?;
    let place = shared.places.clone().try_acquire_owned().ok()?;
    let server = connect(address).ok()?;
    peer::prepare_server(&server, shared.keepalive);
    Some((permit, server, place))
}

/// Begins to connect.
fn connect(address: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

/// Leaves a client to a task.
fn serve_again(
    shared: &Arc<Shared>,
    client: TcpStream,
    guest: (SocketAddr, OwnedSemaphorePermit),
    why: Option<String>,
) {
    shared.spawn(serve::serve_again(client, guest, shared.clone(), why));
}
