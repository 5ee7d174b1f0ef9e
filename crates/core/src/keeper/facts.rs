//! What a keeper knows of its data and its instance.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decide::Wanted;
use crate::model::request::Request;
use crate::model::{DbUid, Generation, KeeperInfo, Lsn, TimelineId, TimelineSwitch};
use crate::time::{Instant, Timestamp};

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The data at rest.
    pub disk: Disk,
    /// The processes.
    pub process: Process,
    /// What the instance says.
    pub health: Health,
    /// The last moment at which the instance may have been writable (I8).
    pub writable_until: Instant,
    /// Starts in a row that led nowhere.
    pub starts_failed: u32,
    /// How often data were made anew, in this life of the keeper, since an instance last answered.
    pub made_anew: u32,
    /// The db whose data were last to be rewound, and how often that failed in this life of the keeper.
    pub rewinds_failed: Option<(DbUid, u32)>,
    /// The store revision after which alone this keeper starts its primary again.
    pub released_at: Option<u64>,
    /// What a standby's parameters must not be below, as its control data had it when it last was at
    /// rest.
    pub least_parameters: BTreeMap<String, u64>,
    /// The configuration last written for the running instance.
    pub applied: Option<Wanted>,
    /// Whether the roles of a new instance were set up in this life of the keeper.
    pub roles_set_up: bool,
    /// Whether `health` was seen after the last step that changed the running instance.
    pub is_health_fresh: bool,
    /// Of the keeper's users those whose stored password is one that only md5 takes; none: nobody has
    /// looked yet.
    pub md5_verifiers: Option<Vec<String>>,
    /// Why the last step or start failed.
    pub error: Option<String>,
    /// What operators ask for, as last read; none: not read yet.
    pub asked: Option<Asked>,
    /// Parameters have waited for a restart for long enough that every keeper knows of its own.
    pub may_restart: bool,
    /// The postmaster that wrote a checkpoint to be restarted soon.
    pub checkpoint_of: Option<String>,
    /// Of the first instance of a standby cluster: its history has parted from its source's, and every
    /// answer of that has said so for long enough to be sure.
    pub has_parted: bool,
    /// Of the same: the server outside, as `primary_conninfo`, that what lies beside its data was copied
    /// from in this life of the keeper. What gave its place up to a copy bears the name of the same db, and
    /// must not take that place again.
    pub copied_from: Option<String>,
    /// There have been no data for so long that another member would have taken its place, if one could.
    pub are_gone_for_long: bool,
}

/// What lies in the store beside the document, for this keeper to act by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asked {
    /// The wall clock at that time, to tell which requests have run out.
    pub wall: Timestamp,
    /// Operators' requests.
    pub requests: Vec<Request>,
    /// What the other keepers publish; none: it was not asked for.
    pub peers: Option<Vec<KeeperInfo>>,
}

/// The data at rest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disk {
    /// `dbstate`.
    pub state: Option<DbState>,
    /// What is in PGDATA.
    pub content: Content,
    /// The db PGDATA says it holds.
    pub identity: Option<DbUid>,
    /// The db the finished copy beside PGDATA says it holds; empty: something is there that is not
    /// a finished copy.
    pub beside: Option<DbUid>,
    /// What `pg_controldata` says of PGDATA, read while nothing runs there.
    pub control: Option<Control>,
    /// Whether PGDATA is set to start as a standby.
    pub standby_signal: bool,
    /// Whether PGDATA is set to recover, and to end that by a promotion.
    pub recovery_signal: bool,
    /// Whether PGDATA holds data of another cluster than the one the keeper belongs to now: those of
    /// this one may be older or other ones, of the same database system.
    pub of_other_cluster: bool,
    /// Whether the access rules in force at the keeper's start let users in.
    pub gate_was_open: bool,
    /// What keeps the file system that the data lie on from taking more, in words; empty: nothing.
    pub trouble: String,
}

/// What is in a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// Nothing.
    #[default]
    Nothing,
    /// A whole database cluster.
    Cluster,
    /// Something else.
    Broken,
}

/// `dbstate`: what PGDATA holds, as last written down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DbState {
    /// The db.
    pub uid: DbUid,
    /// The generation it has converged to.
    pub generation: Generation,
    /// Whether its making has begun and not ended.
    pub initializing: bool,
    /// The parameters of a new instance, to be taken into the spec.
    pub init_parameters: BTreeMap<String, String>,
}

/// `pg_controldata`'s answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The system identifier.
    pub system_id: String,
    /// Whether the instance ended cleanly as a primary.
    pub shut_down: bool,
    /// Whether it ended cleanly in recovery.
    pub shut_down_in_recovery: bool,
    /// Whether it was killed while it recovered as a standby or from an archive.
    pub in_archive_recovery: bool,
    /// Whether its WAL tells of every page that changed, as `pg_rewind` needs it: there are checksums,
    /// or it ran with `wal_log_hints`.
    pub logs_all_changes: bool,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
    /// How far recovery has come.
    pub min_recovery: Lsn,
    /// The switches that led to the timeline.
    pub history: Vec<TimelineSwitch>,
    /// The primary's parameters that a standby of it must not be below.
    pub least_parameters: BTreeMap<String, u64>,
}

