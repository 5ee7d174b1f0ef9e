//! Which standbys there are, and that they follow the primary.

use super::{Convergence, Draft, fail_after, is_forked, is_source, may_drop_what_is_more};
use crate::model::{Db, DbSpec, DbUid, FollowConfig, Generation, InitMode, KeeperUid, List, Role};
use crate::reason::Reason;

/// Deletes dbs that are of no use any more, adds standbys where there are free keepers, and has all
/// of them follow the primary.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let Some(primary) = draft
        .primary_uid()
        .filter(|uid| draft.next.dbs.contains_key(uid))
    else {
        return;
    };
    // While the primary does not serve nothing is deleted and nothing new begins: what is there
    // may still be needed.
    if draft.is_primary_good() {
        if !draft.view.asked.is_paused() {
            delete_orphans(draft);
            delete_old_primaries(draft, &primary);
            delete_unusable(draft, &primary);
            delete_what_is_to_be_copied(draft);
            settle_finished(draft, &primary);
            limit(draft);
            add_missing(draft, &primary);
        }
        let settled = |spec: &mut DbSpec| {
            spec.follow_config = Some(FollowConfig::internal(primary.clone()));
            clear_primary_duties(spec);
        };
        for db in draft.next.dbs.values_mut() {
            if db.uid != primary && is_source(db) == Some(false) {
                settled(&mut db.spec);
            }
        }
    }
    name_followers(draft, &primary);
}

/// Deletes a db, and its name wherever it is a follower.
pub(super) fn delete(draft: &mut Draft<'_>, uid: &DbUid) {
    draft.next.dbs.remove(uid);
    for db in draft.next.dbs.values_mut() {
        if db.spec.followers.contains(uid) {
            db.spec.followers = db
                .spec
                .followers
                .iter()
                .filter(|f| *f != uid)
                .cloned()
                .collect();
        }
    }
}

/// Dbs whose keeper was removed.
fn delete_orphans(draft: &mut Draft<'_>) {
    let needed = draft.synchronous_members();
    let orphans: Vec<DbUid> = draft
        .next
        .dbs
        .values()
        .filter(|db| !draft.next.keepers.contains_key(&db.spec.keeper_uid))
        .filter(|db| !needed.contains(&db.uid))
        .map(|db| db.uid.clone())
        .collect();
    for uid in orphans {
        delete(draft, &uid);
        let text = "deleting a db whose keeper is gone";
        draft.because(Reason::info("db-deleted", text).with("db", uid));
    }
}

/// Deposed primaries: their keepers get a new db, to be filled from the new primary.
fn delete_old_primaries(draft: &mut Draft<'_>, primary: &DbUid) {
    let old: Vec<DbUid> = draft
        .next
        .dbs
        .values()
        .filter(|db| db.uid != *primary && is_source(db) == Some(true))
        .map(|db| db.uid.clone())
        .collect();
    for uid in old {
        delete(draft, &uid);
        let text = "deleting the old primary's db: its keeper is to follow the new primary";
        draft.because(Reason::info("old-primary-deleted", text).with("db", uid));
    }
}

/// Standbys that cannot come back as they are. A member of the synchronous set is never deleted; it
/// has left the set, in an earlier document, before it comes here.
fn delete_unusable(draft: &mut Draft<'_>, primary: &DbUid) {
    let needed = draft.synchronous_members();
    let Some(source) = draft.next.dbs.get(primary).cloned() else {
        return;
    };
    let standbys = draft.next.dbs.values();
    let standbys = standbys.filter(|db| is_source(db) == Some(false));
    let unusable: Vec<(DbUid, KeeperUid, String)> = standbys
        .filter_map(|db| {
            let why = why_unusable(draft, &source, db)?;
            Some((db.uid.clone(), db.spec.keeper_uid.clone(), why))
        })
        .collect();
    for (uid, keeper, why) in unusable {
        if !needed.contains(&uid) {
            delete(draft, &uid);
            let text = format!("deleting a standby, to be copied anew: {why}");
            draft.because(Reason::warn("standby-unusable", text).with("db", uid));
        } else if is_irreplaceable(draft, &uid) {
            let text = format!(
                "a standby that commits wait for cannot come back as it is ({why}), and no other is \
                 there for it: to have it copied anew, run stolonctl removekeeper {keeper}"
            );
            draft.because(Reason::warn("synchronous-unusable", text).with("db", uid));
        }
    }
}

