//! Who may become the primary, and who of them does.

use super::{Draft, Lineage, is_source, lineage};
use crate::model::{Db, DbUid, Generation, KeeperUid, Lsn, TimelineId};
use crate::reason::Reason;

/// What the election says of one standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The standby.
    pub db: DbUid,
    /// Its keeper.
    pub keeper: KeeperUid,
    /// Its flush position at its last report.
    pub lsn: Lsn,
    /// Bytes behind the failed primary's last report.
    pub lag: u64,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Whether it is confirmed to have every commit acknowledged under synchronous replication.
    pub confirmed: bool,
    /// None: eligible.
    pub excluded: Option<Exclusion>,
}

/// The rule that excludes a standby from an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    /// Its keeper is not healthy.
    KeeperFailed,
    /// Its keeper was not heard lately.
    Silent,
    /// Its keeper runs with `--can-be-master=false`.
    NotAllowed,
    /// It is not healthy.
    Unhealthy,
    /// Its copy of the data was never finished (scenario A3).
    Unfinished,
    /// It has WAL that the failed primary's history does not (I3).
    Forked,
    /// Its history is too far from the failed primary's to compare (I3).
    Unrelated,
    /// It is not in the synchronous set, or not confirmed there (I2).
    NotSynchronous,
    /// It lags more than maxStandbyLag (I2a).
    Lagging,
    /// Its position is not known.
    PositionUnknown,
}

impl std::fmt::Display for Exclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KeeperFailed => "its keeper has failed",
            Self::Silent => "its keeper was not heard lately",
            Self::NotAllowed => "its keeper may not run a primary (--can-be-master=false)",
            Self::Unhealthy => "it is not healthy",
            Self::Unfinished => "its copy of the data is not finished",
            Self::Forked => "its history has left the primary's",
            Self::Unrelated => "its history is not known to be a part of the primary's",
            Self::NotSynchronous => {
                "it is not confirmed to have every synchronously acknowledged commit"
            }
            Self::Lagging => "it lags more than maxStandbyLag",
            Self::PositionUnknown => "its position is not known",
        })
    }
}

impl Verdict {
    /// As it is logged and kept in the history.
    pub fn to_reason(&self) -> Reason {
        let text = self.excluded.as_ref().map_or_else(
            || "candidate is eligible".to_owned(),
            |exclusion| format!("candidate is not eligible: {exclusion}"),
        );
        Reason::info("candidate", text)
            .with("db", &self.db)
            .with("keeper", &self.keeper)
            .with("lsn", self.lsn)
            .with("lag_bytes", self.lag)
            .with("timeline", self.timeline)
            .with(
                "synchronous",
                if self.confirmed { "confirmed" } else { "no" },
            )
    }
}

/// An election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// The most advanced eligible standby; among equals the one with the smallest uid (A2).
    pub winner: Option<DbUid>,
    /// One verdict for each standby, by uid.
    pub verdicts: Vec<Verdict>,
}

pub(super) fn elect(draft: &Draft<'_>) -> Election {
    let verdicts: Vec<Verdict> = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false))
        .map(|db| judge(draft, db))
        .collect();
    let mut winner: Option<&Verdict> = None;
    for verdict in verdicts.iter().filter(|verdict| verdict.excluded.is_none()) {
        let better =
            winner.is_none_or(|best| (verdict.lsn, verdict.timeline) > (best.lsn, best.timeline));
        if better {
            winner = Some(verdict);
        }
    }
    Election {
        winner: winner.map(|verdict| verdict.db.clone()),
        verdicts,
    }
}

fn judge(draft: &Draft<'_>, db: &Db) -> Verdict {
    let primary = draft.primary();
    let lag = primary.map_or(0, |primary| {
        primary.status.xlog_pos.bytes_ahead_of(db.status.xlog_pos)
    });
    let confirmed = primary.is_some_and(|primary| {
        primary.spec.synchronous_standbys.contains(&db.uid)
            && primary.status.synchronous_standbys.contains(&db.uid)
    });
    Verdict {
        db: db.uid.clone(),
        keeper: db.spec.keeper_uid.clone(),
        lsn: db.status.xlog_pos,
        lag,
        timeline: db.status.timeline_id,
        confirmed,
        excluded: exclusion(draft, db, lag, confirmed),
    }
}

fn exclusion(draft: &Draft<'_>, db: &Db, lag: u64, confirmed: bool) -> Option<Exclusion> {
    let primary = draft.primary();
    let keeper = &db.spec.keeper_uid;
    let may_be_primary = draft
        .next
        .keepers
        .get(keeper)
        .is_some_and(|keeper| keeper.status.may_be_primary());
    // The mode in force is the primary's; that the operator turned it off since is their word
    // (scenario B4).
    let synchronous = draft.spec.synchronous_replication
        && primary.is_none_or(|primary| primary.spec.synchronous_replication);
    let related = primary.map(|primary| lineage(primary, db));
    let rules = [
        (!draft.is_keeper_healthy(keeper), Exclusion::KeeperFailed),
        (!draft.is_fresh(keeper), Exclusion::Silent),
        (!may_be_primary, Exclusion::NotAllowed),
        (
            db.status.current_generation == Generation::NONE,
            Exclusion::Unfinished,
        ),
        (!db.status.healthy, Exclusion::Unhealthy),
        (related == Some(Lineage::Forked), Exclusion::Forked),
        (related == Some(Lineage::Unknown), Exclusion::Unrelated),
        (synchronous && !confirmed, Exclusion::NotSynchronous),
        (
            db.status.xlog_pos == Lsn::UNKNOWN,
            Exclusion::PositionUnknown,
        ),
        (
            !synchronous && lag > u64::from(draft.spec.max_standby_lag),
            Exclusion::Lagging,
        ),
    ];
    rules
        .into_iter()
        .find(|(applies, _)| *applies)
        .map(|(_, exclusion)| exclusion)
}
