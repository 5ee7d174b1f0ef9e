//! Scenario A10: as many standbys as are missing, on keepers that are free.

use super::scene::{Scene, follows_outside, is_standby, master};
use super::{Found, Invariant};
use crate::model::spec::ClusterInitMode;
use crate::model::{Db, Generation, InitMode, Role};

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    let after = scene.after.dbs.iter();
    let new = after.filter(|(uid, _)| !scene.before.dbs.contains_key(*uid));
    let created: Vec<&Db> = new.map(|(_, db)| db).collect();
    for db in &created {
        let uid = &db.uid;
        let keeper = &db.spec.keeper_uid;
        let others = scene
            .after
            .dbs
            .values()
            .filter(|other| other.spec.keeper_uid == *keeper && other.uid != *uid)
            .count();
        let free = others == 0 && scene.is_alive(keeper) && scene.is_fresh(keeper);
        found.require(free, Invariant::Contract, "keeper-not-free", || {
            format!("db {uid} is made on keeper {keeper}, which lives not or has {others} others")
        });
        let primary = master(scene.after);
        let follow = db.spec.follow_config.as_ref();
        let follows = follow.map(|follow| &follow.db_uid) == primary.as_ref();
        let copies = is_standby(db) && follows && db.spec.init_mode == Some(InitMode::Resync);
        let first = primary.as_ref() == Some(uid) && begins_as_asked(scene, db);
        let shaped = if scene.is_normal() { copies } else { first };
        found.require(shaped, Invariant::I7, "created-otherwise", || {
            format!("db {uid} is made neither as the first nor as a copy of the primary")
        });
    }
    if !scene.is_normal() {
        return;
    }
    let good = created.is_empty() || scene.is_primary_good();
    found.require(good, Invariant::I7, "created-without-primary", || {
        "a standby is made while there is no good primary to copy".to_owned()
    });
    let missing = missing(scene);
    found.require(
        created.len() <= missing,
        Invariant::Contract,
        "standby-unneeded",
        || {
            format!(
                "{} standbys are made and {missing} are missing",
                created.len()
            )
        },
    );
}

/// Whether the first db comes into being as the operator asks for: what is to be taken over is where
/// they say that it is.
fn begins_as_asked(scene: &Scene<'_>, db: &Db) -> bool {
    let asked = match &scene.spec.init_mode {
        ClusterInitMode::New => db.spec.init_mode == Some(InitMode::New),
        ClusterInitMode::Pitr => db.spec.init_mode == Some(InitMode::Pitr),
        ClusterInitMode::Existing => {
            let named = scene.spec.existing_config.as_ref();
            let named = named.is_some_and(|named| named.keeper_uid == db.spec.keeper_uid);
            named && db.spec.init_mode == Some(InitMode::Existing)
        }
        ClusterInitMode::Unknown(_) => false,
    };
    let role = if scene.is_standby_cluster() {
        follows_outside(db)
    } else {
        db.spec.role == Some(Role::Primary)
    };
    asked && role
}

/// How many standbys are wanted beyond those that are kept and have not failed.
fn missing(scene: &Scene<'_>) -> usize {
    let wanted = scene
        .spec
        .max_standbys
        .min(scene.spec.max_standbys_per_sender);
    let kept = scene
        .dbs
        .values()
        .filter(|db| is_standby(db) && Some(&db.uid) != master(scene.after).as_ref())
        .filter(|db| scene.after.dbs.contains_key(&db.uid))
        .filter(|db| {
            let copying = db.status.current_generation == Generation::NONE;
            let alive = scene.is_alive(&db.spec.keeper_uid);
            alive && (db.status.healthy || copying) && !scene.is_overdue(db)
        })
        .count();
    usize::from(wanted).saturating_sub(kept)
}