/// Whether commits wait for a standby whose data its keeper cannot use, and it does not leave the set
/// by itself: without it there are too few. Deleting it would be safe for what is acknowledged; but
/// whoever says so may only wait for a disk, and nobody else would have the last commits then.
fn is_irreplaceable(draft: &Draft<'_>, uid: &DbUid) -> bool {
    let least = usize::from(draft.spec.min_synchronous_standbys);
    let list = draft.primary().map(|db| &db.spec.synchronous_standbys);
    let stays = list.is_some_and(|list| list.contains(uid) && list.len() <= least);
    let db = draft.next.dbs.get(uid);
    stays && db.is_some_and(|db| draft.view.unusable(db).is_some())
}

/// Why a standby cannot come back as it is: forked, a primary of its own, without data or the WAL it needs, or not copied in
/// time.
fn why_unusable(draft: &Draft<'_>, source: &Db, db: &Db) -> Option<String> {
    let never_there = db.status.current_generation == Generation::NONE;
    let said = draft.view.unusable(db);
    if let Some(why) = said.filter(|_| draft.is_keeper_healthy(&db.spec.keeper_uid)) {
        Some(why.to_owned())
    } else if is_forked(source, db) && !may_come_back(draft, source, db) {
        Some("its history has left the primary's".to_owned())
    } else if draft.view.is_writable(&db.uid) {
        // Its keeper leaves it as it is: it served clients by a document that the store has lost, or
        // somebody promoted it (scenario I5).
        Some("its instance is a primary of its own".to_owned())
    } else if draft.view.is_stranded(&db.uid, &draft.spec) {
        Some("the primary has removed WAL that it needs".to_owned())
    } else if never_there && draft.convergence(db) == Convergence::Failed {
        Some("its copy of the data took longer than syncTimeout".to_owned())
    } else {
        None
    }
}

/// Standbys that an operator wants copied anew. One that commits wait for waits until another one has
/// its place in the synchronous set.
fn delete_what_is_to_be_copied(draft: &mut Draft<'_>) {
    let needed = draft.synchronous_members();
    let asked = draft.view.asked.resync.iter();
    let standbys = asked.filter(|(uid, _)| {
        let db = draft.next.dbs.get(*uid);
        db.is_some_and(|db| is_source(db) == Some(false))
    });
    let (waiting, due): (Vec<_>, Vec<_>) = standbys.partition(|(uid, _)| needed.contains(*uid));
    for (uid, request) in waiting {
        let text = "a standby is to be copied anew, and is not while commits wait for it: it needs \
                    another one to take its place in the synchronous set";
        let reason = Reason::warn("resync-waits", text).with("db", uid);
        draft.because(reason.with("request", request));
    }
    for (uid, request) in due {
        delete(draft, uid);
        let text = "deleting a standby, to be copied anew: an operator asked for it";
        let reason = Reason::info("resync-asked", text).with("db", uid);
        draft.because(reason.with("request", request));
    }
}

/// Whether what a standby received beyond the primary's history may be half a record, which it drops
/// when it follows. It is given the time that any failure is.
fn may_come_back(draft: &Draft<'_>, source: &Db, db: &Db) -> bool {
    let Some(seen) = draft.view.dbs.get(&db.uid) else {
        return false;
    };
    let report = seen.report.as_ref();
    let instance = report.and_then(|report| report.instance.as_ref());
    let in_time = seen
        .astray_for
        .is_none_or(|age| age < fail_after(&draft.spec));
    in_time
        && instance.is_some_and(|instance| may_drop_what_is_more(source, db, instance.replay_lsn))
}

/// A standby whose copy is finished needs no initialisation any more.
fn settle_finished(draft: &mut Draft<'_>, primary: &DbUid) {
    let finished: Vec<DbUid> = draft
        .next
        .dbs
        .values()
        .filter(|db| db.uid != *primary && is_source(db) == Some(false))
        .filter(|db| db.spec.init_mode == Some(InitMode::Resync) && draft.is_good(db))
        .map(|db| db.uid.clone())
        .collect();
    for uid in finished {
        draft.edit_db(&uid, |spec| spec.init_mode = Some(InitMode::None));
        draft.because(Reason::info("standby-ready", "a standby is ready").with("db", uid));
    }
}

