//! When to read again what may have changed since the start: at SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Says when.
#[derive(Debug)]
pub struct Reread(Signal);

impl Reread {
    /// At SIGHUP, which does not end the program from now on.
    ///
    /// # Errors
    /// The system refuses a handler for the signal.
    pub fn on_hangup() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits until it is time.
    pub async fn requested(&mut self) {
        if self.0.recv().await.is_none() {
            // No signal comes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// For daemons that keep nothing to read again: SIGHUP does not end them.
pub fn outlive_hangup() {
    if let Err(error) = Reread::on_hangup() {
        tracing::warn!(%error, "a SIGHUP will end this program");
    }
}
