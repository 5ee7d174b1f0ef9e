//! The cluster data document: the one thing all decisions are about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ClusterSpec, ClusterUid, Db, DbUid, Generation, Keeper, KeeperUid, Proxy, Unknown, is_default,
    string_enum,
};
use crate::time::Timestamp;

/// The format version of the documents this program reads and writes.
pub const FORMAT_VERSION: u64 = 1;

/// The whole document under the key `clusterdata`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterData {
    /// Always [`FORMAT_VERSION`]; another one is refused.
    pub format_version: u64,
    /// When the document last changed.
    pub change_time: Timestamp,
    /// The cluster; none before initialisation.
    pub cluster: Option<Cluster>,
    /// All keepers ever seen and not removed since.
    pub keepers: BTreeMap<KeeperUid, Keeper>,
    /// The PostgreSQL instances that keepers are to run.
    pub dbs: BTreeMap<DbUid, Db>,
    /// What proxies are to do.
    pub proxy: Proxy,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Default for ClusterData {
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            change_time: Timestamp::ZERO,
            cluster: None,
            keepers: BTreeMap::new(),
            dbs: BTreeMap::new(),
            proxy: Proxy::default(),
            unknown: Unknown::new(),
        }
    }
}

impl ClusterData {
    /// The document of a cluster about to be initialised with `spec`.
    pub fn new(uid: ClusterUid, spec: ClusterSpec, now: Timestamp) -> Self {
        let cluster = Cluster {
            uid,
            generation: Generation::FIRST,
            change_time: now,
            spec: Some(spec),
            status: ClusterStatus {
                phase: Some(Phase::Initializing),
                ..ClusterStatus::default()
            },
            unknown: Unknown::new(),
        };
        Self {
            cluster: Some(cluster),
            ..Self::default()
        }
    }

    /// The db that is, or is being made, the source of the cluster.
    pub fn primary(&self) -> Option<&Db> {
        self.dbs.get(self.cluster.as_ref()?.status.master.as_ref()?)
    }

    /// The db a keeper is to run. A keeper has at most one.
    pub fn db_of(&self, keeper: &KeeperUid) -> Option<&Db> {
        self.dbs.values().find(|db| db.spec.keeper_uid == *keeper)
    }
}

/// The cluster as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// New at every initialisation.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: ClusterUid,
    /// Raised when the spec changes.
    #[serde(skip_serializing_if = "is_default")]
    pub generation: Generation,
    /// When it last changed.
    pub change_time: Timestamp,
    /// What the operator wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<ClusterSpec>,
    /// What is.
    pub status: ClusterStatus,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The state of the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// The generation of the spec that was last worked in.
    #[serde(skip_serializing_if = "is_default")]
    pub current_generation: Generation,
    /// Where the cluster stands in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The db that is, or is being made, the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<DbUid>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

string_enum! {
    /// Where a cluster stands in its life.
    Phase {
        /// Its first db is being made.
        Initializing = "initializing",
        /// It serves.
        Normal = "normal",
    }
}
