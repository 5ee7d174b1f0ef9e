//! One client: who it is, its way to the primary, or why there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::proxy::Target;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use super::super::greeting::{self, Refusal};
use super::super::tls::Wish;
use super::hold::{Left, hold};
use super::permit::Permit;
use super::session::{Guest, Session};
use super::{Connection, Shared, abort, peer, secured};

/// How long connecting to the primary may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a client may take to say who it is and to hear why it is refused.
pub(super) const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// Why a client was not let through, or does not go on, although there was a primary.
pub(super) const CHANGED: &str = "the primary has just changed";

/// Serves one client from its first byte until it is carried, or refused.
pub(super) async fn serve(mut client: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    peer::prepare(&client, shared.keepalive);
    let Ok(place) = shared.places.clone().try_acquire_owned() else {
        return refuse(client, peer, &shared, &Refusal::Full).await;
    };
    let Some(from) = introduced(&mut client, peer, &shared).await else {
        return;
    };
    if let Some(tls) = shared.tls.get() {
        match tls.wish(&mut client, REFUSAL_LIMIT).await {
            Ok(Wish::Plain) => {}
            Ok(wish @ (Wish::Tls | Wish::DirectTls)) => {
                return secured::serve(client, (from, place), wish, tls, &shared).await;
            }
            Ok(Wish::Refused) => return refuse(client, peer, &shared, &Refusal::WithoutTls).await,
            Err(error) => return tracing::debug!(client = %from, %error, "it began no session"),
        }
    }
    match admitted(&client, &shared).await {
        Ok((permit, server)) => {
            let Target { host, port, .. } = &permit.target;
            tracing::debug!(client = %from, via = %peer, "letting a client through to {host}:{port}");
            if let Err(error) = begin(client, server, &permit, &shared, (from, place)) {
                tracing::warn!(%error, client = %from, "cannot carry a client");
            }
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

/// A connection to the primary as soon as there is one, or why not within the time of a hold.
pub(super) async fn admitted(client: &TcpStream, shared: &Shared) -> Result<Admitted, Left> {
    match admit(shared).await {
        Ok(admitted) => Ok(admitted),
        Err(why) => hold(client, shared, why).await,
    }
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

/// Has a session carried, unless its permit has ended meanwhile.
fn begin(
    client: TcpStream,
    server: TcpStream,
    permit: &Arc<Permit>,
    shared: &Arc<Shared>,
    (from, place): (SocketAddr, OwnedSemaphorePermit),
) -> std::io::Result<()> {
    let (client, server) = (Arc::new(client.into_std()?), Arc::new(server.into_std()?));
    let connection = Connection {
        #[cfg(test)]
        client: client.clone(),
        server: server.clone(),
    };
    let Some(id) = shared.enter(permit, connection) else {
        abort(&server);
        abort(&client);
        return Ok(());
    };
    let guest = Guest::new(shared.clone(), id, from, place);
    let session = Session::new(client, server, permit.clone(), guest);
    shared.carriers.carry(session);
    Ok(())
}

/// Tells a client why it is refused, unless too many are being told.
async fn refuse(mut client: TcpStream, peer: SocketAddr, shared: &Shared, why: &Refusal) {
    let Some(_place) = may_be_told(why, shared).await else {
        return;
    };
    if *why == Refusal::Full && introduced(&mut client, peer, shared).await.is_none() {
        return;
    }
    greeting::refuse(client, why, REFUSAL_LIMIT).await;
}

/// Leave to tell a client why it is refused.
pub(super) async fn may_be_told<'a>(
    why: &Refusal,
    shared: &'a Shared,
) -> Option<SemaphorePermit<'a>> {
    shared.metrics.refused.inc();
    match why {
        // Those who had a place are few, and may all have waited until now.
        Refusal::NoPrimary(_) | Refusal::WithoutTls => {
            let free = tokio::time::timeout(REFUSAL_LIMIT, shared.refusals.acquire());
            free.await.ok().and_then(Result::ok)
        }
        Refusal::Full => shared.refusals.try_acquire().ok(),
    }
}
