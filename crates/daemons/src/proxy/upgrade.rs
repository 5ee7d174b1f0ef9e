//! Replacing a running proxy by a newer program without a moment in which clients are refused: the
//! successor gets the listening sockets, and takes over once it has a way to the primary. It is a
//! proxy of its own to the sentinels. The one before goes on publishing and obeying until its last
//! session has ended, so that a failover meanwhile cuts those off too (I1, I6).

use tokio_util::task::AbortOnDropHandle;

use crate::runtime::passed::Passed;
use crate::runtime::succession::{Successor, Wanted};

/// What the socket for metrics is called among those that are passed; all others are for clients.
pub(super) const METRICS: &str = "metrics";

/// The successor of this proxy, as far as it has come.
pub(super) struct Upgrade {
    wanted: Wanted,
    starting: Option<AbortOnDropHandle<Result<u32, String>>>,
}

/// What there is to know of it.
#[derive(Debug)]
pub(super) enum News {
    /// One is wanted.
    Wanted,
    /// It has taken over, and is this process.
    TookOver(u32),
    /// There is none, and why.
    Failed(String),
}

impl Upgrade {
    /// None is wanted yet.
    pub(super) fn new() -> Self {
        Self {
            wanted: Wanted::on_signal(),
            starting: None,
        }
    }

    /// Waits until there is something new.
    pub(super) async fn news(&mut self) -> News {
        let Some(starting) = &mut self.starting else {
            self.wanted.requested().await;
            return News::Wanted;
        };
        let outcome = starting.await;
        self.starting = None;
        match outcome {
            Ok(Ok(pid)) => News::TookOver(pid),
            Ok(Err(why)) => News::Failed(why),
            Err(error) => News::Failed(error.to_string()),
        }
    }

    /// Starts a successor with these sockets.
    pub(super) fn begin(&mut self, sockets: &[Passed]) -> std::io::Result<()> {
        let successor = Successor::start(sockets)?;
        let taking_over = tokio::spawn(successor.takes_over());
        self.starting = Some(AbortOnDropHandle::new(taking_over));
        Ok(())
    }

    /// Wants none any more: one that has not taken over is ended.
    pub(super) fn give_up(&mut self) {
        self.starting = None;
    }
}

/// The sockets for clients, and the one for metrics.
pub(super) fn sorted(passed: Vec<Passed>) -> (Vec<Passed>, Option<Passed>) {
    let (mut metrics, clients): (Vec<_>, Vec<_>) = passed
        .into_iter()
        .partition(|passed| passed.name == METRICS);
    (clients, metrics.pop())
}
