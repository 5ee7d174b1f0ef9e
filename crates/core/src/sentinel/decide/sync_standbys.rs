//! The set of standbys that every commit waits for, changed so that no acknowledged commit is ever
//! only on the primary (I2; scenarios A1, A4, A5, A14, B1).
//!
//! All members of the list must flush a commit before it is acknowledged. So whoever is confirmed to
//! have had everything at some moment at which it was in the list, and has been in it since, has
//! everything now. The list changes in two steps: first the union of the old and the new, then, when
//! the new ones are confirmed, the new alone. Thus there is always a confirmed member that survives
//! the change.

use super::{Draft, is_forked, is_source};
use crate::model::db::PLACEHOLDER_STANDBY;
use crate::model::{Db, DbUid, List};
use crate::reason::Reason;
use std::collections::BTreeSet;

type Set = BTreeSet<DbUid>;

/// Takes the next step towards the wanted synchronous set.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let Some(primary) = draft.primary().cloned() else {
        return;
    };
    if is_source(&primary) != Some(true) {
        return;
    }
    if !draft.spec.synchronous_replication || draft.follows_outside() {
        // While no primary serves, its list is the proof of who has every commit.
        if draft.is_primary_good() {
            turn_off(draft, &primary);
        }
        return;
    }
    // The list of a primary that does not serve, or has not worked in the last list, stays.
    if !draft.is_primary_good() {
        return;
    }
    let listed: Set = primary.spec.synchronous_standbys.iter().cloned().collect();
    let confirmed: Set = primary
        .status
        .synchronous_standbys
        .iter()
        .cloned()
        .collect();
    let next = next_list(&Situation {
        confirmed: confirmed.intersection(&listed).cloned().collect(),
        good: good(draft, &primary),
        lost: lost(draft, &primary, &listed),
        listed: listed.clone(),
        minimum: usize::from(draft.spec.min_synchronous_standbys),
        maximum: usize::from(draft.spec.max_synchronous_standbys),
    });
    write(draft, &primary, &listed, &confirmed, &next);
}

/// What a step of the synchronous set depends on.
struct Situation {
    /// The list in force.
    listed: Set,
    /// Its members that are confirmed.
    confirmed: Set,
    /// Standbys that stream now, the best first.
    good: Vec<DbUid>,
    /// Members that can never catch up as they are.
    lost: Set,
    minimum: usize,
    maximum: usize,
}

fn next_list(situation: &Situation) -> Set {
    let Situation {
        listed,
        confirmed,
        good,
        lost,
        minimum,
        maximum,
    } = situation;
    let wanted: Set = good.iter().take(*maximum).cloned().collect();
    let listed: Set = listed.difference(lost).cloned().collect();
    if !wanted.is_subset(&listed) {
        return listed.union(&wanted).cloned().collect();
    }
    let unconfirmed = wanted.iter().any(|uid| !confirmed.contains(uid));
    if unconfirmed {
        return listed;
    }
    let mut next = wanted;
    // With too few good ones the others stay: they may come back, and until then commits wait.
    let others = confirmed.intersection(&listed).chain(&listed);
    for uid in others {
        if next.len() >= *minimum {
            break;
        }
        next.insert(uid.clone());
    }
    next
}

/// The standbys that may be in the set, best first: those that are in it and confirmed, then in it,
/// then the others; among equals the most advanced, then by uid.
fn good(draft: &Draft<'_>, primary: &Db) -> Vec<DbUid> {
    let mut found: Vec<_> = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false) && is_synchronous_material(draft, primary, db))
        .map(|db| {
            let listed = primary.spec.synchronous_standbys.contains(&db.uid);
            let confirmed = listed && primary.status.synchronous_standbys.contains(&db.uid);
            // Positions order newcomers only: members must not change places as they move.
            let position = if listed {
                u64::MAX
            } else {
                db.status.xlog_pos.0
            };
            (
                !confirmed,
                !listed,
                u64::MAX.saturating_sub(position),
                db.uid.clone(),
            )
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, _, _, uid)| uid).collect()
}

