//! One PostgreSQL instance as the cluster data records it: what it is to be, what it was seen to be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::{ArchiveRecoverySettings, NewConfig, PitrConfig, StandbySettings};
use super::{DbUid, Generation, GoDuration, KeeperUid, List, Lsn, TimelineId, Unknown};
use super::{is_default, string_enum};
use crate::time::Timestamp;

/// The name in `synchronous_standby_names` that no standby has, so that commits wait.
pub const PLACEHOLDER_STANDBY: &str = "stolonfakestandby";

/// One PostgreSQL instance in one life.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Db {
    /// Its name; a new life has a new one.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: DbUid,
    /// Raised whenever the spec changes.
    #[serde(skip_serializing_if = "is_default")]
    pub generation: Generation,
    /// When it last changed.
    pub change_time: Timestamp,
    /// What it is to be.
    pub spec: DbSpec,
    /// What the leader last saw.
    pub status: DbStatus,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DbSpec {
    /// The keeper that runs it.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_default")]
    pub keeper_uid: KeeperUid,
    /// Bound on one request to the instance.
    pub request_timeout: GoDuration,
    /// Standbys it must have room for.
    #[serde(skip_serializing_if = "is_default")]
    pub max_standbys: u16,
    /// Whether commits wait for the synchronous standbys.
    #[serde(skip_serializing_if = "is_default")]
    pub synchronous_replication: bool,
    /// Whether a fork may be undone by `pg_rewind`.
    #[serde(skip_serializing_if = "is_default")]
    pub use_pgrewind: bool,
    /// WAL senders beyond those the standbys need.
    pub additional_wal_senders: u16,
    /// Replication slots beside the followers', without the `stolon_` they get.
    pub additional_replication_slots: List<String>,
    /// How the instance comes into being.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_mode: Option<InitMode>,
    /// `initdb`'s options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_config: Option<NewConfig>,
    /// Point-in-time recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pitr_config: Option<PitrConfig>,
    /// The user's parameters.
    #[serde(rename = "pgParameters", skip_serializing_if = "BTreeMap::is_empty")]
    pub pg_parameters: BTreeMap<String, String>,
    /// The user's access rules; null: everybody with a password.
    #[serde(rename = "pgHBA")]
    pub pg_hba: List<String>,
    /// Primary or standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What a standby follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_config: Option<FollowConfig>,
    /// The dbs that follow this one and need its slots.
    pub followers: List<DbUid>,
    /// Whether the configuration found in the data directory stays in force under ours.
    #[serde(skip_serializing_if = "is_default")]
    pub include_previous_config: bool,
    /// The standbys every commit waits for.
    pub synchronous_standbys: List<DbUid>,
    /// Other names every commit waits for, as they stand in `synchronous_standby_names`.
    pub external_synchronous_standbys: List<String>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the leader last saw of an instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DbStatus {
    /// Whether it was healthy within failInterval.
    #[serde(skip_serializing_if = "is_default")]
    pub healthy: bool,
    /// The generation of the spec it has converged to.
    #[serde(skip_serializing_if = "is_default")]
    pub current_generation: Generation,
    /// The address it is reached at.
    #[serde(skip_serializing_if = "is_default")]
    pub listen_address: String,
    /// The port it is reached at.
    #[serde(skip_serializing_if = "is_default")]
    pub port: String,
    /// PostgreSQL's system identifier; the key's spelling is the format's.
    #[serde(rename = "systemdID", skip_serializing_if = "is_default")]
    pub system_id: String,
    /// The timeline it is on.
    #[serde(rename = "timelineID", skip_serializing_if = "is_default")]
    pub timeline_id: TimelineId,
    /// Its flush position.
    #[serde(rename = "xLogPos", skip_serializing_if = "is_default")]
    pub xlog_pos: Lsn,
    /// The last timeline switches in its history.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timelines_history: Vec<TimelineSwitch>,
    /// The parameters in its configuration files.
    #[serde(rename = "pgParameters", skip_serializing_if = "BTreeMap::is_empty")]
    pub pg_parameters: BTreeMap<String, String>,
    /// The standbys confirmed to have every acknowledged commit; cumulative while they stay in the
    /// spec's list (contract, section 7).
    pub synchronous_standbys: List<DbUid>,
    /// The oldest WAL file it still has.
    #[serde(skip_serializing_if = "is_default")]
    pub older_wal_file: String,
    /// Where the oldest WAL that it still has begins; of ours.
    #[serde(skip_serializing_if = "is_default")]
    pub oldest_wal: Lsn,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl DbStatus {
    /// Where the oldest WAL that it still has begins; leaders of the Go program keep only the file.
    pub fn oldest_wal(&self) -> Lsn {
        if self.oldest_wal > Lsn::UNKNOWN {
            self.oldest_wal
        } else {
            Lsn::of_wal_file(&self.older_wal_file, Lsn::WAL_FILE)
        }
    }
}

/// One switch in a timeline's history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    #[serde(rename = "timelineID", skip_serializing_if = "is_default")]
    pub timeline_id: TimelineId,
    /// Where it ended.
    #[serde(skip_serializing_if = "is_default")]
    pub switch_point: Lsn,
    /// Why, in PostgreSQL's words.
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a standby follows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowConfig {
    /// A db of this cluster or an external server.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub follow_type: Option<FollowType>,
    /// The db, when of this cluster.
    #[serde(rename = "dbuid", skip_serializing_if = "is_default")]
    pub db_uid: DbUid,
    /// The connection to an external server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_settings: Option<StandbySettings>,
    /// The archive of an external server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl FollowConfig {
    /// To follow a db of this cluster.
    pub fn internal(db_uid: DbUid) -> Self {
        Self {
            follow_type: Some(FollowType::Internal),
            db_uid,
            ..Self::default()
        }
    }
}

string_enum! {
    /// The role of an instance: `master` in the format's words is the primary.
    Role {
        /// Writable.
        Primary = "master",
        /// Follows.
        Standby = "standby",
    }
}

string_enum! {
    /// How an instance comes into being.
    InitMode {
        /// It is there already.
        None = "none",
        /// `initdb`.
        New = "new",
        /// Its data are there, taken over as they are.
        Existing = "existing",
        /// Restored from a backup by a command of the operator.
        Pitr = "pitr",
        /// Copied from the db it follows.
        Resync = "resync",
    }
}

string_enum! {
    /// Whether a standby follows a db of this cluster or another server.
    FollowType {
        /// A db of this cluster.
        Internal = "internal",
        /// A server outside.
        External = "external",
    }
}
