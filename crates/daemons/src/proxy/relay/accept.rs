//! Accepting clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::{Shared, serve};

/// How long to wait before trying again to accept, as when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Accepts clients at an address until it is aborted.
pub(super) async fn accept(address: String, shared: Arc<Shared>) {
    // Dropped after the listener: when this is aborted at any point.
    let _address = shared.listening.lock().await;
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%error, address, "cannot listen for clients; trying again");
                tokio::time::sleep(shared.listen_retry).await;
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
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
