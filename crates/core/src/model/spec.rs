//! The cluster specification: as the operator typed it, and with every default filled in.

mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

pub use validate::SpecProblem;

use serde::{Deserialize, Serialize};

use super::{GoDuration, KeeperUid, List, Unknown, is_default, string_enum};

/// The specification as stored: what is not said stays unsaid.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Longest time between two looks of a keeper or sentinel; 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep_interval: Option<GoDuration>,
    /// Bound on one request to an instance; 10 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<GoDuration>,
    /// How long a db may take to work in a changed spec before it counts as failed; 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence_timeout: Option<GoDuration>,
    /// How long the first db may take to initialise; 5 min.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_timeout: Option<GoDuration>,
    /// How long a standby may take to copy its source; 0: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_timeout: Option<GoDuration>,
    /// How long a started instance may take to accept connections; 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_wait_ready_timeout: Option<GoDuration>,
    /// How long a member must be silent or unhealthy to count as failed; 20 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_interval: Option<GoDuration>,
    /// How long a keeper must be dead to be forgotten; 48 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_keeper_removal_interval: Option<GoDuration>,
    /// Longest time between two looks of a proxy; 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_check_interval: Option<GoDuration>,
    /// How old a proxy's last good check may be before it closes everything; 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_timeout: Option<GoDuration>,
    /// Most standbys of the cluster; 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_standbys: Option<u16>,
    /// Most standbys of one sender; 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_standbys_per_sender: Option<u16>,
    /// How many bytes an asynchronous standby may lag and still be elected; 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_standby_lag: Option<u32>,
    /// Whether commits wait for standbys; no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synchronous_replication: Option<bool>,
    /// Fewest synchronous standbys; with fewer, commits wait; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_synchronous_standbys: Option<u16>,
    /// Most synchronous standbys; 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_synchronous_standbys: Option<u16>,
    /// WAL senders beyond those the standbys need; 5.
    pub additional_wal_senders: Option<u16>,
    /// Replication slots of the primary for others, without the `stolon_` they get.
    pub additional_master_replication_slots: List<String>,
    /// Whether forks are undone with `pg_rewind`; no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_pgrewind: Option<bool>,
    /// How the cluster comes into being.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_mode: Option<ClusterInitMode>,
    /// Whether the parameters of the initialised instance are taken into the spec; yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_pg_parameters: Option<bool>,
    /// Master, or a standby of another cluster; master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<ClusterRole>,
    /// `initdb`'s options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_config: Option<NewConfig>,
    /// Point-in-time recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pitr_config: Option<PitrConfig>,
    /// Taking over existing data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_config: Option<ExistingConfig>,
    /// What a standby cluster follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_config: Option<StandbyConfig>,
    /// From where the superuser and the replication user may connect; all.
    #[serde(
        rename = "defaultSUReplAccessMode",
        skip_serializing_if = "Option::is_none"
    )]
    pub default_su_repl_access_mode: Option<AccessMode>,
    /// The user's parameters.
    #[serde(rename = "pgParameters", skip_serializing_if = "BTreeMap::is_empty")]
    pub pg_parameters: BTreeMap<String, String>,
    /// The user's access rules; null: everybody with a password.
    #[serde(rename = "pgHBA")]
    pub pg_hba: List<String>,
    /// Whether parameters that need a restart get one; no.
    pub automatic_pg_restart: Option<bool>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The specification with every default filled in: what decisions read.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each field is that of ClusterSpec")]
pub struct EffectiveSpec {
    pub sleep_interval: Duration,
    pub request_timeout: Duration,
    pub convergence_timeout: Duration,
    pub init_timeout: Duration,
    /// None: for ever.
    pub sync_timeout: Option<Duration>,
    pub db_wait_ready_timeout: Duration,
    pub fail_interval: Duration,
    pub dead_keeper_removal_interval: Duration,
    pub proxy_check_interval: Duration,
    pub proxy_timeout: Duration,
    pub max_standbys: u16,
    pub max_standbys_per_sender: u16,
    /// Bytes.
    pub max_standby_lag: u32,
    pub synchronous_replication: bool,
    pub min_synchronous_standbys: u16,
    pub max_synchronous_standbys: u16,
    pub additional_wal_senders: u16,
    pub additional_master_replication_slots: List<String>,
    pub use_pgrewind: bool,
    pub init_mode: ClusterInitMode,
    pub merge_pg_parameters: bool,
    pub role: ClusterRole,
    pub new_config: Option<NewConfig>,
    pub pitr_config: Option<PitrConfig>,
    pub existing_config: Option<ExistingConfig>,
    pub standby_config: Option<StandbyConfig>,
    pub default_su_repl_access_mode: AccessMode,
    pub pg_parameters: BTreeMap<String, String>,
    pub pg_hba: List<String>,
    pub automatic_pg_restart: bool,
}

impl EffectiveSpec {
    /// How many standbys there may be: all follow the primary.
    pub fn most_standbys(&self) -> u16 {
        self.max_standbys.min(self.max_standbys_per_sender)
    }
}

