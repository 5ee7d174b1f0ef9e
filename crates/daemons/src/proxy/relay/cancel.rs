//! Requests to cancel a statement that come by the door to the standbys. Which of them the session is
//! at, a request does not say: it goes to all that clients may be reading from, and those that do not
//! know its key ignore it, as PostgreSQL does (protocol, "Canceling Requests in Progress").

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::doors::Door;
use super::permit::Permit;
use super::serve::see_again;

/// A request: its length, its code, the process and its key. Those of protocol 3.2 have longer keys.
const LONGEST: usize = 8 + 4 + 256;

/// Hands a request on, and returns when all have it, or the time is over. The client hears nothing.
pub(super) async fn hand_on(mut client: TcpStream, shared: &Shared, limit: Duration) {
    let Ok(Ok(request)) = timeout(limit, read(&mut client)).await else {
        return;
    };
    let Ok(_turn) = shared.cancels.acquire().await else {
        return;
    };
    let doors = [Door::Reading, Door::Primary];
    let permits = doors
        .into_iter()
        .filter_map(|door| shared.doors.permits(door).ok())
        .flatten();
    let request = request.as_slice();
    let sent = permits.map(|permit| async move {
        send(&permit, request, limit).await;
        see_again(&permit, &shared.doors);
    });
    join_all(sent).await;
}

async fn read(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let rest = usize::try_from(length).unwrap_or(usize::MAX);
    let rest = rest.saturating_sub(4).min(LONGEST);
    let mut request = length.to_be_bytes().to_vec();
    request.resize(4 + rest, 0);
    client
        .read_exact(request.get_mut(4..).unwrap_or_default())
        .await?;
    Ok(request)
}

async fn send(permit: &Permit, request: &[u8], limit: Duration) {
    let sending = async {
        let mut server = permit.reach.connect(limit).await?;
        if !permit.holds() {
            return Ok(());
        }
        let written = server.write_all(request).await;
        written.map_err(|error| error.to_string())?;
        // It closes when it is done with it.
        let _ = server.read_u8().await;
        Ok::<(), String>(())
    };
    tokio::select! {
        biased;
        () = permit.revoked() => {}
        sent = timeout(limit, sending) => if let Ok(Err(error)) = sent {
            tracing::debug!(error, "cannot hand a request to cancel on");
        }
    }
}
