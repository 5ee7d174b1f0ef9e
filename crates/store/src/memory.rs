//! A store inside one process, for tests, with faults at will.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::boot_time;
use crate::leadership::{self, Lease};
use crate::{Entry, Error, Expected, Folder, Key, Leadership, Revision, Store, Watch, Written};

/// How long a leader holds on after it was last heard.
const LEADER_TTL: Duration = Duration::from_secs(2);

/// A store inside one process. Clones share the same contents.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    contents: Arc<Mutex<Contents>>,
    changes: watch::Sender<u64>,
}

/// What goes wrong with a [`MemoryStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every call fails at once and does nothing.
    Down,
    /// Every call hangs for this long and then fails.
    Frozen(Duration),
    /// Writes are done, and their answers are lost.
    AnswersLost,
}

#[derive(Debug)]
struct Contents {
    entries: BTreeMap<String, Stored>,
    revision: u64,
    fault: Fault,
    leader: Option<(String, String, Duration)>,
}

#[derive(Debug)]
struct Stored {
    key: Key,
    value: Vec<u8>,
    revision: u64,
    expires: Option<Duration>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let contents = Contents {
            entries: BTreeMap::new(),
            revision: 0,
            fault: Fault::None,
            leader: None,
        };
        Self {
            contents: Arc::new(Mutex::new(contents)),
            changes: watch::channel(0).0,
        }
    }
}

impl MemoryStore {
    /// Makes calls go wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.lock().fault = fault;
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let now = boot_time();
        contents
            .entries
            .retain(|_, stored| stored.expires.is_none_or(|end| now < end));
        contents
    }

    /// Suffers the fault in force; true: the answer is to be lost.
    async fn suffer(&self) -> Result<bool, Error> {
        let fault = self.lock().fault;
        let store = self.describe();
        match fault {
            Fault::None => Ok(false),
            Fault::AnswersLost => Ok(true),
            Fault::Down => Err(Error::Unavailable {
                store,
                cause: "down".to_owned(),
            }),
            Fault::Frozen(limit) => {
                tokio::time::sleep(limit).await;
                Err(Error::Timeout { store, limit })
            }
        }
    }

    async fn write(
        &self,
        key: &Key,
        allowed: impl Fn(Option<u64>) -> bool + Send,
        value: Option<(&[u8], Option<Duration>)>,
    ) -> Written {
        let lost = match self.suffer().await {
            Ok(lost) => lost,
            Err(error) => return Written::Unknown(error),
        };
        let revision = {
            let mut contents = self.lock();
            let path = key.to_string();
            if !allowed(contents.entries.get(&path).map(|stored| stored.revision)) {
                return Written::Conflict;
            }
            contents.revision += 1;
            let revision = contents.revision;
            match value {
                Some((value, ttl)) => {
                    let expires = ttl.map(|ttl| boot_time() + ttl);
                    let (key, value) = (key.clone(), value.to_vec());
                    contents.entries.insert(
                        path,
                        Stored {
                            key,
                            value,
                            revision,
                            expires,
                        },
                    );
                }
                None => {
                    contents.entries.remove(&path);
                }
            }
            revision
        };
        self.changes.send_modify(|count| *count += 1);
        if lost {
            let (store, limit) = (self.describe(), Duration::ZERO);
            return Written::Unknown(Error::Timeout { store, limit });
        }
        Written::Yes(Revision(revision))
    }
}

fn entry(stored: &Stored) -> Entry {
    Entry {
        key: stored.key.clone(),
        value: stored.value.clone(),
        revision: Revision(stored.revision),
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.suffer().await?;
        Ok(self.lock().entries.get(&key.to_string()).map(entry))
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        let allowed = move |present: Option<u64>| match expected {
            Expected::Absent => present.is_none(),
            Expected::At(revision) => present == Some(revision.0),
        };
        self.write(key, allowed, Some((value, None))).await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        self.write(key, |_| true, Some((value, None))).await
    }

    async fn delete(&self, key: &Key) -> Written {
        self.write(key, |_| true, None).await
    }

    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        match self.write(key, |_| true, Some((value, Some(ttl)))).await {
            Written::Yes(_) | Written::Conflict => Ok(()),
            Written::No(error) | Written::Unknown(error) => Err(error),
        }
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        self.suffer().await?;
        let is_in = |key: &Key| {
            matches!(
                (folder, key),
                (Folder::Keepers, Key::KeeperInfo(_))
                    | (Folder::Sentinels, Key::SentinelInfo(_))
                    | (Folder::Proxies, Key::ProxyInfo(_))
                    | (Folder::Requests, Key::Request(_))
            )
        };
        Ok(self
            .lock()
            .entries
            .values()
            .filter(|stored| is_in(&stored.key))
            .map(entry)
            .collect())
    }

    fn watch(&self) -> Watch {
        Watch::new(self.changes.subscribe())
    }

    fn lead(&self, uid: &str) -> Leadership {
        let token = uuid::Uuid::new_v4().to_string();
        leadership::keep(self.clone(), uid, token, LEADER_TTL)
    }

    async fn leader(&self) -> Result<Option<String>, Error> {
        self.suffer().await?;
        let leader = self.lock().leader.clone();
        Ok(leader
            .filter(|(_, _, until)| boot_time() < *until)
            .map(|(_, uid, _)| uid))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

#[async_trait::async_trait]
impl Lease for MemoryStore {
    async fn hold(&self, token: &str, uid: &str, ttl: Duration) -> Result<bool, Error> {
        self.suffer().await?;
        let mut contents = self.lock();
        let now = boot_time();
        let free = contents
            .leader
            .as_ref()
            .is_none_or(|(held, _, until)| held == token || *until <= now);
        if free {
            contents.leader = Some((token.to_owned(), uid.to_owned(), now + ttl));
        }
        Ok(free)
    }

    async fn release(&self, token: &str) -> Result<(), Error> {
        self.suffer().await?;
        let mut contents = self.lock();
        if contents
            .leader
            .as_ref()
            .is_some_and(|(held, _, _)| held == token)
        {
            contents.leader = None;
        }
        Ok(())
    }
}
