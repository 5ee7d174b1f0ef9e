//! When to stop.

use tokio_util::sync::CancellationToken;

/// Says when to stop. Clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Stops at SIGINT or SIGTERM.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::default();
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            token.cancel();
        });
        Ok(shutdown)
    }

    /// Asks to stop.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Waits until it is time to stop.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }
}