/// The standbys that no commit waits for, the good ones last, each group by uid.
fn removable(draft: &Draft<'_>) -> Vec<(bool, DbUid)> {
    let needed = draft.synchronous_members();
    let mut found: Vec<(bool, DbUid)> = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false) && !needed.contains(&db.uid))
        .map(|db| (draft.is_good(db), db.uid.clone()))
        .collect();
    found.sort();
    found
}

/// With enough good standbys, the others are given up; good ones only above the maximum.
fn limit(draft: &mut Draft<'_>) {
    let most = usize::from(draft.spec.most_standbys());
    let good = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false) && draft.is_good(db))
        .count();
    if good < most {
        return;
    }
    let mut excess = good.saturating_sub(most);
    for (is_good, uid) in removable(draft) {
        if is_good {
            if excess == 0 {
                continue;
            }
            excess = excess.saturating_sub(1);
        }
        delete(draft, &uid);
        let text = "deleting a standby: there are enough good ones";
        draft.because(Reason::info("standby-excess", text).with("db", uid));
    }
}

/// New standbys on free keepers, as many as are missing (scenario A10).
fn add_missing(draft: &mut Draft<'_>, primary: &DbUid) {
    let not_failed = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false) && is_not_failed(draft, db))
        .count();
    let missing = usize::from(draft.spec.most_standbys()).saturating_sub(not_failed);
    let free: Vec<KeeperUid> = draft
        .next
        .keepers
        .values()
        .filter(|keeper| keeper.status.healthy && draft.is_fresh(&keeper.uid))
        .filter(|keeper| draft.next.db_of(&keeper.uid).is_none())
        .map(|keeper| keeper.uid.clone())
        .take(missing)
        .collect();
    for keeper in free {
        let uid = draft.new_db_uid();
        let text = "adding a standby";
        let reason = Reason::info("standby-added", text).with("db", &uid);
        draft.because(reason.with("keeper", &keeper));
        let spec = DbSpec {
            keeper_uid: keeper,
            init_mode: Some(InitMode::Resync),
            role: Some(Role::Standby),
            follow_config: Some(FollowConfig::internal(primary.clone())),
            followers: List(Some(Vec::new())),
            ..DbSpec::default()
        };
        let db = Db {
            uid: uid.clone(),
            generation: Generation::FIRST,
            spec,
            ..Db::default()
        };
        draft.next.dbs.insert(uid, db);
    }
}

/// Good, or on its way: a db that was never there counts as long as its keeper lives.
fn is_not_failed(draft: &Draft<'_>, db: &Db) -> bool {
    if !draft.is_keeper_healthy(&db.spec.keeper_uid) {
        return false;
    }
    let never_there = db.status.current_generation == Generation::NONE;
    (db.status.healthy || never_there) && draft.convergence(db) != Convergence::Failed
}

/// A standby has no standbys of its own, and no synchronous set.
fn clear_primary_duties(spec: &mut DbSpec) {
    if !spec.followers.is_empty() {
        spec.followers = List(Some(Vec::new()));
    }
    spec.synchronous_replication = false;
    if !spec.synchronous_standbys.is_empty() {
        spec.synchronous_standbys = List::NULL;
    }
    if !spec.external_synchronous_standbys.is_empty() {
        spec.external_synchronous_standbys = List::NULL;
    }
}

/// The primary keeps a slot for each standby that is to follow it.
fn name_followers(draft: &mut Draft<'_>, primary: &DbUid) {
    let followers: List<DbUid> = draft
        .next
        .dbs
        .values()
        .filter(|db| is_source(db) == Some(false))
        .filter(|db| {
            db.spec
                .follow_config
                .as_ref()
                .is_some_and(|follow| follow.db_uid == *primary)
        })
        .map(|db| db.uid.clone())
        .collect();
    draft.edit_db(primary, |spec| {
        if !spec.followers.same_set(&followers) {
            spec.followers = followers;
        }
    });
}
