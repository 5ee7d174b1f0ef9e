//! Kubernetes as the store, with the objects of the Go program (contract, section 3).
//!
//! Cluster data and leader are annotations of one ConfigMap, which is written only over the version
//! that was read; a conflict with the other of the two is read again and passed over. What
//! components publish is on their pods. Our own documents have config maps of their own.

mod access;
mod answer;
mod api;
mod credentials;
mod lock;
mod memory;
mod place;
mod pods;
mod room;
mod watching;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use tokio::time::Instant;

use crate::overwrite::{Guarded, overwrite};
use crate::{
    Config, Entry, Error, Expected, Folder, Key, Leadership, Revision, Store, Watch, Written,
    leadership, pool,
};
use api::{Api, version};
use lock::{LEADER, LEADER_TTL, Record};
use memory::Memory;
use place::{Field, Names, Place};
use watching::Following;

/// How often a write starts again because something else was written to its ConfigMap meanwhile.
const ROUNDS: u32 = 50;

/// A cluster's store in Kubernetes.
#[derive(Debug)]
pub(crate) struct KubernetesStore {
    api: Arc<Api>,
    names: Names,
    memory: Mutex<Memory>,
    own_pod: pods::Own,
    doubles: pods::Doubles,
    room: room::Room,
    /// Begun by the first one who wants to know of changes, ended when the store is dropped.
    following: OnceLock<Following>,
}

impl KubernetesStore {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let names = Names::new(&config.cluster_name)?;
        let (cluster, namespace) = access::Cluster::new(config)?;
        if !config.endpoints.is_empty() {
            tracing::warn!(
                "--store-endpoints has no effect: the kubeconfig says where Kubernetes is"
            );
        }
        let pool = Arc::new(pool::Pool::new(cluster, pool::timeout(config)?));
        Ok(Self {
            api: Arc::new(Api::new(pool, namespace, names.main())),
            names,
            memory: Mutex::default(),
            own_pod: pods::Own::new(config.kube.pod_name.clone()),
            doubles: pods::Doubles::default(),
            room: room::Room::default(),
            following: OnceLock::new(),
        })
    }

    /// What a field of a ConfigMap that was read, or written, holds for a key.
    fn entry(&self, key: &Key, field: &Field, map: &ConfigMap) -> Result<Option<Entry>, Error> {
        let Some(value) = field.of(map) else {
            return Ok(None);
        };
        let version = version(&map.metadata)?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = memory.revision(key, value, version);
        let (key, value) = (key.clone(), value.as_bytes().to_vec());
        Ok(Some(Entry {
            key,
            value,
            revision,
        }))
    }

    async fn read(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<ConfigMap>, Option<Entry>), Error> {
        match self.names.place(key) {
            Place::Map { map, field } => {
                let map = self.api.config_map(&map, end).await?;
                let entry = match &map {
                    Some(map) => self.entry(key, &field, map)?,
                    None => None,
                };
                Ok((map, entry))
            }
            Place::Pod(folder) => {
                let all = self.published(folder, end).await?;
                let entry = all.into_iter().find(|entry| entry.key == *key);
                Ok((None, entry))
            }
        }
    }

    async fn published(&self, folder: Folder, end: Instant) -> Result<Vec<Entry>, Error> {
        pods::list(&self.api, &self.names, &self.doubles, folder, end).await
    }

    fn text<'a>(&self, value: &'a [u8]) -> Result<&'a str, Error> {
        std::str::from_utf8(value).map_err(|error| Error::Denied {
            store: self.describe(),
            cause: format!("it keeps text only, and the value is none: {error}"),
        })
    }

    /// One try to write; none: the ConfigMap was written to meanwhile.
    async fn try_swap(
        &self,
        key: &Key,
        (name, field): (&str, &Field),
        expected: Expected,
        value: Option<&str>,
        end: Instant,
    ) -> Result<Option<Written>, Error> {
        let (map, entry) = self.read(key, end).await?;
        let found = entry.map(|entry| entry.revision);
        let is_expected = match expected {
            Expected::Absent => found.is_none(),
            Expected::At(revision) => found == Some(revision),
        };
        if !is_expected {
            return Ok(Some(Written::Conflict));
        }
        let mut map = map.unwrap_or_else(|| self.names.new_map(name));
        field.set(&mut map, value);
        self.room.note(&map, field);
        let outcome = self.api.write(&map, end).await;
        let (map, doubt) = match (outcome.result, outcome.doubt) {
            (Ok(map), doubt) => (map, doubt),
            (Err(error), Some(_)) => return Ok(Some(Written::Unknown(error))),
            (Err(error), None) => return Ok(Some(Written::No(error))),
        };
        let Some(map) = map else {
            // Perhaps an earlier try of ours is what changed it.
            return Ok(doubt.map(Written::Unknown));
        };
        let revision = match self.entry(key, field, &map) {
            Ok(Some(entry)) => Ok(entry.revision),
            Ok(None) => version(&map.metadata).map(Revision),
            Err(error) => Err(error),
        };
        Ok(Some(revision.map_or_else(Written::Unknown, Written::Yes)))
    }
}

