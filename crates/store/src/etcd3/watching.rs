//! One stream of changes for a whole store, made again whenever it breaks.
//!
//! Whoever waits is woken when the stream breaks and when the next one stands: what was written
//! between the two is then seen by reading. Nothing else depends on the stream.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Error as EtcdError, Event, ResponseHeader, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::endpoint::Etcd;
use super::failure::is_old_token;
use crate::failure::Failure;
use crate::pool::{Pool, Ticket};

/// A stream that was silent for so long is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(5);
/// Pauses before a stream is made again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The task that follows the changes of a store.
#[derive(Debug)]
pub(super) struct Watching {
    changes: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Watching {
    /// Follows all changes of keys that begin with `prefix`, until it is dropped.
    pub(super) fn begin(pool: Arc<Pool<Etcd>>, prefix: String) -> Self {
        let changes = watch::channel(0).0;
        let follower = Follower {
            pool,
            prefix,
            next: None,
            stands: false,
            changes: changes.clone(),
        };
        Self {
            changes,
            _task: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Why a stream ended.
enum End {
    /// The client it belongs to was thrown away.
    Turned,
    /// The store does not have the revision to go on from: another one is to be taken.
    Moved(i64),
    /// The user's token has expired, which a watch is told in its stream.
    Expired,
    /// It broke, was silent, or was refused.
    Broken(String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        if is_old_token(&failure.text) {
            Self::Expired
        } else {
            Self::Broken(failure.text)
        }
    }
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> Self {
        Failure::from(error).into()
    }
}

struct Follower {
    pool: Arc<Pool<Etcd>>,
    prefix: String,
    /// The revision to go on from; none: from now.
    next: Option<i64>,
    /// Whether the server has confirmed the present stream.
    stands: bool,
    changes: watch::Sender<u64>,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut turns = self.pool.turns();
        loop {
            turns.mark_unchanged();
            let ticket = self.pool.ticket();
            self.stands = false;
            let end = match self.open(ticket).await {
                Ok(stream) => self.follow(stream, &mut turns).await,
                Err(end) => end,
            };
            match end {
                End::Turned => {}
                End::Moved(revision) => {
                    tracing::debug!(revision, "the store no longer has what the watch waits for");
                    self.next = Some(revision);
                }
                End::Expired => self.authenticate(ticket).await,
                End::Broken(cause) => {
                    tracing::debug!(%cause, "the watch of the store broke");
                    self.pool.turn_from(ticket);
                }
            }
            if self.stands {
                self.wake();
                pause = FIRST_PAUSE;
            } else {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn open(&self, ticket: Ticket) -> Result<WatchStream, End> {
        let limit = self.pool.share();
        let from = self.next.unwrap_or(0);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let open = async {
            let mut client = self.pool.client(ticket).await?;
            Ok::<_, Failure>(client.watch(self.prefix.as_str(), Some(options)).await?)
        };
        match tokio::time::timeout(limit, open).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err(End::Broken(Failure::timeout(limit).text)),
        }
    }

    /// Has the client get a new token, for all that use it.
    async fn authenticate(&self, ticket: Ticket) {
        let limit = self.pool.share();
        let refresh = async {
            let client = self.pool.client(ticket).await?;
            Ok::<_, Failure>(client.refresh_token().await?)
        };
        match tokio::time::timeout(limit, refresh).await {
            Ok(Ok(())) => tracing::debug!("authenticated anew for the watch of the store"),
            Ok(Err(Failure { text: cause, .. })) => {
                tracing::debug!(%cause, "cannot authenticate anew for the watch of the store");
                self.pool.turn_from(ticket);
            }
            Err(_) => self.pool.turn_from(ticket),
        }
    }

    async fn follow(&mut self, mut stream: WatchStream, turns: &mut watch::Receiver<u64>) -> End {
        // Whether an answer is due: at first the one that says that the watch stands.
        let mut due = true;
        loop {
            let limit = if due { self.pool.share() } else { SILENCE };
            let message = tokio::select! {
                message = tokio::time::timeout(limit, stream.message()) => message,
                _ = turns.changed() => return End::Turned,
            };
            match message {
                Ok(Ok(Some(message))) => {
                    due = false;
                    if let Err(end) = self.heard(&message) {
                        return end;
                    }
                }
                Ok(Ok(None)) => return End::Broken("the server ended it".to_owned()),
                Ok(Err(error)) => return error.into(),
                Err(_) if due => return End::Broken(Failure::timeout(limit).text),
                Err(_) => {
                    due = true;
                    let asked = tokio::time::timeout(self.pool.share(), stream.request_progress());
                    match asked.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.into(),
                        Err(_) => return End::Broken(Failure::timeout(self.pool.share()).text),
                    }
                }
            }
        }
    }

    /// Goes on from the last change that was told. What signs of life say of the revision is not
    /// used: etcd 3.4 may send them before the changes up to it.
    fn heard(&mut self, message: &WatchResponse) -> Result<(), End> {
        if message.canceled() {
            return Err(match message.compact_revision() {
                0 if is_old_token(message.cancel_reason()) => End::Expired,
                0 => End::Broken(format!("refused: {}", message.cancel_reason())),
                oldest => End::Moved(oldest),
            });
        }
        if message.created() {
            let after = message.header().map_or(0, ResponseHeader::revision) + 1;
            match self.next {
                // etcd was set up anew or restored: the watch would sleep until it catches up.
                Some(next) if next > after => return Err(End::Moved(after)),
                Some(_) => {}
                None => self.next = Some(after),
            }
            self.stands = true;
            self.wake();
        }
        if let Some(change) = message.events().last().and_then(Event::kv) {
            self.next = Some(change.mod_revision() + 1);
            self.wake();
        }
        Ok(())
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
