//! Consul's key-value store, with the keys, flags and sessions of the Go program (contract, section 3).
//!
//! Every write is a transaction that says what it expects (`overwrite.rs` says why); its answer,
//! unlike that of a plain write, tells the index it was stored at. Reads go through the leader of
//! the servers and a majority (`?consistent`).

mod agent;
pub(crate) mod answer;
mod lock;
pub(crate) mod services;
pub(crate) mod session;
mod watching;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::following::Following;
use crate::keys::Keys;
use crate::leadership;
use crate::overwrite::{Guarded, overwrite};
use crate::pool::Outcome;
use crate::{
    Config, Entry, Error, Expected, Folder, Key, Leadership, Revision, Store, Watch, Written,
};
use agent::Agent;
use answer::Pair;
use session::Behavior;

/// How long a leader's session lasts without a renewal: the shortest that Consul grants. It may end
/// it up to as much later.
const LEADER_TTL: Duration = Duration::from_secs(10);
/// How often a publication starts again because its key or its session was gone.
const PUBLISH_ROUNDS: u32 = 20;
/// Before it does: Consul refuses a key for its session's lock delay, a millisecond.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);

/// A cluster's store in Consul.
#[derive(Debug)]
pub(crate) struct ConsulStore {
    agent: Arc<Agent>,
    keys: Keys,
    /// Begun by the first one who wants to know of changes, ended when the store is dropped.
    following: OnceLock<Following>,
    /// What this process publishes, as it last knew it: a guess that saves a read.
    published: Mutex<BTreeMap<Key, Published>>,
}

/// A key that hangs on a session.
#[derive(Debug, Clone, Default)]
struct Published {
    /// When it was last written; none: it is absent.
    at: Option<Revision>,
    session: Option<String>,
}

impl ConsulStore {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            agent: Arc::new(Agent::new(config)?),
            // No key of Consul's begins with a slash.
            keys: Keys::new(config.prefix.trim_start_matches('/'), &config.cluster_name),
            following: OnceLock::new(),
            published: Mutex::default(),
        })
    }

    /// Does what a transaction says; none: something was not as it expects.
    async fn transact(&self, operations: Vec<Value>, end: Instant) -> Outcome<Option<Revision>> {
        let body = Value::Array(operations).to_string().into_bytes();
        let request = self
            .agent
            .request(Method::PUT, ["v1", "txn"])
            .body("application/json", body);
        let ask = |client| {
            let request = request.clone();
            async move { answer::transaction(&self.agent.send(&client, request).await?) }
        };
        self.agent.pool.call(end, ask).await
    }

    /// The session that a publication is to hang on: the one it hangs on, renewed, or a new one.
    async fn session(
        &self,
        present: Option<String>,
        ttl: Duration,
        end: Instant,
    ) -> Result<String, Error> {
        if let Some(id) = present
            && session::renew(&self.agent, &id, end).await?
        {
            return Ok(id);
        }
        // Consul lets a session live for up to twice its TTL.
        session::create(&self.agent, Behavior::Delete, ttl / 2, end).await
    }

    fn published(&self) -> MutexGuard<'_, BTreeMap<Key, Published>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation of a transaction.
fn operation(verb: &str, path: &str, rest: Value) -> Value {
    let mut operation = json!({ "Verb": verb, "Key": path });
    if let (Value::Object(operation), Value::Object(rest)) = (&mut operation, rest) {
        operation.extend(rest);
    }
    json!({ "KV": operation })
}

