//! etcd by its version 3 API.
//!
//! Every write is guarded by the revision it expects, also those that overwrite whatever is there:
//! only so can a write be tried again at another endpoint after one gave no answer, because the
//! first try may still be carried out when a frozen server wakes up.

mod election;
pub(crate) mod endpoint;
mod failure;
mod pool;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnResponse,
};
use tokio::time::Instant;

use crate::keys::Keys;
use crate::{
    Config, Entry, Error, Expected, Folder, Key, Leadership, Revision, Store, Watch, Written,
};
use pool::{Outcome, Pool};
use watching::Watching;

/// How often a write that overwrites whatever is there starts again because another writer was
/// faster. The time allowed for the call ends it sooner.
const OVERWRITE_ROUNDS: u32 = 100;

/// A cluster's store in etcd.
#[derive(Debug)]
pub(crate) struct Etcd3Store {
    pool: Arc<Pool>,
    keys: Keys,
    /// Begun by the first one who wants to know of changes, ended when the store is dropped.
    watching: OnceLock<Watching>,
    /// Leases of publications that had no answer: they may still be carried out.
    unanswered: Mutex<Vec<i64>>,
}

impl Etcd3Store {
    pub(crate) fn open(config: &Config, keys: Keys) -> Result<Self, Error> {
        Ok(Self {
            pool: Arc::new(Pool::open(config)?),
            keys,
            watching: OnceLock::new(),
            unanswered: Mutex::default(),
        })
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.watching
            .get_or_init(|| Watching::begin(self.pool.clone(), self.keys.base().to_owned()))
            .subscribe()
    }

    /// Sees to it that no publication without an answer is carried out from now on and brings back what
    /// it published over something newer: not without its lease. As far as the store can be reached.
    async fn end_unanswered(&self, end: Instant) {
        let leases = std::mem::take(&mut *self.unanswered());
        for lease in leases {
            if let Err(error) = self.pool.revoke(end, lease).await {
                tracing::debug!(%error, "cannot revoke the lease of a publication without answer");
                self.unanswered().push(lease);
            }
        }
    }

    /// Publishes by a new lease, and returns it; those of tries without answer are remembered.
    async fn publish_leased(
        &self,
        path: &str,
        value: &[u8],
        ttl: Duration,
        end: Instant,
    ) -> Result<i64, Error> {
        let leases = Mutex::new(Vec::new());
        let publish = |mut client: etcd_client::Client| {
            let leases = &leases;
            async move {
                let lease = client.lease_grant(whole_seconds(ttl), None).await?.id();
                leases
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(lease);
                let options = PutOptions::new().with_lease(lease);
                client.put(path, value, Some(options)).await?;
                Ok(lease)
            }
        };
        let published = self.pool.call(end, publish).await.result;
        let leases = leases.into_inner().unwrap_or_else(PoisonError::into_inner);
        let without_answer = |lease: &i64| published.as_ref().ok() != Some(lease);
        self.unanswered()
            .extend(leases.into_iter().filter(without_answer));
        published
    }

