//! The shared memory of a cluster: compare-and-swap, expiry, watches, leadership.
//!
//! Only this crate knows keys and backends. Every backend satisfies the same list of checks,
//! [`conformance`]. A watch only wakes; what is true is always read.

mod addresses;
mod clock;
pub mod conformance;
mod consul;
mod error;
mod etcd2;
mod etcd3;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
mod keys;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod leadership;
pub mod memory;
mod overwrite;
mod pool;
mod sqlite;
mod tls;

use std::sync::Arc;
use std::time::Duration;

pub use consul::services::{Service, Services};
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

/// All that a sentinel decides by, each folder by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Everything {
    /// The cluster data.
    pub data: Option<Entry>,
    /// What keepers published.
    pub keepers: Vec<Entry>,
    /// What proxies published.
    pub proxies: Vec<Entry>,
    /// What sentinels published.
    pub sentinels: Vec<Entry>,
    /// What operators ask for.
    pub requests: Vec<Entry>,
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

    /// Writes a key that disappears `ttl` after its last publication, or some time later; in
    /// Kubernetes with the pod of who published it.
    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error>;

    /// Reads all keys of a folder, by name; linearizable.
    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error>;

    /// Reads all that a sentinel decides by; linearizable. In one call, and as of one moment, where the
    /// store can.
    async fn read_all(&self) -> Result<Everything, Error> {
        let (data, keepers, proxies, sentinels, requests) = tokio::try_join!(
            self.get(&Key::ClusterData),
            self.list(Folder::Keepers),
            self.list(Folder::Proxies),
            self.list(Folder::Sentinels),
            self.list(Folder::Requests)
        )?;
        Ok(Everything {
            data,
            keepers,
            proxies,
            sentinels,
            requests,
        })
    }

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
    /// etcd by its version 2 API.
    Etcd2,
    /// Consul's key-value store.
    Consul,
    /// Config maps and pods of Kubernetes.
    Kubernetes,
    /// A SQLite file, for the components of one host.
    Sqlite,
}

/// What `--store-backend` may be, for messages.
pub const BACKENDS: &str =
    "etcdv3, etcdv2, consul, kubernetes, or sqlite for a cluster on one host";

impl Backend {
    /// The backend of that name in `--store-backend`.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        match name {
            "etcdv3" => Ok(Self::Etcd3),
            // The Go program's short name is the older API's.
            "etcd" | "etcdv2" => Ok(Self::Etcd2),
            "consul" => Ok(Self::Consul),
            "sqlite" => Ok(Self::Sqlite),
            "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(Error::Config(format!(
                "unknown store backend {name:?}: use {BACKENDS}"
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

/// Who we are to a store, besides by a certificate.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Consul's ACL token.
    pub token: Option<String>,
    /// A file with Consul's ACL token, read again when the token is refused; it goes before `token`.
    pub token_file: Option<std::path::PathBuf>,
    /// User and password: of etcd's own authentication, else by HTTP's basic authentication.
    pub user: Option<(String, String)>,
    /// Consul's datacenter that holds the cluster; none: that of the agent.
    pub datacenter: Option<String>,
}

impl std::fmt::Debug for Access {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("token_file", &self.token_file)
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("datacenter", &self.datacenter)
            .finish()
    }
}

/// How Kubernetes is reached, and where we are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kube {
    /// The kubeconfig that is to be used; none: those that are there.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// Kubeconfigs that are used as one, as far as they are there. When none is, the service
    /// account of the pod is.
    pub looked_for: Vec<std::path::PathBuf>,
    /// The context in the kubeconfig; none: its current one.
    pub context: Option<String>,
    /// The namespace; none: that of the context, or of the pod.
    pub namespace: Option<String>,
    /// The namespace of the pod this runs in, as its environment has it.
    pub pod_namespace: Option<String>,
    /// The pod this runs in; none: nothing can be published.
    pub pod_name: Option<String>,
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
    /// Who we are, besides.
    pub access: Access,
    /// How Kubernetes is reached, for that store alone.
    pub kube: Kube,
}

/// Opens the store of a cluster. It does not wait for a server: calls tell whether there is one.
pub fn open(config: &Config) -> Result<Arc<dyn Store>, Error> {
    let keys = keys::Keys::new(&config.prefix, &config.cluster_name);
    match config.backend {
        Backend::Etcd3 => Ok(Arc::new(etcd3::Etcd3Store::open(config, keys)?)),
        Backend::Etcd2 => Ok(Arc::new(etcd2::Etcd2Store::open(config)?)),
        Backend::Consul => Ok(Arc::new(consul::ConsulStore::open(config)?)),
        #[cfg(feature = "kubernetes")]
        Backend::Kubernetes => Ok(Arc::new(kubernetes::KubernetesStore::open(config)?)),
        #[cfg(not(feature = "kubernetes"))]
        Backend::Kubernetes => Err(Error::Config(
            "this program was built without the store backend kubernetes (a cargo feature)"
                .to_owned(),
        )),
        Backend::Sqlite => Ok(Arc::new(sqlite::SqliteStore::open(config, keys)?)),
    }
}
