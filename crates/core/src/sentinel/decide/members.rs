//! Keepers and dbs as they were seen: their status, who joined, who is forgotten.

use super::{Draft, fail_after, fresh_within};
use crate::model::{Db, DbUid, Generation, Keeper, KeeperInfo, KeeperUid, List, PostgresState};
use crate::reason::Reason;
use std::time::Duration;

/// Takes what was seen into the status of every keeper and db.
pub(super) fn update(draft: &mut Draft<'_>) {
    admit_new_keepers(draft);
    let uids: Vec<KeeperUid> = draft.next.keepers.keys().cloned().collect();
    for uid in &uids {
        update_keeper(draft, uid);
    }
    let uids: Vec<DbUid> = draft.next.dbs.keys().cloned().collect();
    for uid in &uids {
        update_db(draft, uid);
    }
}

fn admit_new_keepers(draft: &mut Draft<'_>) {
    for (uid, view) in &draft.view.keepers {
        // A removed keeper joins again when it speaks again, not by what it said before.
        let fresh = view.info.is_some() && view.silent_for <= fresh_within(&draft.spec);
        if draft.next.keepers.contains_key(uid) || !fresh || uid.is_empty() {
            continue;
        }
        let mut keeper = Keeper {
            uid: uid.clone(),
            generation: Generation::FIRST,
            ..Keeper::default()
        };
        keeper.status.healthy = true;
        keeper.status.last_healthy_time = draft.view.wall;
        draft.next.keepers.insert(uid.clone(), keeper);
        draft.because(Reason::info("keeper-joined", "a new keeper joined").with("keeper", uid));
    }
}

fn update_keeper(draft: &mut Draft<'_>, uid: &KeeperUid) {
    let view = draft.view.keepers.get(uid);
    let silent_for = view.map(|view| view.silent_for).unwrap_or_default();
    let alive = silent_for < fail_after(&draft.spec);
    let refresh_after = last_healthy_refresh(draft);
    let wall = draft.view.wall;
    let Some(keeper) = draft.next.keepers.get_mut(uid) else {
        return;
    };
    if let Some(info) = view.and_then(|view| view.info.as_ref()) {
        copy_facts(keeper, info);
    }
    let status_before = keeper.status.healthy;
    let forced = std::mem::take(&mut keeper.status.force_fail);
    keeper.status.healthy = alive && !forced;
    let stamp = &mut keeper.status.last_healthy_time;
    if stamp.is_zero() || (keeper.status.healthy && wall.since(*stamp) >= refresh_after) {
        *stamp = wall;
    }
    if forced {
        draft.forced.insert(uid.clone());
        let text = "an operator declared a keeper failed";
        draft.because(Reason::warn("keeper-forced", text).with("keeper", uid));
    } else if !alive {
        let text = "a keeper is silent for longer than failInterval";
        let reason = Reason::warn("keeper-silent", text).with("keeper", uid);
        draft.because(reason.with("silent_for", format!("{:.1}s", silent_for.as_secs_f64())));
    } else if !status_before {
        draft.because(Reason::info("keeper-back", "a keeper is back").with("keeper", uid));
    }
}

fn copy_facts(keeper: &mut Keeper, info: &KeeperInfo) {
    let status = &mut keeper.status;
    status.boot_uuid = info.boot_uuid.clone();
    status.postgres_binary_version = info.postgres_binary_version;
    status.can_be_master = info.can_be_master;
    status.can_be_synchronous_replica = info.can_be_synchronous_replica;
}

/// How often a healthy keeper's stamp is renewed: a Go sentinel that takes over judges by it.
fn last_healthy_refresh(draft: &Draft<'_>) -> Duration {
    Duration::from_mins(10).min(draft.spec.dead_keeper_removal_interval / 10)
}