impl ClusterSpec {
    /// Fills in the defaults of the contract's section 3.
    pub fn effective(&self) -> EffectiveSpec {
        let time = |value: Option<GoDuration>, default_seconds: u64| {
            value.map_or(Duration::from_secs(default_seconds), GoDuration::to_std)
        };
        EffectiveSpec {
            sleep_interval: time(self.sleep_interval, 5),
            request_timeout: time(self.request_timeout, 10),
            convergence_timeout: time(self.convergence_timeout, 30),
            init_timeout: time(self.init_timeout, 5 * 60),
            sync_timeout: Some(time(self.sync_timeout, 0)).filter(|timeout| !timeout.is_zero()),
            db_wait_ready_timeout: time(self.db_wait_ready_timeout, 60),
            fail_interval: time(self.fail_interval, 20),
            dead_keeper_removal_interval: time(self.dead_keeper_removal_interval, 48 * 3600),
            proxy_check_interval: time(self.proxy_check_interval, 5),
            proxy_timeout: time(self.proxy_timeout, 15),
            max_standbys: self.max_standbys.unwrap_or(20),
            max_standbys_per_sender: self.max_standbys_per_sender.unwrap_or(3),
            max_standby_lag: self.max_standby_lag.unwrap_or(1024 * 1024),
            synchronous_replication: self.synchronous_replication.unwrap_or(false),
            min_synchronous_standbys: self.min_synchronous_standbys.unwrap_or(1),
            max_synchronous_standbys: self.max_synchronous_standbys.unwrap_or(1),
            additional_wal_senders: self.additional_wal_senders.unwrap_or(5),
            additional_master_replication_slots: self.additional_master_replication_slots.clone(),
            use_pgrewind: self.use_pgrewind.unwrap_or(false),
            init_mode: self.init_mode.clone().unwrap_or(ClusterInitMode::New),
            merge_pg_parameters: self.merge_pg_parameters.unwrap_or(true),
            role: self.role.clone().unwrap_or(ClusterRole::Primary),
            new_config: self.new_config.clone(),
            pitr_config: self.pitr_config.clone(),
            existing_config: self.existing_config.clone(),
            standby_config: self.standby_config.clone(),
            default_su_repl_access_mode: self
                .default_su_repl_access_mode
                .clone()
                .unwrap_or(AccessMode::All),
            pg_parameters: self.pg_parameters.clone(),
            pg_hba: self.pg_hba.clone(),
            automatic_pg_restart: self.automatic_pg_restart.unwrap_or(false),
        }
    }
}

string_enum! {
    /// How a cluster comes into being.
    ClusterInitMode {
        /// An empty instance on one of the keepers.
        New = "new",
        /// The data one keeper has.
        Existing = "existing",
        /// A backup restored by the operator's command.
        Pitr = "pitr",
    }
}

string_enum! {
    /// What a cluster is: its own master, or a standby of another cluster.
    ClusterRole {
        /// It has a primary of its own.
        Primary = "master",
        /// Its first instance follows a server outside.
        Standby = "standby",
    }
}

string_enum! {
    /// From where the superuser and the replication user may connect.
    AccessMode {
        /// From everywhere.
        All = "all",
        /// From the other members.
        Strict = "strict",
    }
}

/// `initdb`'s options.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewConfig {
    /// `--locale`; the environment's when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub locale: String,
    /// `--encoding`; the locale's when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub encoding: String,
    /// `--data-checksums`.
    #[serde(skip_serializing_if = "is_default")]
    pub data_checksums: bool,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A restore from a backup.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PitrConfig {
    /// The shell command that restores the data; `%d` is the data directory, `%%` a percent sign.
    #[serde(skip_serializing_if = "is_default")]
    pub data_restore_command: String,
    /// Where the WAL comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
    /// Where the recovery ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_target_settings: Option<RecoveryTargetSettings>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Where archived WAL comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveRecoverySettings {
    /// PostgreSQL's `restore_command`, already escaped for the configuration file.
    #[serde(skip_serializing_if = "is_default")]
    pub restore_command: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// PostgreSQL's recovery targets, already escaped for the configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(
    missing_docs,
    reason = "each field is PostgreSQL's parameter of that name"
)]
pub struct RecoveryTargetSettings {
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target: String,
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target_lsn: String,
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target_time: String,
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target_xid: String,
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_target_timeline: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Taking over the data one keeper has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExistingConfig {
    /// The keeper that has them.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_default")]
    pub keeper_uid: KeeperUid,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a standby cluster follows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StandbyConfig {
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_settings: Option<StandbySettings>,
    /// The archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The connection to an external server, already escaped for the configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StandbySettings {
    /// `primary_conninfo`.
    #[serde(rename = "primaryConninfo", skip_serializing_if = "is_default")]
    pub primary_conninfo: String,
    /// `primary_slot_name`.
    #[serde(skip_serializing_if = "is_default")]
    pub primary_slot_name: String,
    /// `recovery_min_apply_delay`.
    #[serde(skip_serializing_if = "is_default")]
    pub recovery_min_apply_delay: String,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
