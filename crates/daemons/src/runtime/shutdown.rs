//! When to stop.

use tokio_util::sync::CancellationToken;

/// Says when to stop. Clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    again: CancellationToken,
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
        let tokens = [shutdown.token.clone(), shutdown.again.clone()];
        tokio::spawn(async move {
            for token in tokens {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
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

    /// Waits until that was asked for a second time: whoever does will not wait.
    pub async fn insisted(&self) {
        self.again.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }
}
