//! What the components publish about themselves: the info documents.
//!
//! Fields the Go program does not know are ignored by it, so ours ride along (contract, section 8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    BootUuid, ClusterUid, DbUid, Generation, InfoUid, KeeperUid, List, Lsn, PostgresVersion,
    ProxyUid, SentinelUid, TimelineId, TimelineSwitch, Unknown, is_default, string_enum,
};

/// What programs of this project write into `impl`.
pub const IMPLEMENTATION: &str = "stolon-rs";

/// Proxy: the age of its last good check counts from when the read was sent, so that it is known
/// to have closed by `ProxyTimeout x 1.05 + 0.5 s` after its last publication.
pub const FEATURE_AGE_FROM_SEND: &str = "age-from-send";
/// Keeper: reports a standby in sync only by the flush rule of the contract's section 7.
pub const FEATURE_FLUSH_RULE: &str = "flush-rule";
/// Keeper: publishes a release after its postmaster is gone and then waits for a newer document.
pub const FEATURE_RELEASE: &str = "release";

/// Keeper: follows the settings under `ext/spec`.
pub const FEATURE_EXT_SPEC: &str = "ext-spec";
/// Of a proxy: it may lead clients to standbys, and not to one that the cluster data name as the
/// successor of the primary. Of a sentinel: it names the successor, and lets it become the primary
/// when no proxy leads clients to it any more.
pub const FEATURE_READS: &str = "reads";

/// What a keeper publishes under `keepers/info/UID`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperInfo {
    /// New at every publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_default")]
    pub info_uid: InfoUid,
    /// The keeper.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: KeeperUid,
    /// The cluster it last read about; reports about another one are ignored.
    #[serde(rename = "clusterUID", skip_serializing_if = "is_default")]
    pub cluster_uid: ClusterUid,
    /// This start of the keeper.
    #[serde(rename = "bootUUID", skip_serializing_if = "is_default")]
    pub boot_uuid: BootUuid,
    /// The version of the PostgreSQL programs beside it.
    pub postgres_binary_version: PostgresVersion,
    /// Its instance; none while it has no db.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_state: Option<PostgresState>,
    /// Whether it may run the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_master: Option<bool>,
    /// Whether it may run a synchronous standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_synchronous_replica: Option<bool>,
    /// [`IMPLEMENTATION`]; empty for the Go program.
    #[serde(rename = "impl", skip_serializing_if = "is_default")]
    pub implementation: String,
    /// The version of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// What it can do beyond the Go program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// An instance as its keeper sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresState {
    /// The db.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: DbUid,
    /// The generation of the spec it has converged to.
    #[serde(skip_serializing_if = "is_default")]
    pub generation: Generation,
    /// The address others reach it at.
    #[serde(skip_serializing_if = "is_default")]
    pub listen_address: String,
    /// The port others reach it at.
    #[serde(skip_serializing_if = "is_default")]
    pub port: String,
    /// Whether it answers.
    #[serde(skip_serializing_if = "is_default")]
    pub healthy: bool,
    /// PostgreSQL's system identifier.
    #[serde(rename = "systemID", skip_serializing_if = "is_default")]
    pub system_id: String,
    /// The timeline it is on.
    #[serde(rename = "timelineID", skip_serializing_if = "is_default")]
    pub timeline_id: TimelineId,
    /// Its flush position.
    #[serde(rename = "xLogPos", skip_serializing_if = "is_default")]
    pub xlog_pos: Lsn,
    /// The last timeline switches in its history: two, and more of one of our primaries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timelines_history: Vec<TimelineSwitch>,
    /// The parameters in its configuration files.
    #[serde(rename = "pgParameters", skip_serializing_if = "BTreeMap::is_empty")]
    pub pg_parameters: BTreeMap<String, String>,
    /// The standbys that are in sync now, by the flush rule.
    pub synchronous_standbys: List<DbUid>,
    /// The oldest WAL file it still has.
    #[serde(skip_serializing_if = "is_default")]
    pub older_wal_file: String,
    /// What our keepers know beyond the Go program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceReport>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PostgresState {
    /// Where the oldest WAL that it still has begins; the Go program's keepers tell the file.
    pub fn oldest_wal(&self) -> Lsn {
        self.instance.as_ref().map_or_else(
            || Lsn::of_wal_file(&self.older_wal_file, Lsn::WAL_FILE),
            |instance| instance.oldest_wal,
        )
    }
}

