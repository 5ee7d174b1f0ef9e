//! etcd's election recipe, so that sentinels of the Go program and ours exclude each other.
//!
//! Every candidate has a key that hangs on a lease of its own; the one created first leads
//! (contract, section 3). A candidate leads by its own clock: until the time its last successful
//! renewal was sent, plus the lease, less a margin. The server counts from when it received the
//! renewal, so it never gives the leadership to another one earlier.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::endpoint::Etcd;
use super::failure::lease_is_gone;
use crate::clock::boot_time;
use crate::leadership::holds_until;
use crate::pool::Pool;
use crate::{Error, Leadership};

/// How long a leader holds on after it was last heard. The Go program's is 20 s; each candidate has a
/// lease of its own, so they may differ. When a host is lost that runs the primary and the leading
/// sentinel, nobody decides until this is over.
const TTL: Duration = Duration::from_secs(3);
/// Pauses before a failed step is taken again: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// All candidates, the leader first.
pub(super) async fn candidates(
    pool: &Pool<Etcd>,
    folder: &str,
    end: Instant,
) -> Result<Vec<KeyValue>, Error> {
    let prefix = format!("{folder}/");
    let options = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Ascend);
    let read = |mut client: Client| {
        let (prefix, options) = (prefix.as_str(), options.clone());
        async move { client.get(prefix, Some(options)).await }
    };
    let mut answer = pool.call(end, read).await.result?;
    Ok(answer.take_kvs())
}

/// Stands for election until the handle is dropped or resigned.
pub(super) fn stand(
    pool: Arc<Pool<Etcd>>,
    changes: watch::Receiver<u64>,
    folder: &str,
    uid: &str,
) -> Leadership {
    let (until, receiver) = watch::channel(None);
    let stop = CancellationToken::new();
    let candidate = Candidate {
        pool,
        folder: folder.to_owned(),
        uid: uid.to_owned(),
        until,
    };
    let task = tokio::spawn(candidate.run(changes, stop.clone()));
    Leadership::new(receiver, stop, task)
}

struct Candidate {
    pool: Arc<Pool<Etcd>>,
    folder: String,
    uid: String,
    /// Until when, on the boot clock, it leads; none: it does not.
    until: watch::Sender<Option<Duration>>,
}

/// A lease that was granted, and the key that hangs on it.
struct Lease {
    id: i64,
    ttl: Duration,
    key: String,
}

impl Candidate {
    async fn run(self, mut changes: watch::Receiver<u64>, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.stand_once(&mut changes, &stop).await {
                tracing::debug!(%error, "cannot stand for election");
            }
            // A candidacy that lasted starts again at once.
            pause = if began.elapsed() > TTL {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Stands with one lease, until it is lost or the candidacy is to end.
    async fn stand_once(
        &self,
        changes: &mut watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let (lease, held) = tokio::select! {
            granted = self.grant() => granted?,
            // A lease on which nothing hangs ends by itself.
            () = stop.cancelled() => return Ok(()),
        };
        let (holds, mut held) = watch::channel(held);
        let renewal = renew(self.pool.clone(), lease.id, lease.ttl, holds);
        let mut renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
        let outcome = tokio::select! {
            outcome = self.campaign(&lease, &mut held, changes) => outcome,
            _ = &mut renewal => Ok(()),
            () = stop.cancelled() => Ok(()),
        };
        self.leads_until(None);
        drop(renewal);
        if let Err(error) = super::revoke(&self.pool, self.pool.deadline(), lease.id).await {
            tracing::debug!(%error, "cannot end the candidacy; it ends with its lease");
        }
        outcome
    }

    async fn grant(&self) -> Result<(Lease, Duration), Error> {
        let grant = |mut client: Client| async move {
            let sent = boot_time();
            let granted = client.lease_grant(super::whole_seconds(TTL), None).await?;
            Ok((granted.id(), seconds(granted.ttl()), sent))
        };
        let call = self.pool.call(self.pool.deadline(), grant);
        let (id, ttl, sent) = call.await.result?;
        let key = format!("{}/{id:x}", self.folder);
        Ok((Lease { id, ttl, key }, holds_until(sent, ttl)))
    }

    /// Takes a place among the candidates, and leads while it is the first.
    async fn campaign(
        &self,
        lease: &Lease,
        held: &mut watch::Receiver<Duration>,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), Error> {
        self.enrol(lease).await?;
        let mut pause = FIRST_PAUSE;
        loop {
            changes.mark_unchanged();
            let found = candidates(&self.pool, &self.folder, self.pool.deadline()).await;
            match found {
                Ok(found) => {
                    let place = found
                        .iter()
                        .position(|other| other.key() == lease.key.as_bytes());
                    let Some(place) = place else {
                        // An operator removed it, or the lease has ended: from the beginning.
                        return Ok(());
                    };
                    pause = FIRST_PAUSE;
                    let until = *held.borrow_and_update();
                    self.leads_until((place == 0).then_some(until));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read who stands for election");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    tokio::time::sleep(pause).await;
                }
            }
            self.wait(lease, held, changes).await;
        }
    }

    /// Waits until the place among the candidates is worth another look.
    async fn wait(
        &self,
        lease: &Lease,
        held: &mut watch::Receiver<Duration>,
        changes: &mut watch::Receiver<u64>,
    ) {
        let leading = self.until.borrow().is_some();
        tokio::select! {
            renewed = held.changed() => if renewed.is_ok() && leading {
                // At once: the look at the place may take its time.
                self.leads_until(Some(*held.borrow()));
            },
            // The store wakes whenever anything is published; only who waits has to look.
            woken = changes.changed(), if !leading => if woken.is_err() {
                tokio::time::sleep(lease.ttl / 3).await;
            },
            () = tokio::time::sleep(lease.ttl / 3) => {}
        }
    }

    fn leads_until(&self, until: Option<Duration>) {
        self.until
            .send_if_modified(|present| std::mem::replace(present, until) != until);
    }

    async fn enrol(&self, lease: &Lease) -> Result<(), Error> {
        let absent = Compare::create_revision(lease.key.as_str(), CompareOp::Equal, 0);
        let options = PutOptions::new().with_lease(lease.id);
        let enrol = TxnOp::put(lease.key.as_str(), self.uid.as_str(), Some(options));
        let txn = Txn::new().when(vec![absent]).and_then(vec![enrol]);
        let enrol = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        // A key that is there is ours, from a try whose answer was lost: it bears our lease's id.
        let outcome = self.pool.call(self.pool.deadline(), enrol).await;
        outcome.result.map(|_| ())
    }
}

/// Renews a lease until it is gone.
async fn renew(pool: Arc<Pool<Etcd>>, lease: i64, ttl: Duration, holds: watch::Sender<Duration>) {
    let mut pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let renew = |mut client: Client| async move {
            let sent = boot_time();
            match client.lease_keep_alive(lease).await {
                // The first answer has come already: a stream is opened for one renewal only.
                Ok(_) => Ok(Some(sent)),
                Err(error) if lease_is_gone(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match pool.call(pool.deadline(), renew).await.result {
            Ok(Some(sent)) => {
                holds.send_replace(holds_until(sent, ttl));
                pause = ttl / 3;
            }
            Ok(None) => return,
            Err(error) => {
                // It may still be alive: `holds` says until when it is so for sure.
                tracing::debug!(%error, "cannot renew the lease of the candidacy");
                pause = ttl / 12;
            }
        }
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
