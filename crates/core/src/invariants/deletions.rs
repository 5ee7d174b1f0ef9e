//! I7: no data are given up that may be needed.

use super::scene::{Scene, master, set};
use super::{Found, Invariant};
use crate::model::{Db, DbUid, InitMode};

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    let gone = |uid: &&DbUid| !scene.after.dbs.contains_key(*uid);
    let deleted: Vec<&DbUid> = scene.before.dbs.keys().filter(gone).collect();
    for (uid, keeper) in &scene.before.keepers {
        let forgotten = !scene.after.keepers.contains_key(uid);
        let stamp = keeper.status.last_healthy_time;
        let limit = scene.spec.dead_keeper_removal_interval;
        let dead = !scene.is_alive(uid) && scene.step.view.wall.since(stamp) > limit;
        found.require(
            !forgotten || dead,
            Invariant::I7,
            "keeper-forgotten-early",
            || format!("keeper {uid} is forgotten, and was healthy at {stamp}"),
        );
    }
    if scene.is_normal() {
        for uid in deleted {
            while_serving(scene, uid, found);
        }
    } else {
        // What is being made for the first time holds nothing yet and may be given up; what is taken
        // over is there and nowhere else.
        let may_go = |uid: &&&DbUid| {
            let db = scene.before.dbs.get(**uid);
            let mode = db.and_then(|db| db.spec.init_mode.as_ref());
            let taken_over = mode == Some(&InitMode::Existing);
            // Nor is what may have taken hours to restore, but by an operator's word.
            let restored = mode == Some(&InitMode::Pitr) && !db.is_some_and(|d| scene.is_forced(d));
            Some(**uid) == master(scene.before).as_ref() && !taken_over && !restored
        };
        let begun = deleted.iter().filter(|uid| !may_go(uid)).count();
        found.require(
            begun == 0,
            Invariant::I7,
            "deleted-while-initialising",
            || format!("{deleted:?} are deleted while the cluster is being made"),
        );
    }
}

fn while_serving(scene: &Scene<'_>, uid: &DbUid, found: &mut Found) {
    let later = scene.step.view.later_primaries(scene.before);
    let is_later = later.iter().any(|db| db.uid == *uid);
    found.require(!is_later, Invariant::I7, "later-primary-deleted", || {
        format!("{uid} is deleted, and its instance was the primary by newer cluster data")
    });
    let primaries = [master(scene.before), master(scene.after)];
    let is_primary = primaries
        .iter()
        .any(|primary| primary.as_ref() == Some(uid));
    found.require(!is_primary, Invariant::I7, "primary-deleted", || {
        format!("the primary {uid} is deleted")
    });
    let names = |primary: Option<&Db>| {
        primary.is_some_and(|primary| set(&primary.spec.synchronous_standbys).contains(uid))
    };
    let needed = names(scene.before.primary()) || names(scene.after.primary());
    found.require(!needed, Invariant::I7, "synchronous-deleted", || {
        format!("{uid} is deleted while the primary's commits wait for it")
    });
    let safe = scene.is_primary_good();
    found.require(safe, Invariant::I7, "deleted-without-primary", || {
        format!("{uid} is deleted while no primary is known to be good: it may be the last copy")
    });
}
