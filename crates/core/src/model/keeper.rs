//! A keeper as the cluster data records it.

use serde::{Deserialize, Serialize};

use super::{BootUuid, Generation, KeeperUid, Unknown, is_default};
use crate::time::Timestamp;

/// One keeper.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keeper {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: KeeperUid,
    /// Raised when its spec changes.
    #[serde(skip_serializing_if = "is_default")]
    pub generation: Generation,
    /// When it last changed.
    pub change_time: Timestamp,
    /// Nothing so far.
    pub spec: KeeperSpec,
    /// What the leader last saw.
    pub status: KeeperStatus,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a keeper is to do; empty in format version 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the leader last saw of a keeper.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperStatus {
    /// Whether it was alive within failInterval.
    #[serde(skip_serializing_if = "is_default")]
    pub healthy: bool,
    /// When it was last healthy: dead keepers are removed by it.
    pub last_healthy_time: Timestamp,
    /// The start of the keeper whose instance may serve (the boot rule).
    #[serde(rename = "bootUUID", skip_serializing_if = "is_default")]
    pub boot_uuid: BootUuid,
    /// The version of the PostgreSQL programs beside it.
    pub postgres_binary_version: PostgresVersion,
    /// An operator declared it failed (`stolonctl failkeeper`); taken back by the leader's next
    /// decision.
    #[serde(skip_serializing_if = "is_default")]
    pub force_fail: bool,
    /// Whether it may run the primary; yes when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_master: Option<bool>,
    /// Whether it may run a synchronous standby; yes when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_synchronous_replica: Option<bool>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl KeeperStatus {
    /// Whether it may run the primary.
    pub fn may_be_primary(&self) -> bool {
        self.can_be_master.unwrap_or(true)
    }

    /// Whether it may run a synchronous standby.
    pub fn may_be_synchronous(&self) -> bool {
        self.can_be_synchronous_replica.unwrap_or(true)
    }
}

/// The version of PostgreSQL's programs, as `postgres --version` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresVersion {
    /// Major version, for example 15; 0 is unknown.
    #[serde(rename = "Maj")]
    pub major: i64,
    /// Minor version.
    #[serde(rename = "Min")]
    pub minor: i64,
}
