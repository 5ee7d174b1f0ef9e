//! etcd by its version 3 API.
//!
//! Every write is guarded by the revision it expects, also those that overwrite whatever is there
//! (`overwrite.rs` says why).

mod election;
mod endpoint;
mod failure;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::time::Instant;

use crate::keys::Keys;
use crate::overwrite::{Guarded, overwrite};
use crate::pool::{self, Pool};
use crate::{
    Config, Entry, Error, Everything, Expected, Folder, Key, Leadership, Revision, Store, Watch,
    Written,
};
use endpoint::Etcd;
use failure::lease_is_gone;
use watching::Watching;

/// A cluster's store in etcd.
#[derive(Debug)]
pub(crate) struct Etcd3Store {
    pool: Arc<Pool<Etcd>>,
    keys: Keys,
    /// Begun by the first one who wants to know of changes, ended when the store is dropped.
    watching: OnceLock<Watching>,
    /// Leases of publications that had no answer: they may still be carried out.
    unanswered: Mutex<Vec<i64>>,
}

impl Etcd3Store {
    pub(crate) fn open(config: &Config, keys: Keys) -> Result<Self, Error> {
        Ok(Self {
            pool: Arc::new(Pool::new(Etcd::new(config)?, pool::timeout(config)?)),
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
            if let Err(error) = revoke(&self.pool, end, lease).await {
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

    async fn read(
        &self,
        path: &str,
        options: GetOptions,
        end: Instant,
    ) -> Result<GetResponse, Error> {
        let read = |mut client: etcd_client::Client| {
            let options = options.clone();
            async move { client.get(path, Some(options)).await }
        };
        self.pool.call(end, read).await.result
    }

    /// What an answer has of a folder.
    fn entries(&self, folder: Folder, answer: &GetResponse) -> Vec<Entry> {
        let parsed = |found: &KeyValue| {
            let path = std::str::from_utf8(found.key()).ok()?;
            Some(entry(&self.keys.parse(folder, path)?, found))
        };
        answer.kvs().iter().filter_map(parsed).collect()
    }

    fn incomplete(&self) -> Error {
        Error::Unavailable {
            store: self.describe(),
            cause: "an answer lacks what was asked for".to_owned(),
        }
    }
}

#[async_trait::async_trait]
impl Guarded for Etcd3Store {
    async fn written_at(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<Revision>, Revision), Error> {
        let keys_only = GetOptions::new().with_keys_only();
        let found = self.read(&self.keys.path(key), keys_only, end).await?;
        Ok((found.kvs().first().map(mod_revision), revision(&found)))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written {
        let path = self.keys.path(key);
        let compare = match expected {
            Expected::Absent => Compare::create_revision(path.as_str(), CompareOp::Equal, 0),
            Expected::At(Revision(revision)) => match i64::try_from(revision) {
                Ok(revision) => Compare::mod_revision(path.as_str(), CompareOp::Equal, revision),
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
        let revision = |answer: TxnResponse| {
            let header = answer.header();
            let revision = counted(header.map_or(0, etcd_client::ResponseHeader::revision));
            answer.succeeded().then_some(revision)
        };
        outcome.map(revision).written()
    }
}

/// Ends a lease, and with it the keys that hang on it.
async fn revoke(pool: &Pool<Etcd>, end: Instant, lease: i64) -> Result<(), Error> {
    let revoke = |mut client: etcd_client::Client| async move {
        match client.lease_revoke(lease).await {
            Err(error) if !lease_is_gone(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    };
    pool.call(end, revoke).await.result
}

/// A revision as etcd counts it; it never counts below zero.
fn counted(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

fn mod_revision(found: &KeyValue) -> Revision {
    counted(found.mod_revision())
}

fn entry(key: &Key, found: &KeyValue) -> Entry {
    Entry {
        key: key.clone(),
        value: found.value().to_vec(),
        revision: mod_revision(found),
    }
}

/// How a folder is read.
fn of_folder() -> GetOptions {
    GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Key, SortOrder::Ascend)
}

/// The revision of the whole store when it answered.
fn revision(answer: &GetResponse) -> Revision {
    counted(
        answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision),
    )
}

#[async_trait::async_trait]
impl Store for Etcd3Store {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let path = self.keys.path(key);
        let answer = self
            .read(&path, GetOptions::new(), self.pool.deadline())
            .await?;
        Ok(answer.kvs().first().map(|found| entry(key, found)))
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        self.swap(key, expected, Some(value), self.pool.deadline())
            .await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        let end = self.pool.deadline();
        overwrite(self, self.describe(), key, Some(value), end).await
    }

    async fn delete(&self, key: &Key) -> Written {
        overwrite(self, self.describe(), key, None, self.pool.deadline()).await
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
        let prefix = self.keys.folder(folder);
        let end = self.pool.deadline();
        let answer = self.read(&prefix, of_folder(), end).await?;
        Ok(self.entries(folder, &answer))
    }

    /// A transaction that only reads is as linearizable as a read, and as of one revision.
    async fn read_all(&self) -> Result<Everything, Error> {
        const FOLDERS: [Folder; 4] = [
            Folder::Keepers,
            Folder::Proxies,
            Folder::Sentinels,
            Folder::Requests,
        ];
        let get = |folder| TxnOp::get(self.keys.folder(folder), Some(of_folder()));
        let data = TxnOp::get(self.keys.path(&Key::ClusterData), None);
        let reads: Vec<TxnOp> = std::iter::once(data).chain(FOLDERS.map(get)).collect();
        let txn = Txn::new().and_then(reads);
        let read = |mut client: etcd_client::Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let answer = self.pool.call(self.pool.deadline(), read).await.result?;
        let answers: Vec<GetResponse> = answer
            .op_responses()
            .into_iter()
            .filter_map(|answer| match answer {
                TxnOpResponse::Get(found) => Some(found),
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            })
            .collect();
        let [data, folders @ ..] = answers.as_slice() else {
            return Err(self.incomplete());
        };
        if folders.len() != FOLDERS.len() {
            return Err(self.incomplete());
        }
        let mut found = FOLDERS.iter().zip(folders);
        let mut next = || {
            let found = found.next();
            found.map_or_else(Vec::new, |(folder, found)| self.entries(*folder, found))
        };
        Ok(Everything {
            data: data
                .kvs()
                .first()
                .map(|found| entry(&Key::ClusterData, found)),
            keepers: next(),
            proxies: next(),
            sentinels: next(),
            requests: next(),
        })
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