/// The instance's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// None is left.
    None,
    /// The postmaster is gone; children of it may not be.
    Leftovers,
    /// This keeper started it.
    Started,
    /// It ran when this keeper started.
    Adopted,
}

impl Process {
    /// Whether there is a postmaster.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Started | Self::Adopted)
    }
}

/// What the instance says when it is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    /// It was not asked yet.
    Unknown,
    /// It answers.
    Running(Box<Observation>),
    /// It has no connection left for us; what it said last still counts.
    Saturated(Box<Observation>),
    /// It does not accept connections yet, or any more.
    Starting(String),
    /// It does not answer.
    Silent(String),
}

impl Health {
    /// Which postmaster runs, as far as it answers.
    pub fn postmaster(&self) -> Option<&str> {
        match self {
            Self::Running(observation) | Self::Saturated(observation) => {
                Some(&observation.postmaster)
            }
            Self::Unknown | Self::Starting(_) | Self::Silent(_) => None,
        }
    }
}

/// What a running instance says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// What it has flushed.
    pub flush_lsn: Lsn,
    /// What it has replayed.
    pub replay_lsn: Lsn,
    /// Of data that recover: until when the transactions are that it has replayed, in words.
    pub replayed_until: String,
    /// The system identifier.
    pub system_id: String,
    /// The last switches that led to its timeline.
    pub history: Vec<TimelineSwitch>,
    /// `synchronous_standby_names` in force.
    pub synchronous_standby_names: String,
    /// Of a standby: host and port its WAL receiver streams from.
    pub streams_from: Option<(String, String)>,
    /// Of a standby: how long ago it last heard from the server it follows; none: not since it was
    /// started, or since this keeper was.
    pub silent_for: Option<Duration>,
    /// Of a standby: why it does not stream, in PostgreSQL's words; empty: it has not said.
    pub stream_error: String,
    /// Of the first instance of a standby cluster that does not stream: what the server says that it is to
    /// follow; none: it was not asked, or did not answer.
    pub source: Option<Outside>,
    /// Of a standby: how old the last transaction is that it has replayed; none: there was none.
    pub replay_age: Option<Duration>,
    /// Which of the places for connections are all taken, in words; empty: none.
    pub taken: String,
    /// Bytes free where its WAL is.
    pub free_space: Option<u64>,
    /// Of a primary: who streams from it.
    pub peers: Vec<Peer>,
    /// Its physical slots, without temporary ones.
    pub slots: Vec<Slot>,
    /// The size of a file of its WAL, in bytes.
    pub wal_segment: u64,
    /// Which postmaster runs: another one after each start.
    pub postmaster: String,
    /// Parameters that wait for a restart.
    pub pending_restart: Vec<String>,
    /// The users' parameters that PostgreSQL does not take, each with its reason.
    pub refused_parameters: BTreeMap<String, String>,
    /// The oldest file of its WAL, where files have the size that the Go program counts on.
    pub oldest_wal_file: String,
    /// Where that begins.
    pub oldest_wal: Lsn,
    /// Of the keeper's users those whose stored password is one that only md5 takes.
    pub md5_verifiers: Vec<String>,
    /// The parameters in its configuration files, without those the keeper manages.
    pub parameters: BTreeMap<String, String>,
}

/// What a server outside the cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outside {
    /// How far the instance here had replayed before it was asked.
    pub replayed_before: Lsn,
    /// Its system identifier.
    pub system_id: String,
    /// Whether it is known to be writable: a server in recovery may merely be behind.
    pub is_writable: bool,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// What it has flushed.
    pub flush_lsn: Lsn,
    /// All switches that led to its timeline.
    pub history: Vec<TimelineSwitch>,
}

/// A physical replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody streams through it.
    pub active: bool,
    /// From where on it keeps WAL; unknown: it keeps none.
    pub restart_lsn: Lsn,
    /// `wal_status`: reserved, extended, unreserved, lost; empty before PostgreSQL 13.
    pub wal_status: String,
}

impl Slot {
    /// Whether it kept more than `max_slot_wal_keep_size` allows, and is of no use any more.
    pub fn is_lost(&self) -> bool {
        self.wal_status == "lost"
    }
}

/// Somebody who streams from a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `application_name`.
    pub name: String,
    /// `state`.
    pub state: String,
    /// `flush_lsn`.
    pub flush_lsn: Lsn,
    /// `replay_lsn`.
    pub replay_lsn: Lsn,
    /// `sync_state`.
    pub sync_state: String,
}
