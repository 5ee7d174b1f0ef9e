//! One client that is not let through at once ([`arrival`](super::arrival)): who it is, its way to the
//! primary or to a standby, or why there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use super::super::greeting::{self, Refusal};
use super::super::tls::Wish;
use super::doors::{Connection, Door, Doors};
use super::hold::{Left, hold};
use super::permit::Permit;
use super::session::{Guest, Session};
use super::{Shared, abort, cancel, peer, secured};
use crate::runtime::clock;

/// How long connecting to the primary may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait before a standby is tried again that could not be reached.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How long a client may take to say who it is and to hear why it is refused.
pub(super) const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// Serves one client from its first byte until it is carried, or refused. Its socket must not block.
pub(super) async fn serve(
    client: std::net::TcpStream,
    peer: SocketAddr,
    door: Door,
    shared: Arc<Shared>,
) {
    let Some(mut client) = watched(client) else {
        return;
    };
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
                return secured::serve(client, (from, place), (wish, door), tls, &shared).await;
            }
            Ok(Wish::Refused) => return refuse(client, peer, &shared, &Refusal::WithoutTls).await,
            Err(error) => return tracing::debug!(client = %from, %error, "it began no session"),
        }
    }
    if door == Door::Reading && greeting::asks_to_cancel(&client, REFUSAL_LIMIT).await {
        return cancel::hand_on(client, &shared, CONNECT_LIMIT).await;
    }
    let admitted = admitted(&client, &shared, door).await;
    settle(client, (from, place), door, &shared, admitted).await;
}

/// Serves a client on whose way to the primary something has changed, as if it had just come; where
/// there was no way because of `why`, as one that has tried already. Nothing was read of it.
pub(super) async fn serve_again(
    client: std::net::TcpStream,
    guest: (SocketAddr, OwnedSemaphorePermit),
    shared: Arc<Shared>,
    why: Option<String>,
) {
    let Some(client) = watched(client) else {
        return;
    };
    let admitted = match why {
        Some(why) => hold(&client, &shared, Door::Primary, why).await,
        None => admitted(&client, &shared, Door::Primary).await,
    };
    settle(client, guest, Door::Primary, &shared, admitted).await;
}

/// A client's socket for a task.
fn watched(client: std::net::TcpStream) -> Option<TcpStream> {
    let watched = TcpStream::from_std(client);
    watched
        .inspect_err(|error| tracing::warn!(%error, "cannot serve a client"))
        .ok()
}

