//! I2: the synchronous set changes so that somebody beside the primary always has every
//! acknowledged commit, and is known to.

use std::collections::BTreeSet;

use super::scene::{Scene, is_standby, phase, set};
use super::{Found, Invariant};
use crate::model::db::PLACEHOLDER_STANDBY;
use crate::model::{Db, DbUid, Generation, Phase};
use crate::sentinel::lineage::is_forked;

type Set = BTreeSet<DbUid>;

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    let (Some(after), Some(Phase::Normal)) = (scene.after.primary(), phase(scene.after)) else {
        return;
    };
    if !scene.spec.synchronous_replication || scene.is_standby_cluster() {
        return;
    }
    if scene.is_elected() {
        is_on(after, found);
        inherited(scene, after, found);
        numbers(scene, after, &Set::new(), found);
        return;
    }
    let Some(before) = scene.primary() else {
        return;
    };
    if before.spec.synchronous_replication {
        is_on(after, found);
    }
    let (listed, next) = (
        set(&before.spec.synchronous_standbys),
        set(&after.spec.synchronous_standbys),
    );
    confirmed(after, &set(&before.status.synchronous_standbys), found);
    // Cluster data of before a failover: nothing is decided by them, whatever the spec asks for by now.
    let behind = !scene.step.view.later_primaries(scene.before).is_empty();
    if !scene.is_primary_good() || behind {
        found.require(listed == next, Invariant::I2, "set-changed-blindly", || {
            format!("the set of a primary that does not serve goes from {listed:?} to {next:?}")
        });
        return;
    }
    if after.spec.synchronous_replication {
        numbers(
            scene,
            after,
            &set(&before.status.synchronous_standbys),
            found,
        );
        changed(scene, before, after, found);
    } else {
        found.require(false, Invariant::I2, "not-synchronous", || {
            format!(
                "primary {} replicates asynchronously against the spec",
                after.uid
            )
        });
    }
}

fn is_on(primary: &Db, found: &mut Found) {
    let on = primary.spec.synchronous_replication;
    found.require(on, Invariant::I2, "not-synchronous", || {
        format!(
            "primary {} replicates asynchronously against the spec",
            primary.uid
        )
    });
}

/// The set of a new primary: those confirmed for the old one, who have all that it acknowledged.
fn inherited(scene: &Scene<'_>, winner: &Db, found: &mut Found) {
    let mut heirs = scene
        .primary()
        .map(|old| set(&old.status.synchronous_standbys))
        .unwrap_or_default();
    heirs.remove(&winner.uid);
    confirmed(winner, &heirs, found);
    let listed = set(&winner.spec.synchronous_standbys);
    found.require(
        heirs.is_subset(&listed),
        Invariant::I2,
        "heir-forgotten",
        || format!("{heirs:?} have all acknowledged commits and {listed:?} is the set"),
    );
}

/// Nobody counts as confirmed who was not seen to be.
fn confirmed(primary: &Db, seen: &Set, found: &mut Found) {
    let listed = set(&primary.spec.synchronous_standbys);
    let confirmed = set(&primary.status.synchronous_standbys);
    let known: Set = seen.intersection(&listed).cloned().collect();
    found.require(
        confirmed.is_subset(&known),
        Invariant::I2,
        "confirmed-unseen",
        || format!("{confirmed:?} count as confirmed in {listed:?}; seen were {seen:?}"),
    );
}

/// Never fewer than the minimum without the placeholder; never more than the maximum but while the
/// set changes.
fn numbers(scene: &Scene<'_>, after: &Db, seen: &Set, found: &mut Found) {
    let listed = set(&after.spec.synchronous_standbys);
    let external = &after.spec.external_synchronous_standbys;
    let placeholder = external.iter().any(|name| name == PLACEHOLDER_STANDBY);
    let least = usize::from(scene.spec.min_synchronous_standbys);
    let most = usize::from(scene.spec.max_synchronous_standbys);
    let too_few = listed.len() < least;
    found.require(
        !too_few || placeholder,
        Invariant::I2,
        "too-few-synchronous",
        || format!("{listed:?} are fewer than {least} and commits do not wait"),
    );
    found.require(
        too_few || !placeholder,
        Invariant::Liveness,
        "placeholder-for-nothing",
        || format!("{listed:?} are {least} or more, and commits wait for the placeholder"),
    );
    let changing = scene.is_elected() || listed.iter().any(|uid| !seen.contains(uid));
    found.require(
        listed.len() <= most || changing,
        Invariant::Contract,
        "too-many-synchronous",
        || format!("{listed:?}, all confirmed, are more than {most}"),
    );
}

/// One step of the set of a primary that serves.
fn changed(scene: &Scene<'_>, before: &Db, after: &Db, found: &mut Found) {
    let lost = |uid: &DbUid| {
        scene.dbs.get(uid).is_none_or(|db| {
            !scene.before.keepers.contains_key(&db.spec.keeper_uid)
                || is_forked(before, db)
                || scene.step.view.is_stranded(&db.uid, &scene.spec)
        })
    };
    let from: Set = set(&before.spec.synchronous_standbys);
    let to: Set = set(&after.spec.synchronous_standbys);
    let had = set(&before.status.synchronous_standbys);
    let dropped: Set = from
        .difference(&to)
        .filter(|uid| !lost(uid))
        .cloned()
        .collect();
    let added: Set = to.difference(&from).cloned().collect();
    let one_step = dropped.is_empty() || added.is_empty();
    found.require(one_step, Invariant::I2, "union-skipped", || {
        format!("{from:?} became {to:?} in one step")
    });
    let remain = had.iter().filter(|uid| !lost(uid)).count();
    let least = usize::from(scene.spec.min_synchronous_standbys);
    let shared = had.intersection(&to).count();
    found.require(
        shared >= remain.min(least),
        Invariant::I2,
        "confirmed-dropped",
        || format!("{from:?} with {had:?} confirmed became {to:?}"),
    );
    for uid in &added {
        let fit = scene
            .dbs
            .get(uid)
            .is_some_and(|db| is_material(scene, before, db));
        found.require(fit, Invariant::I3, "unfit-synchronous", || {
            format!("{uid} is to be synchronous and does not follow the primary's history now")
        });
    }
}

/// A standby that follows the primary now.
fn is_material(scene: &Scene<'_>, primary: &Db, db: &Db) -> bool {
    let instance = |uid| {
        scene
            .report(uid)
            .and_then(|report| report.instance.as_ref())
    };
    let streams = match instance(&primary.uid) {
        Some(report) => report
            .peers
            .iter()
            .any(|peer| peer.db_uid == db.uid && peer.state == "streaming"),
        None => instance(&db.uid).is_none_or(|report| report.streaming != Some(false)),
    };
    let follow = db.spec.follow_config.as_ref();
    streams
        && is_standby(db)
        && follow.is_some_and(|follow| follow.db_uid == primary.uid)
        && db.status.healthy
        && db.status.current_generation != Generation::NONE
        && scene.abilities(&db.spec.keeper_uid).1
        && !is_forked(primary, db)
}