fn is_synchronous_material(draft: &Draft<'_>, primary: &Db, db: &Db) -> bool {
    let keeper = &db.spec.keeper_uid;
    let allowed = draft
        .next
        .keepers
        .get(keeper)
        .is_some_and(|keeper| keeper.status.may_be_synchronous());
    allowed
        && !draft.view.asked.resync.contains_key(&db.uid)
        && db.status.healthy
        && db.status.current_generation != crate::model::Generation::NONE
        && db
            .spec
            .follow_config
            .as_ref()
            .is_some_and(|follow| follow.db_uid == primary.uid)
        && !is_forked(primary, db)
        && is_streaming(draft, primary, db)
}

/// Whether the primary sees it stream. A Go keeper does not say; its health must do there.
fn is_streaming(draft: &Draft<'_>, primary: &Db, db: &Db) -> bool {
    let instance = |uid: &DbUid| {
        draft
            .db_view(uid)
            .and_then(|view| view.report.as_ref()?.instance.as_ref())
    };
    if let Some(report) = instance(&primary.uid) {
        return report
            .peers
            .iter()
            .any(|peer| peer.db_uid == db.uid && peer.state == "streaming");
    }
    instance(&db.uid)
        .and_then(|report| report.streaming)
        .unwrap_or(true)
}

/// Members whose db or keeper is gone, or that have left the primary's history.
fn lost(draft: &Draft<'_>, primary: &Db, listed: &Set) -> Set {
    let is_lost = |uid: &&DbUid| {
        draft.next.dbs.get(*uid).is_none_or(|db| {
            !draft.next.keepers.contains_key(&db.spec.keeper_uid)
                || is_forked(primary, db)
                || draft.view.is_stranded(&db.uid, &draft.spec)
        })
    };
    listed.iter().filter(is_lost).cloned().collect()
}

fn turn_off(draft: &mut Draft<'_>, primary: &Db) {
    let spec = &primary.spec;
    let on = spec.synchronous_replication
        || !spec.synchronous_standbys.is_empty()
        || !spec.external_synchronous_standbys.is_empty();
    if !on {
        return;
    }
    draft.edit_db(&primary.uid, |spec| {
        spec.synchronous_replication = false;
        spec.synchronous_standbys = List::NULL;
        spec.external_synchronous_standbys = List::NULL;
    });
    if let Some(db) = draft.next.dbs.get_mut(&primary.uid) {
        db.status.synchronous_standbys = List::NULL;
    }
    let text = "synchronous replication is turned off";
    draft.because(Reason::info("synchronous-off", text).with("db", &primary.uid));
}

fn write(draft: &mut Draft<'_>, primary: &Db, listed: &Set, confirmed: &Set, next: &Set) {
    let placeholder = next.len() < usize::from(draft.spec.min_synchronous_standbys);
    let external: Vec<String> = if placeholder {
        vec![PLACEHOLDER_STANDBY.to_owned()]
    } else {
        Vec::new()
    };
    let external = List(Some(external));
    draft.edit_db(&primary.uid, |spec| {
        spec.synchronous_replication = true;
        if *listed != *next {
            spec.synchronous_standbys = next.iter().cloned().collect();
        }
        if !spec.external_synchronous_standbys.same_set(&external) {
            spec.external_synchronous_standbys = external;
        }
    });
    if let Some(db) = draft.next.dbs.get_mut(&primary.uid) {
        let kept: List<DbUid> = confirmed.intersection(next).cloned().collect();
        if !kept.same_set(&db.status.synchronous_standbys) {
            db.status.synchronous_standbys = kept;
        }
    }
    if *listed != *next {
        let names = |set: &Set| {
            let names: Vec<&str> = set.iter().map(DbUid::as_str).collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(" ")
            }
        };
        let reason = Reason::info("synchronous-set", "the synchronous set changes");
        draft.because(reason.with("from", names(listed)).with("to", names(next)));
    }
    if placeholder {
        let text = if draft.spec.min_synchronous_standbys > draft.spec.most_standbys() {
            "commits wait: minSynchronousStandbys is more than maxStandbys and \
             maxStandbysPerSender allow"
        } else {
            "commits wait: fewer synchronous standbys than minSynchronousStandbys"
        };
        let reason = Reason::warn("synchronous-too-few", text);
        draft.because(reason.with("db", &primary.uid).with("members", next.len()));
    }
}