#[async_trait::async_trait]
impl Guarded for KubernetesStore {
    async fn written_at(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<Revision>, Revision), Error> {
        let (map, entry) = self.read(key, end).await?;
        let now = map.map_or(Ok(0), |map| version(&map.metadata))?;
        Ok((entry.map(|entry| entry.revision), Revision(now)))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written {
        let value = match value.map(|value| self.text(value)).transpose() {
            Ok(value) => value,
            Err(error) => return Written::No(error),
        };
        let Place::Map { map, field } = self.names.place(key) else {
            return Written::No(Error::Config(format!(
                "{key} is written by who publishes it"
            )));
        };
        for _ in 0..ROUNDS {
            match self
                .try_swap(key, (&map, &field), expected, value, end)
                .await
            {
                Ok(Some(written)) => return written,
                Ok(None) => {}
                Err(error) => return Written::No(error),
            }
        }
        Written::No(Error::Unavailable {
            store: self.describe(),
            cause: format!("the ConfigMap {map} was changed by others {ROUNDS} times"),
        })
    }
}

#[async_trait::async_trait]
impl Store for KubernetesStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let (_, entry) = self.read(key, self.api.pool.deadline()).await?;
        Ok(entry)
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        self.swap(key, expected, Some(value), self.api.pool.deadline())
            .await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        let end = self.api.pool.deadline();
        overwrite(self, self.describe(), key, Some(value), end).await
    }

    async fn delete(&self, key: &Key) -> Written {
        let end = self.api.pool.deadline();
        if let Place::Pod(_) = self.names.place(key) {
            return match pods::take_back(&self.api, &self.names, key, end).await {
                Ok(revision) => Written::Yes(revision),
                Err(error) => Written::Unknown(error),
            };
        }
        overwrite(self, self.describe(), key, None, end).await
    }

    /// The TTL is for stores that have one: here a publication goes with its pod.
    async fn publish(&self, key: &Key, value: &[u8], _: Duration) -> Result<(), Error> {
        let end = self.api.pool.deadline();
        let text = self.text(value)?;
        let Place::Pod(_) = self.names.place(key) else {
            return Err(Error::Config(format!(
                "{key} is on no pod: it is not published"
            )));
        };
        self.own_pod
            .publish(&self.api, &self.names, key, text, end)
            .await
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        let end = self.api.pool.deadline();
        if folder != Folder::Requests {
            return self.published(folder, end).await;
        }
        let Some(map) = self.api.config_map(&self.names.ext(), end).await? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for name in map.data.iter().flat_map(|data| data.keys()) {
            let Some(key) = place::request(name) else {
                continue;
            };
            entries.extend(self.entry(&key, &Field::Data(name.clone()), &map)?);
        }
        let present: Vec<&Key> = entries.iter().map(|entry| &entry.key).collect();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.keep_requests(&present);
        drop(memory);
        Ok(entries)
    }

    fn watch(&self) -> Watch {
        let begin = || Following::begin(&self.api, &self.names);
        Watch::new(self.following.get_or_init(begin).subscribe())
    }

    fn lead(&self, uid: &str) -> Leadership {
        let lock = lock::Lock::new(self.api.clone(), self.names.clone());
        leadership::keep(lock, uid, uid.to_owned(), LEADER_TTL)
    }

    /// Who held the record last: it has no TTL, and outlives a leader that did not give it up.
    async fn leader(&self) -> Result<Option<String>, Error> {
        let end = self.api.pool.deadline();
        let map = self.api.config_map(&self.names.main(), end).await?;
        let record = map.and_then(|map| Record::read(LEADER.of(&map)));
        let holder = record.map(|record| record.holder_identity);
        Ok(holder.filter(|holder| !holder.is_empty()))
    }

    fn describe(&self) -> String {
        format!(
            "{} (namespace {})",
            self.api.pool.describe(),
            self.api.namespace
        )
    }
}
