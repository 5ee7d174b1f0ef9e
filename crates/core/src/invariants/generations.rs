//! I4, I5: one chain of documents of one cluster, in which generations tell newer from older.

use super::scene::{Scene, follows_outside, is_standby, master, phase};
use super::{Found, Invariant, raised_by_one};
use crate::model::{Generation, Phase, Role};

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    let (before, after) = (scene.before, scene.after);
    let uid = |data: &crate::model::ClusterData| data.cluster.as_ref().map(|c| c.uid.clone());
    let same_cluster = uid(before) == uid(after) && before.format_version == after.format_version;
    found.require(same_cluster, Invariant::I4, "another-cluster", || {
        format!("cluster {:?} became {:?}", uid(before), uid(after))
    });
    for (uid, db) in &after.dbs {
        let old = before.dbs.get(uid);
        let old = old.map(|old| (old.generation, old.spec != db.spec));
        let said = old.map(|(old, _)| scene.step.view.generation_reached(uid, old));
        let said = said.unwrap_or_default();
        counted(found, &format!("db {uid}"), old, db.generation, said);
    }
    for (uid, keeper) in &after.keepers {
        let old = before.keepers.get(uid);
        let old = old.map(|old| (old.generation, old.spec != keeper.spec));
        let none = Generation::NONE;
        counted(
            found,
            &format!("keeper {uid}"),
            old,
            keeper.generation,
            none,
        );
    }
    let reached = scene.step.view.proxies_reached;
    let is_ahead = before.proxy.generation < reached;
    let proxy = (
        before.proxy.generation,
        before.proxy.spec != after.proxy.spec || is_ahead,
    );
    let after_it = after.proxy.generation;
    counted(found, "the proxies", Some(proxy), after_it, reached);
    if let (Some(old), Some(new)) = (&before.cluster, &after.cluster) {
        let old = (old.generation, old.spec != new.spec);
        let none = Generation::NONE;
        counted(found, "the cluster", Some(old), new.generation, none);
    }
    well_formed(scene, found);
}

/// A generation rises by one when the spec changed, and only then; it begins at 1. Where somebody is
/// known to have been at a higher one it rises above that.
fn counted(
    found: &mut Found,
    what: &str,
    old: Option<(Generation, bool)>,
    new: Generation,
    known: Generation,
) {
    let Some((old, changed)) = old else {
        let first = new == Generation::FIRST;
        found.require(first, Invariant::I5, "generation-not-first", || {
            format!("{what} begins at generation {new}")
        });
        return;
    };
    // At its largest value a generation cannot rise; no cluster lives that long.
    let rises = raised_by_one(old.max(known), new);
    found.require(new >= old, Invariant::I5, "generation-fell", || {
        format!("{what} went from generation {old} back to {new}")
    });
    found.require(
        !changed || rises,
        Invariant::I5,
        "generation-not-raised",
        || format!("the spec of {what} changed at generation {old}, which became {new}"),
    );
    let idle = changed || new == old;
    found.require(idle, Invariant::I5, "generation-raised-idly", || {
        format!("the spec of {what} did not change, and generation {old} became {new}")
    });
}

/// What a Go process that reads the document relies on. A document that was bad before may stay so.
fn well_formed(scene: &Scene<'_>, found: &mut Found) {
    let (before, after) = (scene.before, scene.after);
    for (uid, db) in &after.dbs {
        let old = before.dbs.get(uid);
        let kept_bad = old.is_some_and(|old| !before.keepers.contains_key(&old.spec.keeper_uid));
        let keeper = &db.spec.keeper_uid;
        let has_keeper = kept_bad || after.keepers.contains_key(keeper);
        found.require(has_keeper, Invariant::Contract, "db-without-keeper", || {
            format!("db {uid} is on keeper {keeper}, which is not among the keepers")
        });
        let same = old.is_some_and(|old| {
            old.spec.role == db.spec.role && old.spec.follow_config == db.spec.follow_config
        });
        // Only what the others follow may follow somebody outside.
        let outside = follows_outside(db) && master(after).as_ref() == Some(uid);
        let shaped = db.spec.role == Some(Role::Primary) || is_standby(db) || outside;
        found.require(
            same || shaped,
            Invariant::Contract,
            "db-without-role",
            || format!("db {uid} is neither a primary nor a standby that follows"),
        );
    }
    let (was, is) = (master(before), master(after));
    let named = was == is || is.as_ref().is_none_or(|uid| after.dbs.contains_key(uid));
    found.require(named, Invariant::Contract, "primary-missing", || {
        format!("the primary {is:?} is not among the dbs")
    });
    let kept = !scene.is_normal() || (phase(after) == Some(&Phase::Normal) && is.is_some());
    found.require(
        kept || was == is,
        Invariant::Contract,
        "cluster-unmade",
        || "a cluster that had begun is without a primary or in another phase".to_owned(),
    );
}
