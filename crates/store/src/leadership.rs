//! A candidacy for the leadership of the sentinels, and the loop that keeps a lease.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::boot_time;
use crate::error::Error;

/// A candidacy. It goes on until the handle is dropped or resigned.
///
/// Leadership is an optimisation: compare-and-swap is the safety (I4). So two candidates that both
/// believe for a moment that they lead do no harm.
#[derive(Debug)]
pub struct Leadership {
    /// Until when, on the boot clock, this candidate leads; none: it does not.
    until: watch::Receiver<Option<Duration>>,
    stop: tokio_util::sync::CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Leadership {
    pub(crate) fn new(
        until: watch::Receiver<Option<Duration>>,
        stop: tokio_util::sync::CancellationToken,
        task: JoinHandle<()>,
    ) -> Self {
        Self {
            until,
            stop,
            task: Some(task),
        }
    }

    /// Whether this candidate leads now, by its own clock.
    pub fn is_leader(&self) -> bool {
        self.until.borrow().is_some_and(|until| boot_time() < until)
    }

    /// Waits until it may have won or lost.
    pub async fn changed(&mut self) {
        let until = *self.until.borrow_and_update();
        let expiry = async {
            match until.and_then(|until| until.checked_sub(boot_time())) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.until.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = expiry => {}
        }
    }

    /// Gives the leadership, or the candidacy, up, so that the next can take over at once.
    pub async fn resign(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // The task ends by itself within the bound of one call to the store.
            let _ = task.await;
        }
    }
}

impl Drop for Leadership {
    /// The task gives the leadership up behind this, within the bound of one call to the store.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a store offers to keep a lease: one holder at a time, each under its own token.
#[async_trait::async_trait]
pub(crate) trait Lease: Send + Sync + 'static {
    /// Takes or renews the lease for `ttl`; false: another one holds it.
    async fn hold(&self, token: &str, uid: &str, ttl: Duration) -> Result<bool, Error>;
    /// Gives the lease up if this token holds it.
    async fn release(&self, token: &str) -> Result<(), Error>;
}

/// Until when a lease that was taken or renewed by a request sent at `sent` holds for sure. A tenth
/// is left for two clocks that differ in rate.
pub(crate) fn holds_until(sent: Duration, ttl: Duration) -> Duration {
    sent + ttl.saturating_mul(9) / 10
}

/// How long a leader rests whose last renewal was sent so long ago. It renews three times while its
/// lease lasts, counted from when a renewal is sent: what the store's answer takes is not added to it.
fn until_renewal(sent_ago: Duration, ttl: Duration) -> Duration {
    (ttl / 3).saturating_sub(sent_ago).max(ttl / 60)
}

/// Keeps a lease in a task of its own. Its end is judged from when the renewal was sent.
pub(crate) fn keep<L: Lease>(lease: L, uid: &str, token: String, ttl: Duration) -> Leadership {
    let (sender, receiver) = watch::channel(None);
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let uid = uid.to_owned();
    let task = tokio::spawn(async move {
        loop {
            let sent = boot_time();
            match lease.hold(&token, &uid, ttl).await {
                Ok(true) => {
                    sender.send_replace(Some(holds_until(sent, ttl)));
                }
                // That another one leads still is nothing new: nobody is to look at anything for it.
                Ok(false) => {
                    sender.send_if_modified(|until| until.take().is_some());
                }
                // The lease may still be ours: `until` says for how long at most.
                Err(error) => tracing::debug!(%error, "cannot renew the leadership"),
            }
            let pause = if sender.borrow().is_some() {
                until_renewal(boot_time().saturating_sub(sent), ttl)
            } else {
                ttl / 12
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped.cancelled() => break,
            }
        }
        sender.send_replace(None);
        if let Err(error) = lease.release(&token).await {
            tracing::debug!(%error, "cannot give the leadership up; it ends with its lease");
        }
    });
    Leadership::new(receiver, stop, task)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::{Lease, keep, until_renewal};
    use crate::error::Error;

    /// A lease that somebody else holds; tells of each try.
    struct Taken(mpsc::UnboundedSender<()>);

    #[async_trait::async_trait]
    impl Lease for Taken {
        async fn hold(&self, _: &str, _: &str, _: Duration) -> Result<bool, Error> {
            let _ = self.0.send(());
            Ok(false)
        }
        async fn release(&self, _: &str) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn who_waits_for_the_leadership_is_not_woken_by_each_try() {
        let (sender, mut tries) = mpsc::unbounded_channel();
        let ttl = Duration::from_millis(60);
        let mut leadership = keep(Taken(sender), "s", "token".to_owned(), ttl);
        let woken = tokio::select! {
            () = leadership.changed() => true,
            () = async { for _ in 0..5 { tries.recv().await; } } => false,
        };
        assert!(!woken);
        leadership.resign().await;
    }

    #[test]
    fn renewals_are_as_often_at_a_slow_store_as_at_a_fast_one() {
        let (ttl, ms) = (Duration::from_secs(6), Duration::from_millis);
        for (took, rest) in [
            (0, 2000),
            (850, 1150),
            (1700, 300),
            (2000, 100),
            (5000, 100),
        ] {
            assert_eq!(until_renewal(ms(took), ttl), ms(rest), "after {took} ms");
        }
    }
}