/// Has a client carried that was admitted, and tells another one why not.
async fn settle(
    client: TcpStream,
    (from, place): (SocketAddr, OwnedSemaphorePermit),
    door: Door,
    shared: &Arc<Shared>,
    admitted: Result<Admitted, Left>,
) {
    match admitted {
        Ok((permit, server)) => {
            tracing::debug!(client = %from, "letting a client through to {}", permit.reach);
            if let Err(error) = begin(client, server, &permit, shared, (from, place)) {
                tracing::warn!(%error, client = %from, "cannot carry a client");
            }
        }
        Err(Left::Refused(why)) => {
            tracing::debug!(client = %from, why, "refusing a client");
            tell_refused(client, &door.refusal(why), shared).await;
        }
        Err(Left::Gone) => tracing::debug!(client = %from, "a client did not wait"),
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

/// A connection to a server behind a door as soon as there is one, or why not within the time of a hold.
pub(super) async fn admitted(
    client: &TcpStream,
    shared: &Shared,
    door: Door,
) -> Result<Admitted, Left> {
    match admit(shared, door).await {
        Ok(admitted) => Ok(admitted),
        Err(why) => hold(client, shared, door, why).await,
    }
}

/// A permit, and a connection to where it leads.
pub(super) type Admitted = (Arc<Permit>, TcpStream);

/// A connection to a server that clients of a door may reach now, or why there is none. Standbys are
/// tried one after the other, the one with the fewest sessions first, and after them the primary, where
/// those who read may go on there.
pub(super) async fn admit(shared: &Shared, door: Door) -> Result<Admitted, String> {
    let mut why = match first_of(shared, door).await {
        Ok(admitted) => return Ok(admitted),
        Err(why) => why,
    };
    if door == Door::Reading && shared.falls_back {
        match first_of(shared, Door::Primary).await {
            Ok(admitted) => return Ok(admitted),
            Err(of_primary) => why = format!("{why}; {of_primary}"),
        }
    }
    Err(why)
}

async fn first_of(shared: &Shared, door: Door) -> Result<Admitted, String> {
    if shared.last.is_cancelled() {
        return Err("the proxy is stopping".to_owned());
    }
    let mut refused = String::new();
    for permit in shared.doors.permits(door)? {
        match reach(shared, permit.clone()).await {
            Ok(admitted) => return Ok(admitted),
            Err(why) => refused = why,
        }
        see_again(&permit, &shared.doors);
    }
    Err(refused)
}

/// Sees to it that a standby which could not be reached is tried until it can be, or is not read from
/// any more: clients go to others, and would not find out.
pub(super) fn see_again(permit: &Arc<Permit>, doors: &Arc<Doors>) {
    if permit.begins_to_try() {
        tokio::spawn(try_again(permit.clone(), doors.clone()));
    }
}

async fn try_again(permit: Arc<Permit>, doors: Arc<Doors>) {
    while permit.reach.is_lost() && doors.is_in_force(&permit) {
        tokio::time::sleep(TRY_AGAIN).await;
        drop(permit.reach.connect(CONNECT_LIMIT).await);
    }
    permit.stops_to_try();
}

async fn reach(shared: &Shared, permit: Arc<Permit>) -> Result<Admitted, String> {
    let (changed, began) = (permit.door.changed(), clock::now());
    let coming = permit.coming();
    let server = tokio::select! {
        biased;
        // An attempt to connect to a host that is gone is not waited out.
        () = permit.revoked() => return Err(changed.to_owned()),
        connected = permit.reach.connect(CONNECT_LIMIT) => connected?,
    };
    let took = clock::now().since(began);
    shared.metrics.connect_time.observe(took.as_secs_f64());
    // Nothing was read from the client yet: it can still be told when this ended meanwhile.
    if shared.last.is_cancelled() {
        return Err("the proxy is stopping".to_owned());
    }
    if !shared.doors.is_in_force(&permit) {
        return Err(changed.to_owned());
    }
    peer::prepare_server(&server, shared.keepalive);
    drop(coming);
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
    let connection = Connection::new(&client, &server, permit);
    let Some(id) = shared.doors.enter(connection) else {
        abort(&server);
        abort(&client);
        return Ok(());
    };
    let guest = Guest::new(shared.clone(), (id, permit.clone()), from, place);
    let session = Session::new(client, server, permit.clone(), guest);
    shared.carriers.carry(session);
    Ok(())
}

/// Tells a client that has just come why it is refused, unless too many are being told.
async fn refuse(mut client: TcpStream, peer: SocketAddr, shared: &Shared, why: &Refusal) {
    let Some(_place) = may_be_told(why, shared).await else {
        return;
    };
    if *why == Refusal::Full && introduced(&mut client, peer, shared).await.is_none() {
        return;
    }
    greeting::refuse(client, why, REFUSAL_LIMIT).await;
}

/// Tells a client whom the relay knows already.
async fn tell_refused(client: TcpStream, why: &Refusal, shared: &Shared) {
    if let Some(_place) = may_be_told(why, shared).await {
        greeting::refuse(client, why, REFUSAL_LIMIT).await;
    }
}

/// Leave to tell a client why it is refused.
pub(super) async fn may_be_told<'a>(
    why: &Refusal,
    shared: &'a Shared,
) -> Option<SemaphorePermit<'a>> {
    shared.metrics.refused(why.name());
    match why {
        // Those who had a place are few, and may all have waited until now.
        Refusal::NoPrimary(_) | Refusal::NoStandby(_) | Refusal::WithoutTls => {
            let free = tokio::time::timeout(REFUSAL_LIMIT, shared.refusals.acquire());
            free.await.ok().and_then(Result::ok)
        }
        Refusal::Full => shared.refusals.try_acquire().ok(),
    }
}