    fn unanswered(&self) -> MutexGuard<'_, Vec<i64>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, or with no value removes, a key if it is as expected.
    async fn swap(
        &self,
        path: &str,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written {
        let compare = match expected {
            Expected::Absent => Compare::create_revision(path, CompareOp::Equal, 0),
            Expected::At(Revision(revision)) => match i64::try_from(revision) {
                Ok(revision) => Compare::mod_revision(path, CompareOp::Equal, revision),
                // etcd's revisions are signed: no key is at this one.
                Err(_) => return Written::Conflict,
            },
        };
        let write = match value {
            Some(value) => TxnOp::put(path, value, None),
            None => TxnOp::delete(path, None),
        };
        let txn = Txn::new().when(vec![compare]).and_then(vec![write]);
        let outcome = self
            .pool
            .call(end, |mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await;
        written(outcome)
    }

    /// Writes, or with no value removes, a key, whatever it holds.
    async fn overwrite(&self, key: &Key, value: Option<&[u8]>) -> Written {
        let path = self.keys.path(key);
        let end = self.pool.deadline();
        for _ in 0..OVERWRITE_ROUNDS {
            let keys_only = GetOptions::new().with_keys_only();
            let found = self.read(&path, keys_only, end).await;
            let (present, now) = match found {
                Ok(answer) => (answer.kvs().first().map(mod_revision), revision(&answer)),
                Err(error) => return Written::No(error),
            };
            let expected = present.map_or(Expected::Absent, Expected::At);
            if present.is_none() && value.is_none() {
                return Written::Yes(now);
            }
            match self.swap(&path, expected, value, end).await {
                Written::Conflict => {}
                outcome => return outcome,
            }
        }
        Written::No(Error::Unavailable {
            store: self.describe(),
            cause: format!("{key} was changed by another writer {OVERWRITE_ROUNDS} times"),
        })
    }

    async fn read(
        &self,
        path: &str,
        options: GetOptions,
        end: Instant,
    ) -> Result<etcd_client::GetResponse, Error> {
        let read = |mut client: etcd_client::Client| {
            let options = options.clone();
            async move { client.get(path, Some(options)).await }
        };
        self.pool.call(end, read).await.result
    }
}

/// A revision as etcd counts it; it never counts below zero.
fn counted(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

fn mod_revision(found: &etcd_client::KeyValue) -> Revision {
    counted(found.mod_revision())
}

/// The revision of the whole store when it answered.
fn revision(answer: &etcd_client::GetResponse) -> Revision {
    counted(
        answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision),
    )
}

/// What came of a guarded write, with all its tries.
fn written(outcome: Outcome<TxnResponse>) -> Written {
    match (outcome.result, outcome.doubt) {
        (Ok(answer), _) if answer.succeeded() => {
            let header = answer.header();
            Written::Yes(counted(
                header.map_or(0, etcd_client::ResponseHeader::revision),
            ))
        }
        // Perhaps an earlier try of ours is what changed the key.
        (Ok(_), Some(doubt)) => Written::Unknown(doubt),
        (Ok(_), None) => Written::Conflict,
        (Err(error), Some(_)) => Written::Unknown(error),
        (Err(error), None) => Written::No(error),
    }
}

#[async_trait::async_trait]
impl Store for Etcd3Store {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let path = self.keys.path(key);
        let answer = self
            .read(&path, GetOptions::new(), self.pool.deadline())
            .await?;
        Ok(answer.kvs().first().map(|found| Entry {
            key: key.clone(),
            value: found.value().to_vec(),
            revision: mod_revision(found),
        }))
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        let path = self.keys.path(key);
        self.swap(&path, expected, Some(value), self.pool.deadline())
            .await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        self.overwrite(key, Some(value)).await
    }

    async fn delete(&self, key: &Key) -> Written {
        self.overwrite(key, None).await
    }

    /// A lease of its own for every try (contract, section 3).
    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let end = self.pool.deadline();
        let path = self.keys.path(key);
        let lease = self.publish_leased(&path, value, ttl, end).await?;
        if self.unanswered().is_empty() {
            return Ok(());
        }
        // Only now, so that the key does not hang on one of them.
        self.end_unanswered(end).await;
        // One that came in between has gone, and taken the key along.
        let again = |mut client: etcd_client::Client| {
            let path = path.as_str();
            async move {
                let options = PutOptions::new().with_lease(lease);
                client.put(path, value, Some(options)).await
            }
        };
        self.pool.call(end, again).await.result.map(|_| ())
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        let options = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let prefix = self.keys.folder(folder);
        let answer = self.read(&prefix, options, self.pool.deadline()).await?;
        let entry = |found: &etcd_client::KeyValue| {
            let path = std::str::from_utf8(found.key()).ok()?;
            Some(Entry {
                key: self.keys.parse(folder, path)?,
                value: found.value().to_vec(),
                revision: mod_revision(found),
            })
        };
        Ok(answer.kvs().iter().filter_map(entry).collect())
    }

    fn watch(&self) -> Watch {
        Watch::new(self.changes())
    }

    fn lead(&self, uid: &str) -> Leadership {
        election::stand(self.pool.clone(), self.changes(), &self.keys.leader(), uid)
    }

    async fn leader(&self) -> Result<Option<String>, Error> {
        let candidates =
            election::candidates(&self.pool, &self.keys.leader(), self.pool.deadline()).await?;
        let first = candidates.into_iter().next();
        Ok(first.map(|candidate| String::from_utf8_lossy(candidate.value()).into_owned()))
    }

    fn describe(&self) -> String {
        self.pool.describe()
    }
}

/// A lease's duration, rounded up: etcd counts whole seconds.
fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