#[async_trait::async_trait]
impl Guarded for ConsulStore {
    async fn written_at(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<Revision>, Revision), Error> {
        let path = self.keys.path(key);
        let (pair, index) = self.agent.read(&path, end).await?;
        Ok((pair.map(|pair| Revision(pair.modify_index)), index))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written {
        let path = self.keys.path(key);
        let index = match expected {
            Expected::Absent => 0,
            Expected::At(Revision(index)) => index,
        };
        let swap = match value {
            Some(value) => {
                let value = answer::encode(value);
                let rest = json!({ "Index": index, "Value": value, "Flags": answer::FLAGS });
                operation("cas", &path, rest)
            }
            None => operation("delete-cas", &path, json!({ "Index": index })),
        };
        let outcome = self.transact(vec![swap], end).await;
        // A removal is answered without its index: it is a later one than that of what was removed.
        let stored = |found: Option<Revision>| found.map(|found| found.max(Revision(index)));
        outcome.map(stored).written()
    }
}

#[async_trait::async_trait]
impl Store for ConsulStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let path = self.keys.path(key);
        let (pair, _) = self.agent.read(&path, self.agent.pool.deadline()).await?;
        Ok(pair.map(|pair| pair.entry(key.clone())))
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        let end = self.agent.pool.deadline();
        self.swap(key, expected, Some(value), end).await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        let end = self.agent.pool.deadline();
        overwrite(self, self.describe(), key, Some(value), end).await
    }

    async fn delete(&self, key: &Key) -> Written {
        let end = self.agent.pool.deadline();
        overwrite(self, self.describe(), key, None, end).await
    }

    /// A session for each key, which removes it when it ends.
    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let end = self.agent.pool.deadline();
        let path = self.keys.path(key);
        let mut made = None;
        for _ in 0..PUBLISH_ROUNDS {
            let guess = self.published().get(key).cloned();
            let present = match guess {
                Some(published) => published,
                None => match self.agent.read(&path, end).await?.0 {
                    Some(pair) => pair.published(),
                    None => Published::default(),
                },
            };
            let session = self.session(present.session.or(made), ttl, end).await?;
            let expected = match present.at {
                Some(Revision(index)) => operation("check-index", &path, json!({ "Index": index })),
                None => operation("check-not-exists", &path, json!({})),
            };
            let value = answer::encode(value);
            let rest = json!({ "Value": value, "Flags": answer::FLAGS, "Session": session });
            let operations = vec![expected, operation("lock", &path, rest)];
            // A conflict with an earlier try of this call is found by reading, like any other.
            if let Some(at) = self.transact(operations, end).await.result? {
                let published = Published {
                    at: Some(at),
                    session: Some(session),
                };
                self.published().insert(key.clone(), published);
                return Ok(());
            }
            self.published().remove(key);
            made = Some(session);
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        Err(Error::Unavailable {
            store: self.describe(),
            cause: format!("{key} could not be written in {PUBLISH_ROUNDS} rounds"),
        })
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        let path = self.keys.folder(folder);
        let end = self.agent.pool.deadline();
        let pairs = self.agent.read_below(&path, end).await?;
        let entry = |pair: Pair| {
            let key = self.keys.parse(folder, &pair.key)?;
            Some(pair.entry(key))
        };
        Ok(pairs.into_iter().filter_map(entry).collect())
    }

    fn watch(&self) -> Watch {
        let begin = || {
            let question = watching::Changes {
                agent: self.agent.clone(),
                folder: self.keys.base().to_owned(),
            };
            Following::begin(self.agent.pool.clone(), question)
        };
        Watch::new(self.following.get_or_init(begin).subscribe())
    }

    fn lead(&self, uid: &str) -> Leadership {
        let lock = lock::Lock::new(self.agent.clone(), self.keys.leader(), uid);
        let token = uuid::Uuid::new_v4().to_string();
        leadership::keep(lock, uid, token, LEADER_TTL)
    }

    /// The value stays when a leader leaves; only while a session holds the key does it lead.
    async fn leader(&self) -> Result<Option<String>, Error> {
        let path = self.keys.leader();
        let (pair, _) = self.agent.read(&path, self.agent.pool.deadline()).await?;
        let held = pair.filter(|pair| pair.session.is_some());
        Ok(held.map(|pair| String::from_utf8_lossy(&pair.value).into_owned()))
    }

    fn describe(&self) -> String {
        self.agent.pool.describe()
    }
}
