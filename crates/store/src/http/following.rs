//! The changes of a whole store, asked for by one long question after the other.
//!
//! Whoever waits is woken when the questions cease to be answered and when they are again: what was
//! written between the two is then seen by reading. Nothing else depends on them.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Client, Pool};
use crate::failure::Failure;

/// How long a question waits for a change. Asked again as often, a server that has frozen is found.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// Between two questions, so that a busy store is not asked without end.
const BREATH: Duration = Duration::from_millis(20);
/// Pauses after a question without answer: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a question came to: where the next one goes on from, if the server says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something may have changed. None: the next question asks for the present position.
    Change(Option<u64>),
    /// Nothing has.
    Silence(u64),
}

/// How a kind of store is asked for changes.
pub(crate) trait Question: Send + Sync + 'static {
    /// Asks for a change after `from`, and waits for one no longer than [`SILENCE`]. None: asks for
    /// the present position, which is answered at once. `answer`: how long an answer that is due
    /// is waited for.
    fn ask(
        &self,
        client: Client,
        from: Option<u64>,
        answer: Duration,
    ) -> impl Future<Output = Result<Heard, Failure>> + Send;
}

/// The task that follows the changes of a store.
#[derive(Debug)]
pub(crate) struct Following {
    changes: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Following {
    /// Follows all changes, until it is dropped.
    pub(crate) fn begin(pool: Pool, question: impl Question) -> Self {
        let changes = watch::channel(0).0;
        let task = tokio::spawn(follow(pool, question, changes.clone()));
        Self {
            changes,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

async fn follow(pool: Pool, question: impl Question, changes: watch::Sender<u64>) {
    let wake = || changes.send_modify(|count| *count += 1);
    let mut turns = pool.turns();
    let mut from = None;
    let mut pause = FIRST_PAUSE;
    // Whether the last question was answered.
    let mut stands = false;
    loop {
        turns.mark_unchanged();
        let ticket = pool.ticket();
        let asked = async {
            let client = pool.client(ticket).await?;
            question.ask(client, from, pool.share()).await
        };
        let heard = tokio::select! {
            heard = asked => heard,
            // Its connection was thrown away; the same question goes to the next endpoint.
            _ = turns.changed() => continue,
        };
        match heard {
            Ok(heard) => {
                from = match heard {
                    Heard::Change(next) => next,
                    Heard::Silence(next) => Some(next),
                };
                if !stands || matches!(heard, Heard::Change(_)) {
                    wake();
                }
                stands = true;
                pause = FIRST_PAUSE;
                tokio::time::sleep(BREATH).await;
            }
            Err(failure) => {
                tracing::debug!(cause = %failure.text, "the watch of the store broke");
                pool.turn_from(ticket);
                if stands {
                    wake();
                }
                stands = false;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
