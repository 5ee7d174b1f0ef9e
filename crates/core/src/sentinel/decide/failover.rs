//! Whether the primary has failed, and what follows when it has.

use super::elect::{Election, elect};
use super::{Convergence, Draft};
use crate::model::db::PLACEHOLDER_STANDBY;
use crate::model::{Db, DbUid, FollowConfig, InitMode, List};
use crate::reason::Reason;

/// Judges the primary, and replaces it when it has failed.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let Some(failure) = failure(draft) else {
        if is_released_anew(draft) {
            super::successor::keep(draft);
        }
        return;
    };
    let forced = failure.forced;
    draft.because(failure.reason);
    if draft.view.asked.is_paused() && !forced {
        let text = "the primary has failed and is not replaced: the cluster is paused (stolonctl \
                    failkeeper replaces it, stolonctl resume ends the pause)";
        draft.because(Reason::error("failover-paused", text));
        draft.must_write |= failure.released;
        return;
    }
    if draft.view.recent_failovers >= draft.view.most_failovers && !forced {
        let text = "too many failovers in the last 10 minutes: the primary is not replaced \
                    automatically until they are past (stolonctl failkeeper does it at once)";
        let reason = Reason::error("failover-limit", text);
        draft.because(reason.with("failovers", draft.view.recent_failovers));
        draft.must_write |= failure.released;
        return;
    }
    let Election { winner, verdicts } = elect(draft);
    draft
        .reasons
        .extend(verdicts.iter().map(super::elect::Verdict::to_reason));
    if let Some(best) = winner {
        let winner = super::successor::awaited(draft, &verdicts).unwrap_or(best);
        if super::successor::may_be_promoted(draft, &winner) {
            depose_and_install(draft, &winner);
        }
    } else {
        let text = "the primary has failed and no standby is eligible";
        draft.because(Reason::error("no-eligible-standby", text));
        // A keeper that released its primary may take it back once it reads this.
        draft.must_write |= failure.released;
    }
}

/// A failed primary.
struct Failure {
    reason: Reason,
    /// By an operator's word.
    forced: bool,
    /// Its keeper gave it up and waits for a newer document.
    released: bool,
}

fn failure(draft: &Draft<'_>) -> Option<Failure> {
    let found = |text: &str, db: Option<&Db>| {
        let mut reason = Reason::warn("primary-failed", text);
        if let Some(db) = db {
            reason = reason
                .with("db", &db.uid)
                .with("keeper", &db.spec.keeper_uid);
        }
        Some(Failure {
            reason,
            forced: false,
            released: false,
        })
    };
    let Some(primary) = draft.primary() else {
        return found("the primary is not among the dbs", None);
    };
    // Nothing is decided about a role of a later version.
    super::is_source(primary)?;
    let keeper = &primary.spec.keeper_uid;
    if draft.forced.contains(keeper) {
        let failure = found("the primary's keeper was declared failed", Some(primary));
        return failure.map(|failure| Failure {
            forced: true,
            ..failure
        });
    }
    if !draft.next.keepers.contains_key(keeper) {
        return found(
            "the primary's keeper is not among the keepers",
            Some(primary),
        );
    }
    if !draft.is_keeper_healthy(keeper) {
        return found("the primary's keeper is silent", Some(primary));
    }
    if has_released(draft, primary) {
        let failure = found(
            "the primary went down and its keeper released it",
            Some(primary),
        );
        return failure.map(|failure| Failure {
            released: true,
            ..failure
        });
    }
    if !primary.status.healthy {
        return found("the primary is not healthy", Some(primary));
    }
    if draft.convergence(primary) == Convergence::Failed {
        return found(
            "the primary did not do what it is to do in time",
            Some(primary),
        );
    }
    None
}

/// Whether the primary's processes are gone and its keeper will not start it as a primary before
/// it has read a document newer than this one. Only then, and only where no acknowledged commit can
/// be lost, is it replaced before failInterval.
fn has_released(draft: &Draft<'_>, primary: &Db) -> bool {
    draft.spec.synchronous_replication
        && primary.spec.synchronous_replication
        && draft
            .db_view(&primary.uid)
            .and_then(|view| {
                view.report
                    .as_ref()?
                    .instance
                    .as_ref()?
                    .released_at_revision
            })
            .is_some_and(|revision| revision >= draft.view.revision)
}

/// Whether the primary was released by a document that is older than the one that names its
/// successor, which its keeper has yet to read: it releases the primary again by that (scenario of
/// story 66).
fn is_released_anew(draft: &Draft<'_>) -> bool {
    let primary = draft.primary();
    let report = primary.and_then(|db| draft.db_view(&db.uid)?.report.as_ref());
    let released = report.and_then(|report| report.instance.as_ref()?.released_at_revision);
    draft.spec.synchronous_replication && released.is_some()
}

fn depose_and_install(draft: &mut Draft<'_>, winner: &DbUid) {
    let old = draft.primary().cloned();
    let is_synchronous = draft.spec.synchronous_replication && !draft.follows_outside();
    let standbys = is_synchronous.then(|| inherited(old.as_ref(), winner));
    let minimum = usize::from(draft.spec.min_synchronous_standbys);
    if let Some(old) = &old {
        // It keeps its role, without followers: Go keepers refuse to be made a standby under the
        // same uid, and ours stops it. It is deleted once the new primary serves.
        draft.edit_db(&old.uid, |spec| spec.followers = List(Some(Vec::new())));
    }
    let cluster = draft.spec.clone();
    draft.edit_db(winner, |spec| {
        super::role::crown(spec, &cluster);
        spec.init_mode = Some(InitMode::None);
        spec.synchronous_replication = standbys.is_some();
        if let Some(standbys) = &standbys {
            let placeholder = (standbys.len() < minimum).then(|| PLACEHOLDER_STANDBY.to_owned());
            spec.synchronous_standbys = standbys.iter().cloned().collect();
            spec.external_synchronous_standbys = placeholder.into_iter().collect();
        } else {
            spec.synchronous_standbys = List::NULL;
            spec.external_synchronous_standbys = List::NULL;
        }
    });
    if let Some(db) = draft.next.dbs.get_mut(winner) {
        db.status.synchronous_standbys = standbys.map_or(List::NULL, |s| List(Some(s)));
    }
    draft.cluster().status.master = Some(winner.clone());
    follow(draft, winner);
    let keeper = draft
        .next
        .dbs
        .get(winner)
        .map(|db| db.spec.keeper_uid.clone());
    let mut reason = Reason::info("elected", "electing a new primary").with("db", winner);
    reason = reason.with("keeper", keeper.unwrap_or_default());
    draft.because(reason.with("old_primary", old.map(|old| old.uid).unwrap_or_default()));
}

/// The other confirmed members of the old primary's synchronous set. They have every commit it
/// acknowledged, and the new primary acknowledges none without them: they stay eligible.
fn inherited(old: Option<&Db>, winner: &DbUid) -> Vec<DbUid> {
    old.map_or_else(Vec::new, |old| {
        let named = old.spec.synchronous_standbys.iter();
        let mut others: Vec<DbUid> = named
            .filter(|uid| *uid != winner && old.status.synchronous_standbys.contains(uid))
            .cloned()
            .collect();
        others.sort();
        others
    })
}

/// Points every standby at the new primary.
fn follow(draft: &mut Draft<'_>, primary: &DbUid) {
    for db in draft.next.dbs.values_mut() {
        if db.uid != *primary && super::is_source(db) == Some(false) {
            db.spec.follow_config = Some(FollowConfig::internal(primary.clone()));
        }
    }
}
