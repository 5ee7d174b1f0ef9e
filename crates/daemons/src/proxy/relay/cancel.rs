//! Requests to cancel a statement, where clients are spread over several servers.
//!
//! A request names the session by a process number and a secret that its server made (PostgreSQL
//! manual, "Canceling Requests in Progress"). Which server that was the proxy does not know, and need
//! not: the others do not know the secret, and ignore it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::permit::Permit;
use super::{REFUSAL_LIMIT, Shared, connect};
use crate::proxy::greeting;

/// Passes a client's request on to every server that clients may reach now, and waits until they have
/// taken it: a client takes the end of its connection for that.
pub(super) async fn pass_on(mut client: TcpStream, shared: &Shared) {
    let reading = greeting::cancel_request(&mut client);
    let Ok(Ok(request)) = tokio::time::timeout(REFUSAL_LIMIT, reading).await else {
        return;
    };
    let open = shared.lock().ways.open();
    let sent = open.iter().map(|permit| send(permit, shared, &request));
    let all = futures_util::future::join_all(sent);
    let _ = tokio::time::timeout(REFUSAL_LIMIT, all).await;
}

async fn send(permit: &Arc<Permit>, shared: &Shared, request: &[u8]) {
    let Ok(mut server) = connect(permit, shared).await else {
        return;
    };
    if permit.holds() && server.write_all(request).await.is_ok() {
        let _ = server.read(&mut [0; 1]).await;
    }
}
