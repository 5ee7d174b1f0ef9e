//! etcd by its version 2 API, which the Go program calls `etcd` and `etcdv2`.
//!
//! Values are text there: what is no UTF-8 is refused. Every write says what it expects
//! (`overwrite.rs` says why). Reads go through a majority (`quorum=true`).

pub(crate) mod answer;
mod lock;
pub(crate) mod watching;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use crate::addresses::ETCD_PORT;
use crate::failure::Failure;
use crate::http::following::Following;
use crate::http::{Client, Http, Pool, Request};
use crate::keys::Keys;
use crate::leadership;
use crate::overwrite::{Guarded, overwrite};
use crate::{
    Config, Entry, Error, Expected, Folder, Key, Leadership, Revision, Store, Watch, Written, pool,
};
use answer::{Node, Said};

/// How long a leader holds on after it was last heard. The Go program's is 20 s; the candidates'
/// may differ. Members count it by clocks of their own, which may differ by a second or two.
const LEADER_TTL: Duration = Duration::from_secs(5);
/// How often a publication starts again because its key was changed or has expired meanwhile.
const PUBLISH_ROUNDS: u32 = 10;

/// A cluster's store in etcd, by its version 2 API.
#[derive(Debug)]
pub(crate) struct Etcd2Store {
    pool: Pool,
    keys: Keys,
    /// Begun by the first one who wants to know of changes, ended when the store is dropped.
    following: OnceLock<Following>,
    /// When what this process publishes was last written: a guess that saves a read.
    published: Mutex<BTreeMap<Key, Revision>>,
}

/// What a write asks for.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Set(&'a str, Option<Duration>),
    Remove,
}

impl Etcd2Store {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let http = Http::new(config, "etcdv2", "etcd", ETCD_PORT)?;
        Ok(Self {
            pool: Arc::new(pool::Pool::new(http, pool::timeout(config)?)),
            // A leading slash makes no difference to it.
            keys: Keys::new(config.prefix.trim_start_matches('/'), &config.cluster_name),
            following: OnceLock::new(),
            published: Mutex::default(),
        })
    }

    /// Reads a node; none when it is absent. Besides, the index of the whole store.
    async fn read(
        &self,
        path: &str,
        recursive: bool,
        end: Instant,
    ) -> Result<(Option<Node>, Revision), Error> {
        let ask = |client: Client| async move {
            let mut request = request(Method::GET, path).query("quorum", &true);
            if recursive {
                request = request.query("recursive", &true).query("sorted", &true);
            }
            match answer::read(&client.send(request).await?)? {
                Said::Done { node, index } => Ok((Some(node), Revision(index))),
                Said::Absent { index } => Ok((None, Revision(index))),
                Said::Conflict => Err(Failure::unavailable("a conflict of a read".to_owned())),
            }
        };
        self.pool.call(end, ask).await.result
    }

    /// Changes a node if it is as expected.
    async fn change(
        &self,
        path: &str,
        expected: Expected,
        change: Change<'_>,
        end: Instant,
    ) -> pool::Outcome<Option<Revision>> {
        let ask = |client: Client| async move {
            let answer = client.send(change_request(path, expected, change)).await?;
            Ok(match answer::read(&answer)? {
                Said::Done { node, .. } => Some(Revision(node.modified_index)),
                Said::Conflict | Said::Absent { .. } => None,
            })
        };
        self.pool.call(end, ask).await
    }

    fn text<'a>(&self, value: &'a [u8]) -> Result<&'a str, Error> {
        std::str::from_utf8(value).map_err(|error| Error::Denied {
            store: self.describe(),
            cause: format!("its version 2 API keeps text only, and the value is none: {error}"),
        })
    }

    fn published(&self) -> MutexGuard<'_, BTreeMap<Key, Revision>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question about the node at a path.
fn request(method: Method, path: &str) -> Request {
    let parts = path.split('/').filter(|part| !part.is_empty());
    Request::new(method, ["v2", "keys"].into_iter().chain(parts))
}

fn change_request(path: &str, expected: Expected, change: Change<'_>) -> Request {
    let method = match change {
        Change::Set(..) => Method::PUT,
        Change::Remove => Method::DELETE,
    };
    let request = match expected {
        Expected::Absent => request(method, path).query("prevExist", &false),
        Expected::At(Revision(index)) => request(method, path).query("prevIndex", &index),
    };
    match change {
        Change::Remove => request,
        Change::Set(value, ttl) => {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("value", value);
            if let Some(ttl) = ttl {
                form.append_pair("ttl", &whole_seconds(ttl).to_string());
            }
            let form = form.finish().into_bytes();
            request.body("application/x-www-form-urlencoded", form)
        }
    }
}

/// A TTL, rounded up: etcd counts whole seconds.
fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[async_trait::async_trait]
impl Guarded for Etcd2Store {
    async fn written_at(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<Revision>, Revision), Error> {
        let (node, index) = self.read(&self.keys.path(key), false, end).await?;
        Ok((node.map(|node| Revision(node.modified_index)), index))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written {
        let change = match value.map(|value| self.text(value)) {
            None => Change::Remove,
            Some(Ok(text)) => Change::Set(text, None),
            Some(Err(error)) => return Written::No(error),
        };
        let path = self.keys.path(key);
        self.change(&path, expected, change, end).await.written()
    }
}

#[async_trait::async_trait]
impl Store for Etcd2Store {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let path = self.keys.path(key);
        let (node, _) = self.read(&path, false, self.pool.deadline()).await?;
        Ok(node.map(|node| node.entry(key.clone())))
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

    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let end = self.pool.deadline();
        let change = Change::Set(self.text(value)?, Some(ttl));
        let path = self.keys.path(key);
        for _ in 0..PUBLISH_ROUNDS {
            let guess = self.published().get(key).copied();
            let present = match guess {
                Some(revision) => Some(revision),
                None => self.written_at(key, end).await?.0,
            };
            let expected = present.map_or(Expected::Absent, Expected::At);
            // A conflict with an earlier try of this call is found by reading, like any other.
            if let Some(revision) = self.change(&path, expected, change, end).await.result? {
                self.published().insert(key.clone(), revision);
                return Ok(());
            }
            self.published().remove(key);
        }
        Err(Error::Unavailable {
            store: self.describe(),
            cause: format!("{key} was changed by another writer {PUBLISH_ROUNDS} times"),
        })
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        let path = self.keys.folder(folder);
        let (node, _) = self.read(&path, true, self.pool.deadline()).await?;
        let entry = |node: Node| {
            let key = self.keys.parse(folder, node.key.trim_start_matches('/'))?;
            // A folder below it is none of ours.
            (!node.dir).then(|| node.entry(key))
        };
        let nodes = node.into_iter().flat_map(|folder| folder.nodes);
        Ok(nodes.filter_map(entry).collect())
    }

    fn watch(&self) -> Watch {
        let begin = || {
            let question = watching::Changes {
                folder: self.keys.base().to_owned(),
            };
            Following::begin(self.pool.clone(), question)
        };
        Watch::new(self.following.get_or_init(begin).subscribe())
    }

    fn lead(&self, uid: &str) -> Leadership {
        let lock = lock::Lock::new(self.pool.clone(), self.keys.leader());
        let token = uuid::Uuid::new_v4().to_string();
        leadership::keep(lock, uid, token, LEADER_TTL)
    }

    async fn leader(&self) -> Result<Option<String>, Error> {
        let path = self.keys.leader();
        let (node, _) = self.read(&path, false, self.pool.deadline()).await?;
        Ok(node.map(|node| node.value))
    }

    fn describe(&self) -> String {
        self.pool.describe()
    }
}