/// What our keepers report of an instance beyond the Go program's report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceReport {
    /// What state it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// The reason for the condition, or the last error, in words.
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    /// `pg_is_in_recovery()`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_recovery: Option<bool>,
    /// Of a standby: whether its WAL receiver streams from the db it is to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
    /// Of a standby: what has been replayed.
    #[serde(skip_serializing_if = "is_default")]
    pub replay_lsn: Lsn,
    /// Of restored data that recover: how far they are, in words.
    #[serde(skip_serializing_if = "is_default")]
    pub recovery: String,
    /// How old all of this is: milliseconds since the look began that found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_ago_millis: Option<u64>,
    /// Of a standby: seconds since it last heard from the server it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// Of a standby that does not stream: why, in PostgreSQL's words.
    #[serde(skip_serializing_if = "is_default")]
    pub stream_error: String,
    /// Of a standby: the age of the last transaction that it has replayed, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_age_seconds: Option<u64>,
    /// Its replication slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotReport>,
    /// Bytes free where its WAL is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Where the oldest WAL that it still has begins.
    #[serde(skip_serializing_if = "is_default")]
    pub oldest_wal: Lsn,
    /// Of a primary: its standbys, as `pg_stat_replication` shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerReport>,
    /// The postmaster and all its children are gone, and the keeper will not start the instance as
    /// a primary before it has read a document newer than the one of this store revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_at_revision: Option<u64>,
    /// Of a standby: why its data cannot be used any more, so that it needs others.
    #[serde(skip_serializing_if = "is_default")]
    pub data_unusable: String,
    /// Parameters that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    /// Parameters of the spec that PostgreSQL does not take and that are not in force, each with its
    /// reason.
    #[serde(skip_serializing_if = "is_default")]
    pub refused_parameters: std::collections::BTreeMap<String, String>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

string_enum! {
    /// The state of an instance as its keeper sees it.
    Condition {
        /// It answers queries.
        Running = "running",
        /// It starts, or recovers, and does not answer queries yet.
        Starting = "starting",
        /// It is alive and has no connection left (SQLSTATE 53300).
        Saturated = "saturated",
        /// Its process lives and does not answer.
        Silent = "silent",
        /// It is being stopped.
        Stopping = "stopping",
        /// It does not run.
        Stopped = "stopped",
        /// Its data are being made: initialised or copied.
        Initializing = "initializing",
        /// It failed and does not come back by itself.
        Failed = "failed",
    }
}

/// A physical replication slot of an instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlotReport {
    /// Its name.
    pub name: String,
    /// Whether somebody streams through it.
    pub active: bool,
    /// From where on it keeps WAL; unknown: it keeps none.
    #[serde(skip_serializing_if = "is_default")]
    pub restart_lsn: Lsn,
    /// `pg_replication_slots.wal_status`: reserved, extended, unreserved, lost; empty before version 13.
    #[serde(skip_serializing_if = "is_default")]
    pub wal_status: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A standby as its primary sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerReport {
    /// The standby's db.
    pub db_uid: DbUid,
    /// `pg_stat_replication.state`: streaming, catchup, backup, …
    pub state: String,
    /// What it has flushed.
    pub flush_lsn: Lsn,
    /// What it has replayed.
    pub replay_lsn: Lsn,
    /// `pg_stat_replication.sync_state`: async, potential, sync, quorum.
    pub sync_state: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a proxy publishes under `proxies/info/UID`. The key spellings are the format's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyInfo {
    /// New at every publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_default")]
    pub info_uid: InfoUid,
    /// The proxy.
    #[serde(rename = "UID")]
    pub uid: ProxyUid,
    /// The generation of the proxy spec it has carried out.
    #[serde(rename = "Generation")]
    pub generation: Generation,
    /// Its proxyTimeout, in nanoseconds.
    #[serde(rename = "ProxyTimeout")]
    pub proxy_timeout_nanos: i64,
    /// [`IMPLEMENTATION`]; empty for the Go program.
    #[serde(rename = "impl", skip_serializing_if = "is_default")]
    pub implementation: String,
    /// The version of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// What it can do beyond the Go program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a sentinel publishes under `sentinels/info/UID`. The key spelling is the format's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SentinelInfo {
    /// The sentinel.
    #[serde(rename = "UID")]
    pub uid: SentinelUid,
    /// [`IMPLEMENTATION`]; empty for the Go program.
    #[serde(rename = "impl", skip_serializing_if = "is_default")]
    pub implementation: String,
    /// The version of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// What it can do beyond the Go program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
