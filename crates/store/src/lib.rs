//! The shared memory of a cluster: compare-and-swap, expiry, watches, leadership.
//!
//! Only this crate knows keys and backends. Every backend satisfies the same list of checks,
//! [`conformance`]. A watch only wakes; what is true is always read.

mod clock;
pub mod conformance;
mod error;
mod etcd3;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod keys;
mod leadership;
pub mod memory;
mod sqlite;
mod tls;

use std::sync::Arc;
use std::time::Duration;

pub use error::Error;
pub use keys::{Folder, Key};
pub use leadership::Leadership;
pub use memory::MemoryStore;

/// A position in the order of all writes of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A key with its value, and the revision of its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The bytes.
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
}

/// What a compare-and-swap expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No such key.
    Absent,
    /// The key, last written at this revision.
    At(Revision),
}

/// What came of a write.
#[derive(Debug)]
pub enum Written {
    /// It is stored, at this revision.
    Yes(Revision),
    /// The key was not as expected: nothing was stored.
    Conflict,
    /// Definitely nothing was stored.
    No(Error),
    /// No answer: it may have been stored. Read before acting on it.
    Unknown(Error),
}

/// The store of one cluster.
#[async_trait::async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Reads a key; linearizable.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Writes a key if it is as expected.
    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written;

    /// Writes a key, whatever it holds.
    async fn put(&self, key: &Key, value: &[u8]) -> Written;

    /// Removes a key, whatever it holds.
    async fn delete(&self, key: &Key) -> Written;

    /// Writes a key that disappears `ttl` after its last publication, or some time later.
    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error>;

    /// Reads all keys of a folder, by name; linearizable.
    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error>;

    /// A watch that wakes when something of the cluster may have changed.
    fn watch(&self) -> Watch;

    /// Stands for election as the leading sentinel until the handle is dropped.
    fn lead(&self, uid: &str) -> Leadership;

    /// The uid of the present leader, for status only.
    async fn leader(&self) -> Result<Option<String>, Error>;

    /// The backend and the endpoint in use, for messages.
    fn describe(&self) -> String;
}

/// Wakes when something may have changed. It never ends: when a connection breaks it wakes too,
/// and is made again behind it.
#[derive(Debug)]
pub struct Watch {
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Watch {
    pub(crate) fn new(mut changes: tokio::sync::watch::Receiver<u64>) -> Self {
        changes.mark_unchanged();
        Self { changes }
    }

    /// Waits until something may have changed since the last call; many changes are one.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The store is gone, and with it whatever could change.
            std::future::pending::<()>().await;
        }
    }
}

/// The kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// etcd by its version 3 API.
    Etcd3,
    /// A SQLite file, for the components of one host.
    Sqlite,
}

impl Backend {
    /// The backend of that name in `--store-backend`.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        match name {
            "etcdv3" => Ok(Self::Etcd3),
            "sqlite" => Ok(Self::Sqlite),
            "etcd" | "etcdv2" | "consul" | "kubernetes" => Err(Error::Config(format!(
                "the store backend {name:?} is not in this version: use etcdv3, or sqlite for a \
                 cluster on one host"
            ))),
            _ => Err(Error::Config(format!(
                "unknown store backend {name:?}: use etcdv3, or sqlite for a cluster on one host"
            ))),
        }
    }
}

/// Certificates for the connection to a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Client certificate (PEM file); used only together with the key.
    pub certificate: Option<std::path::PathBuf>,
    /// Client key (PEM file).
    pub key: Option<std::path::PathBuf>,
    /// Certificate authority (PEM file); the system's when not given.
    pub authority: Option<std::path::PathBuf>,
    /// Whether the server's certificate is not verified.
    pub skip_verify: bool,
}

/// How to reach the store of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The kind of store.
    pub backend: Backend,
    /// Addresses; for SQLite one absolute file path.
    pub endpoints: Vec<String>,
    /// What comes before the cluster's name in every key.
    pub prefix: String,
    /// The cluster.
    pub cluster_name: String,
    /// Bound on one call, over all endpoints.
    pub timeout: Duration,
    /// Certificates.
    pub tls: Tls,
}

/// Opens the store of a cluster. It does not wait for a server: calls tell whether there is one.
pub fn open(config: &Config) -> Result<Arc<dyn Store>, Error> {
    let keys = keys::Keys::new(&config.prefix, &config.cluster_name);
    match config.backend {
        Backend::Etcd3 => Ok(Arc::new(etcd3::Etcd3Store::open(config, keys)?)),
        Backend::Sqlite => Ok(Arc::new(sqlite::SqliteStore::open(config, keys)?)),
    }
}