fn update_db(draft: &mut Draft<'_>, uid: &DbUid) {
    let view = draft.view.dbs.get(uid);
    let fail_after = fail_after(&draft.spec);
    let keeper_healthy = draft
        .next
        .dbs
        .get(uid)
        .is_some_and(|db| draft.is_keeper_healthy(&db.spec.keeper_uid));
    let Some(db) = draft.next.dbs.get_mut(uid) else {
        return;
    };
    let before = db.status.healthy;
    if let Some(report) = view.and_then(|view| view.report.as_ref()) {
        take_report(db, report);
    }
    let lately = view
        .and_then(|view| view.unhealthy_for)
        .is_some_and(|age| age < fail_after);
    db.status.healthy = lately && keeper_healthy;
    if before && !db.status.healthy {
        let why = view
            .and_then(|view| view.report.as_ref()?.instance.as_ref())
            .map(|instance| instance.reason.clone())
            .filter(|reason| !reason.is_empty());
        let keeper = db.spec.keeper_uid.clone();
        let mut reason = Reason::warn("db-failed", "a db is not healthy any more");
        reason = reason.with("db", uid).with("keeper", keeper);
        if let Some(why) = why {
            reason = reason.with("reported", why);
        }
        draft.because(reason);
    }
}

/// Takes a report in. What an unhealthy instance says of its positions counts for nothing: they
/// stay those of its last healthy report (I3).
fn take_report(db: &mut Db, report: &PostgresState) {
    let status = &mut db.status;
    status.listen_address.clone_from(&report.listen_address);
    status.port.clone_from(&report.port);
    status.current_generation = report.generation;
    if report.healthy {
        status.system_id.clone_from(&report.system_id);
        status.timeline_id = report.timeline_id;
        status.xlog_pos = report.xlog_pos;
        status
            .timelines_history
            .clone_from(&report.timelines_history);
        status.pg_parameters.clone_from(&report.pg_parameters);
        status.older_wal_file.clone_from(&report.older_wal_file);
        status.oldest_wal = report.oldest_wal();
    }
    confirm_synchronous(db, report);
}

/// A standby is confirmed by a report of being in sync while it is in the list, and stays so until
/// it leaves the list. Only a report of the generation that named it counts (scenarios A5, A14).
fn confirm_synchronous(db: &mut Db, report: &PostgresState) {
    if !db.spec.synchronous_replication {
        if !db.status.synchronous_standbys.is_empty() {
            db.status.synchronous_standbys = List::NULL;
        }
        return;
    }
    let current = report.healthy && report.generation == db.generation;
    let confirmed: List<DbUid> = db
        .spec
        .synchronous_standbys
        .iter()
        .filter(|uid| {
            db.status.synchronous_standbys.contains(uid)
                || (current && report.synchronous_standbys.contains(uid))
        })
        .cloned()
        .collect();
    if !confirmed.same_set(&db.status.synchronous_standbys) {
        db.status.synchronous_standbys = confirmed;
    }
}

/// Forgets keepers that were dead for deadKeeperRemovalInterval, with their dbs. The primary and
/// the synchronous standbys are never forgotten, nor any copy while the primary does not serve: they
/// may hold what nobody else has.
pub(super) fn forget_dead_keepers(draft: &mut Draft<'_>) {
    let limit = draft.spec.dead_keeper_removal_interval;
    let wall = draft.view.wall;
    let serves = draft.is_primary_good();
    let mut needed = draft.synchronous_members();
    needed.extend(draft.primary_uid());
    let dead: Vec<(KeeperUid, Option<DbUid>)> = draft
        .next
        .keepers
        .values()
        .filter(|keeper| !keeper.status.healthy && !draft.forced.contains(&keeper.uid))
        .filter(|keeper| wall.since(keeper.status.last_healthy_time) > limit)
        .map(|keeper| {
            (
                keeper.uid.clone(),
                draft.next.db_of(&keeper.uid).map(|db| db.uid.clone()),
            )
        })
        .filter(|(_, db)| db.as_ref().is_none_or(|db| serves && !needed.contains(db)))
        .collect();
    for (keeper, db) in dead {
        draft.next.keepers.remove(&keeper);
        if let Some(db) = db {
            super::standbys::delete(draft, &db);
        }
        let text = "a keeper was dead for longer than deadKeeperRemovalInterval and is forgotten";
        draft.because(Reason::warn("keeper-forgotten", text).with("keeper", keeper));
    }
}
