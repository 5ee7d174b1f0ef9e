//! The steps, and what they need to know.

use std::collections::BTreeMap;

use super::super::facts::DbState;
use crate::model::spec::NewConfig;
use crate::model::{DbUid, Lsn, TimelineId};

/// One step. Each may be repeated after a crash at any point of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write down what PGDATA holds.
    SaveState(DbState),
    /// Make a new cluster beside PGDATA.
    Initialize {
        /// The db it will hold.
        db: DbUid,
        /// `initdb`'s options.
        config: NewConfig,
    },
    /// Have the operator's command restore data beside PGDATA.
    Restore {
        /// The db they will be.
        db: DbUid,
        /// `dataRestoreCommand`.
        command: String,
        /// Whether they are to start as a standby; if not, to recover.
        standby: bool,
    },
    /// Copy the db that is to be followed, beside PGDATA.
    Copy {
        /// The db the copy will hold.
        db: DbUid,
        /// Where the source is reached.
        source: Follow,
        /// Whether the present PGDATA may go first when there is no room for both (I7): another
        /// good instance has all it has.
        may_discard: bool,
    },
    /// Take the data in PGDATA back into the history of the db that is to be followed, beside
    /// PGDATA, where they count as destroyed until that has succeeded (ADR 12).
    Rewind {
        /// The db they will hold.
        db: DbUid,
        /// Where the source is reached.
        source: Follow,
        /// Whether they must recover from a crash before.
        recover_first: bool,
        /// What fetches WAL that they lack, where there is an archive.
        restore_command: Option<String>,
    },
    /// Make data of the server outside that the first instance of a standby cluster follows, where that
    /// has left its history, or its data are gone: copied beside PGDATA, while the instance runs if it
    /// can, or, of an instance that was stopped, rewound there as by [`Step::Rewind`].
    FromOutside {
        /// The db they will hold.
        db: DbUid,
        /// `primary_conninfo`, as it stands in the spec.
        conninfo: String,
        /// The database system that the server must be of; empty: it is not known.
        system_id: String,
        /// Whether what is in place is rewound.
        rewind: bool,
    },
    /// Exchange PGDATA with the finished copy beside it.
    Swap {
        /// The db the copy holds.
        db: DbUid,
    },
    /// Remove what lies beside PGDATA.
    Discard,
    /// Note in PGDATA that it holds this db from now on.
    Claim {
        /// The db.
        db: DbUid,
    },
    /// Check the data in PGDATA, keep the configuration that they came with as the base of ours, and
    /// note that they are this db from now on. Nothing of them is removed.
    TakeOver {
        /// The db.
        db: DbUid,
        /// Whether they are to start as a standby; if not, as what they are.
        standby: bool,
    },
    /// Write the configuration; reload it where something changed and the instance runs.
    Configure(Box<Wanted>),
    /// Start the instance.
    Start {
        /// The db, for messages.
        db: DbUid,
    },
    /// Write a checkpoint, so that the stop that follows is short.
    Checkpoint,
    /// Stop the instance.
    Stop {
        /// Why.
        why: String,
        /// How long it may take to stop cleanly.
        patience: Patience,
    },
    /// End what is left of the instance's processes.
    KillAll,
    /// Make the roles of a new instance.
    SetUpRoles,
    /// Drop, make and move replication slots, in this order.
    Slots {
        /// To be dropped.
        drop: Vec<String>,
        /// To be made; also of those dropped.
        create: Vec<String>,
        /// To keep no WAL from before these positions any more.
        advance: Vec<(String, Lsn)>,
    },
    /// Write a little WAL, so that the standbys report.
    Stir,
    /// Promote the instance. The followers' slots are made first, as far as that succeeds: so they
    /// find them when they come, and commits that wait for one of them wait less.
    Promote {
        /// The slots to be made.
        slots: Vec<String>,
        /// Timelines that it must not begin.
        taken: Vec<TimelineId>,
    },
    /// Give the primary up until a document newer than this revision says otherwise.
    Release {
        /// The store revision.
        revision: u64,
    },
}

/// How long an instance may take to stop cleanly before it is ended by force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as a large checkpoint may take: its data are to be used again as they are.
    Long,
    /// Seconds: another instance has its place, and nothing may wait for this one.
    Short,
}

impl Step {
    /// The db that it makes from another, and that other: such a step may take hours.
    pub(crate) const fn makes_from(&self) -> Option<(&DbUid, &Follow)> {
        let (Self::Copy { db, source, .. } | Self::Rewind { db, source, .. }) = self else {
            return None;
        };
        Some((db, source))
    }

    /// Whether it asks the running instance over the keeper's own session.
    pub(in super::super) const fn uses_the_session(&self) -> bool {
        matches!(
            self,
            Self::Configure(_)
                | Self::SetUpRoles
                | Self::Slots { .. }
                | Self::Stir
                | Self::Promote { .. }
        )
    }

    /// What is logged when it fails.
    pub const fn failure_text(&self) -> &'static str {
        match self {
            Self::SaveState(_) => "failed to save the db state",
            Self::Initialize { .. } => "failed to initialize postgres database cluster",
            Self::Restore { .. } => "failed to restore the data",
            Self::Copy { .. } => "failed to copy the followed instance",
            Self::Rewind { .. } | Self::FromOutside { rewind: true, .. } => {
                "failed to rewind the data"
            }
            Self::FromOutside { rewind: false, .. } => "failed to copy the server outside",
            Self::Swap { .. } => "failed to put the new copy in place",
            Self::Discard => "failed to remove the old copy",
            Self::Claim { .. } => "failed to mark the data",
            Self::TakeOver { .. } => "failed to take over the data",
            Self::Configure(_) => "failed to write the configuration",
            Self::Start { .. } => "failed to start postgres",
            Self::Checkpoint => "failed to write a checkpoint",
            Self::Stop { .. } => "failed to stop postgres",
            Self::KillAll => "failed to end what is left of postgres",
            Self::SetUpRoles => "failed to set up the roles",
            Self::Slots { .. } => "failed to set up the replication slots",
            Self::Stir => "failed to write to the WAL",
            Self::Promote { .. } => "failed to promote postgres",
            Self::Release { .. } => "failed to release the primary",
        }
    }
}

/// What the configuration files are to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// Whether the configuration the data came with stays in force below.
    pub include_base: bool,
    /// The lines of `pg_hba.conf`.
    pub access_rules: Vec<String>,
    /// What it is to follow; none: it is not told to follow anybody.
    pub follow: Option<Follow>,
    /// Recovery parameters as they stand in the spec: escaped for the file already.
    pub recovery: BTreeMap<String, String>,
    /// Whether WAL is fetched by what the data came with for that.
    pub own_archive: bool,
    /// What it is to start as.
    pub start: Start,
}

/// What an instance starts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// Writable.
    #[default]
    Primary,
    /// A standby until it is promoted.
    Standby,
    /// It recovers, and promotes itself where that ends.
    Recovery,
}

/// A server to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The follower's name and slot.
    pub name: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: String,
}
