//! One client: who it is, its way to the primary, or why there is none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::proxy::Target;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::super::greeting::{self, Refusal};
use super::carry::carry;
use super::hold::{Left, hold};
use super::permit::Permit;
use super::{Connection, Shared, abort, peer};

/// How long connecting to the primary may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a client may take to say who it is and to hear why it is refused.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// A server that has not answered a client's first words for so long does not answer at all:
/// PostgreSQL asks for a password, or refuses, within milliseconds.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Why a client was not let through although there was a primary when it was tried.
const CHANGED: &str = "the primary has just changed";

/// Serves one client from its first byte to its last.
pub(super) async fn serve(mut client: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    peer::prepare(&client, shared.keepalive);
    let Ok(_place) = shared.places.clone().try_acquire_owned() else {
        return refuse(client, peer, &shared, &Refusal::Full).await;
    };
    let Some(from) = introduced(&mut client, peer, &shared).await else {
        return;
    };
    let admitted = match admit(&shared).await {
        Ok(admitted) => Ok(admitted),
        Err(why) => hold(&client, &shared, why).await,
    };
    match admitted {
        Ok((permit, server)) => {
            let Target { host, port, .. } = &permit.target;
            tracing::debug!(client = %from, via = %peer, "letting a client through to {host}:{port}");
            serve_between(client, server, &permit, &shared).await;
            tracing::debug!(client = %from, "a client has left");
        }
        Err(Left::Refused(why)) => {
            tracing::debug!(client = %from, via = %peer, why, "refusing a client");
            refuse(client, peer, &shared, &Refusal::NoPrimary(why)).await;
        }
        Err(Left::Gone) => tracing::debug!(client = %from, via = %peer, "a client did not wait"),
    }
}

/// Who a client is; none: it did not say so as it should, and is left.
async fn introduced(
    client: &mut TcpStream,
    peer: SocketAddr,
    shared: &Shared,
) -> Option<SocketAddr> {
    let named = shared.introducers.client(client, peer, REFUSAL_LIMIT).await;
    named
        .inspect_err(|error| {
            shared.metrics.not_introduced.inc();
            tracing::debug!(%error, via = %peer, "closing a connection without a client's address");
        })
        .ok()
}

/// A permit, and a connection to where it leads.
pub(super) type Admitted = (Arc<Permit>, TcpStream);

/// A connection to the primary that clients may reach now, or why there is none.
pub(super) async fn admit(shared: &Shared) -> Result<Admitted, String> {
    let permit = shared.permit()?;
    let server = tokio::select! {
        biased;
        // An attempt to connect to a host that is gone is not waited out.
        () = permit.revoked() => return Err(CHANGED.to_owned()),
        connected = permit.reach.connect(CONNECT_LIMIT) => connected?,
    };
    // Nothing was read from the client yet: it can still be told when this ended meanwhile.
    let current = shared.permit()?;
    if !Arc::ptr_eq(&current, &permit) {
        return Err(CHANGED.to_owned());
    }
    peer::prepare(&server, shared.keepalive);
    Ok((permit, server))
}

async fn serve_between(
    client: TcpStream,
    server: TcpStream,
    permit: &Arc<Permit>,
    shared: &Shared,
) {
    let (client, server) = (Arc::new(client), Arc::new(server));
    let connection = Connection {
        client: client.clone(),
        server: server.clone(),
    };
    let Some(id) = shared.enter(permit, connection) else {
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
        never = watch_answers(&client, &server, permit) => match never {},
    };
    if !whole {
        // One side is broken or gone, or the permit ended: neither may believe that it goes on.
        abort(&server);
        abort(&client);
    }
    shared.leave(id);
    shared.metrics.connections.dec();
}

/// Notes whether the server of a session says anything, which the relay can do nothing about.
async fn watch_answers(client: &TcpStream, server: &TcpStream, permit: &Permit) -> Infallible {
    tokio::time::sleep(SILENT_AFTER).await;
    if peer::received(client) > 0 {
        permit.reach.answered(peer::received(server) > 0);
    }
    std::future::pending().await
}

/// Tells a client why it is refused, unless too many are being told.
async fn refuse(mut client: TcpStream, peer: SocketAddr, shared: &Shared, why: &Refusal) {
    shared.metrics.refused.inc();
    let place = match why {
        // Those who had a place are few, and may all have waited until now.
        Refusal::NoPrimary(_) => {
            let free = tokio::time::timeout(REFUSAL_LIMIT, shared.refusals.acquire());
            free.await.ok().and_then(Result::ok)
        }
        Refusal::Full => shared.refusals.try_acquire().ok(),
    };
    if place.is_none() {
        return;
    }
    if *why == Refusal::Full && introduced(&mut client, peer, shared).await.is_none() {
        return;
    }
    greeting::refuse(client, why, REFUSAL_LIMIT).await;
}
