//! Data that left the primary's history: whether `pg_rewind` may take them back into it, in place of
//! a copy (ADR 12).

use super::super::facts::{Content, Control};
use super::unusable::MOST_FAILED_STARTS;
use super::{Situation, Step, resync};
use crate::model::{Db, DbUid};
use crate::reason::Reason;

/// A rewind that fails before it has touched the data is tried so often; one that fails later leaves
/// none that could be rewound.
const MOST_TRIES: u32 = 3;
/// How the superuser authenticates where there is no password.
const TRUST: &str = "trust";

/// Whether to rewind.
pub(super) enum Verdict {
    /// Now.
    Now(Step, Reason),
    /// Not yet.
    Later(Reason),
    /// Not at all; the reason, where it was asked for.
    No(Option<Reason>),
}

/// Whether the data in place are to be rewound to `source`. `permitted` says that another good
/// instance holds every acknowledged commit: `pg_rewind` changes the data where they are, so it needs
/// what their removal needs (I7).
pub(super) fn consider(
    situation: &Situation<'_>,
    db: &Db,
    source: &Db,
    permitted: bool,
) -> Verdict {
    let disk = &situation.facts.disk;
    let is_making = disk.state.as_ref().is_none_or(|state| state.initializing);
    if !db.spec.use_pgrewind || disk.content != Content::Cluster || is_making {
        return Verdict::No(None);
    }
    if super::external::follows_outside(source) {
        let why = "its source is itself a standby, of a server outside";
        let reason = Reason::info("no-rewind", format!("not using pg_rewind: {why}"));
        return Verdict::No(Some(reason.with("db", &db.uid)));
    }
    if let Some(why) = obstacle(situation, &db.uid, source) {
        let text = format!("not using pg_rewind: {why}");
        return Verdict::No(Some(Reason::warn("no-rewind", text).with("db", &db.uid)));
    }
    if !permitted {
        let text = "waiting for the primary to have done what it was told, before the local data \
                    are rewound";
        return Verdict::Later(Reason::info("rewind-waits", text).with("source", &source.uid));
    }
    let Some(control) = &disk.control else {
        return Verdict::No(None);
    };
    if control.timeline == source.status.timeline_id {
        let why = "the local data are on the primary's timeline, where it sees no difference";
        let reason = Reason::warn("no-rewind", format!("not using pg_rewind: {why}"));
        return Verdict::No(Some(reason.with("db", &db.uid)));
    }
    let text = "the local data left the primary's history: rewinding them";
    let reason = Reason::info("rewinding", text).with("source", &source.uid);
    let reason = reason.with("timeline", control.timeline);
    let step = Step::Rewind {
        db: db.uid.clone(),
        source: resync::follow(db, source),
        recover_first: !is_clean(control, disk.standby_signal),
        restore_command: db.spec.pg_parameters.get("restore_command").cloned(),
    };
    Verdict::Now(step, reason)
}

/// Why the data cannot be rewound, whatever the primary says.
fn obstacle(situation: &Situation<'_>, db: &DbUid, source: &Db) -> Option<&'static str> {
    let facts = situation.facts;
    let Some(control) = &facts.disk.control else {
        return Some("the control data cannot be read");
    };
    let tries = facts.rewinds_failed.as_ref();
    if tries.is_some_and(|(tried, times)| tried == db && *times >= MOST_TRIES) {
        return Some("it failed before");
    }
    if situation.settings.superuser.1 == TRUST {
        return Some("it needs a superuser with a password");
    }
    if control.system_id != source.status.system_id {
        return Some("the local data belong to another database system");
    }
    if !control.logs_all_changes {
        return Some(
            "the local data have no checksums, and the instance did not run with wal_log_hints",
        );
    }
    if facts.starts_failed >= MOST_FAILED_STARTS {
        return Some("the instance did not start on the local data");
    }
    // What a standby received and did not replay is not known after a crash, and recovering it as
    // single user would add to it what its source never had.
    if !is_clean(control, facts.disk.standby_signal)
        && (facts.disk.standby_signal || control.in_archive_recovery)
    {
        return Some("the local data are those of a standby that did not stop cleanly");
    }
    None
}

/// Whether the end of the WAL is known. A primary that was stopped while it recovered from a crash
/// says that it was shut down in recovery too.
const fn is_clean(control: &Control, standby_signal: bool) -> bool {
    control.shut_down || (control.shut_down_in_recovery && standby_signal)
}
