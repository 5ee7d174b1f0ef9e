//! Replacing a running proxy by a newer program without a moment in which clients are refused: the
//! successor gets the listening sockets, and takes over once it has a way to the primary. It is a
//! proxy of its own to the sentinels. The one before goes on publishing and obeying until its last
//! session has ended, so that a failover meanwhile cuts those off too (I1, I6).

use stolon_store::Backend;
use tokio::process::Child;

use crate::runtime::descendants;
use crate::runtime::passed::Passed;
use crate::runtime::succession::{Successor, Wanted};

/// What the socket for metrics is called among those that are passed; all others are for clients.
pub(super) const METRICS: &str = "metrics";

/// The successor of this proxy, as far as it has come.
pub(super) struct Upgrade {
    wanted: Wanted,
    starting: Option<Successor>,
    /// The one that has taken over.
    successor: Option<Child>,
}

/// Why a proxy with this store, and of this process id, cannot be replaced while it runs.
pub(super) const fn impossible(store: Backend, pid: u32) -> Option<&'static str> {
    match (store, pid) {
        (Backend::Kubernetes, _) => Some(
            "in Kubernetes a proxy publishes on its pod, where two would write over each other and one \
             be taken for gone: roll out new pods",
        ),
        (_, 1) => Some(
            "this proxy is the first process of its container, which ends with it: start another \
             container",
        ),
        _ => None,
    }
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
    /// The one that took over has ended.
    Ended,
}

impl Upgrade {
    /// None is wanted yet.
    pub(super) fn new() -> Self {
        Self {
            wanted: Wanted::on_signal(),
            starting: None,
            successor: None,
        }
    }

    /// Waits until there is something new; one that does not serve wants no successor.
    pub(super) async fn news(&mut self, serves: bool) -> News {
        if let Some(successor) = &mut self.successor {
            // Nobody else may notice: a manager of services does not see the end of what is not its child.
            let _ = successor.wait().await;
            // One that was replaced in its turn has left its own successor behind, which serves.
            descendants::gone().await;
            self.successor = None;
            return News::Ended;
        }
        if !serves {
            return std::future::pending().await;
        }
        let Some(starting) = &mut self.starting else {
            self.wanted.requested().await;
            return News::Wanted;
        };
        let outcome = starting.takes_over().await;
        if let Some(pid) = self.give_up() {
            return News::TookOver(pid);
        }
        News::Failed(outcome.err().unwrap_or_default())
    }

    /// Starts a successor with these sockets.
    pub(super) fn begin(&mut self, sockets: &[Passed]) -> std::io::Result<()> {
        descendants::adopt();
        self.starting = Some(Successor::start(sockets)?);
        Ok(())
    }

    /// Waits for none any more: one that has not taken over is ended. One that has, whether that was heard
    /// or not, has clients of its own: its process.
    pub(super) fn give_up(&mut self) -> Option<u32> {
        let successor = self.starting.take()?.taken_over()?;
        let pid = successor.id().unwrap_or_default();
        self.successor = Some(successor);
        Some(pid)
    }
}

/// The sockets for clients, and the one for metrics.
pub(super) fn sorted(passed: Vec<Passed>) -> (Vec<Passed>, Option<Passed>) {
    let (mut metrics, clients): (Vec<_>, Vec<_>) = passed
        .into_iter()
        .partition(|passed| passed.name == METRICS);
    (clients, metrics.pop())
}

#[cfg(test)]
mod tests {
    use super::impossible;
    use stolon_store::Backend;

    #[test]
    fn nobody_is_replaced_where_the_two_could_not_live_side_by_side() {
        assert_eq!(impossible(Backend::Etcd3, 4711), None);
        assert!(impossible(Backend::Etcd3, 1).is_some());
        assert!(impossible(Backend::Kubernetes, 4711).is_some());
    }
}
