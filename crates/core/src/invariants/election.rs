//! I2, I2a, I3, I10: a primary is replaced when it has failed and never otherwise, by the best of
//! those that have what it acknowledged.

use super::scene::{Scene, is_standby, master, set};
use super::{Found, Invariant};
use crate::model::{Db, Generation, Lsn};
use crate::sentinel::lineage::{Lineage, lineage};

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    if !scene.is_normal() || scene.primary().is_some_and(is_of_later_version) {
        return;
    }
    let cause = cause(scene);
    let allowed = match &cause {
        Some(cause) => {
            let view = scene.step.view;
            let few = view.recent_failovers < view.most_failovers;
            cause.forced || (few && !view.asked.is_paused())
        }
        None => true,
    };
    let successor = &scene.after.proxy.spec.successor_db_uid;
    let goes_on = *successor == scene.before.proxy.spec.successor_db_uid
        && scene
            .primary()
            .is_some_and(|primary| released(scene, primary).is_some());
    let named = successor.is_empty() || (cause.is_some() && allowed) || goes_on;
    found.require(named, Invariant::I10, "successor-without-cause", || {
        format!("proxies close for {successor} though the primary is not to be replaced")
    });
    let eligible: Vec<&Db> = scene
        .dbs
        .values()
        .filter(|db| is_standby(db) && exclusion(scene, db).is_none())
        .collect();
    let behind = !scene.step.view.later_primaries(scene.before).is_empty();
    let is_replaced = cause.is_some() && allowed && !behind;
    let awaited = &scene.before.proxy.spec.successor_db_uid;
    let is_awaited = eligible.iter().any(|db| db.uid == *awaited);
    let is_awaited = is_awaited && scene.reader_of(awaited).is_some();
    let kept = !is_replaced || !is_awaited || successor == awaited;
    found.require(kept, Invariant::Liveness, "successor-passed-over", || {
        format!("proxies are leaving {awaited}, and are told to leave {successor:?} instead")
    });
    if !scene.is_elected() {
        let waits = is_waited_for(scene, &eligible);
        let kept = cause.is_none() || !allowed || eligible.is_empty() || behind || waits;
        found.require(kept, Invariant::Liveness, "failed-primary-kept", || {
            format!(
                "the primary has failed and {} standbys are eligible",
                eligible.len()
            )
        });
        return;
    }
    found.require(
        cause.is_some(),
        Invariant::I10,
        "failover-without-cause",
        || "the primary is replaced though it does what it is to do".to_owned(),
    );
    found.require(allowed, Invariant::I10, "failover-limit", || {
        format!(
            "{} failovers are too many to go on",
            scene.step.view.recent_failovers
        )
    });
    let Some(winner) = master(scene.after).and_then(|uid| scene.dbs.get(&uid)) else {
        found.require(false, Invariant::I3, "winner-from-nowhere", || {
            format!(
                "the new primary {:?} was not there before",
                master(scene.after)
            )
        });
        return;
    };
    judge(scene, winner, &eligible, found);
}

/// Whether one of the best, or the one that was named before, is named to the proxies, and one of those
/// may lead clients to it yet.
fn is_waited_for(scene: &Scene<'_>, eligible: &[&Db]) -> bool {
    let best = eligible.iter().map(|db| position(db)).max();
    let successor = &scene.after.proxy.spec.successor_db_uid;
    let stays = *successor == scene.before.proxy.spec.successor_db_uid;
    eligible.iter().any(|db| {
        let may_be = stays || Some(position(db)) == best;
        db.uid == *successor && may_be && scene.reader_of(&db.uid).is_some()
    })
}

fn judge(scene: &Scene<'_>, winner: &Db, eligible: &[&Db], found: &mut Found) {
    let uid = &winner.uid;
    found.require(
        is_standby(winner),
        Invariant::I3,
        "winner-not-a-standby",
        || format!("the new primary {uid} was no standby of this cluster"),
    );
    if let Some((invariant, why)) = exclusion(scene, winner) {
        found.require(false, invariant, "winner-ineligible", || {
            format!("{uid} won: {why}")
        });
    }
    let reader = scene.reader_of(uid);
    found.require(
        reader.is_none(),
        Invariant::I1,
        "promoted-under-readers",
        || format!("{uid} won, and clients may read from it through proxy {reader:?}"),
    );
    let best = eligible.iter().map(|db| position(db)).max();
    let most = best.is_none_or(|best| position(winner) >= best);
    found.require(most, Invariant::I2a, "winner-not-most-advanced", || {
        format!("{uid} won at {:?}, the best has {best:?}", position(winner))
    });
}

fn position(db: &Db) -> (Lsn, crate::model::TimelineId) {
    (db.status.xlog_pos, db.status.timeline_id)
}

/// Of a role that this version does not know: nothing is decided about it.
fn is_of_later_version(db: &Db) -> bool {
    let external = db
        .spec
        .follow_config
        .as_ref()
        .map(|follow| &follow.follow_type)
        == Some(&Some(crate::model::FollowType::External));
    let source = db.spec.role == Some(crate::model::Role::Primary)
        || (db.spec.role == Some(crate::model::Role::Standby) && external);
    !source && !is_standby(db)
}

/// Why the primary may be replaced.
struct Cause {
    /// By an operator's word, which has no limit.
    forced: bool,
}

fn cause(scene: &Scene<'_>) -> Option<Cause> {
    let found = Some(Cause { forced: false });
    let Some(primary) = scene.primary() else {
        return found;
    };
    let keeper = scene.before.keepers.get(&primary.spec.keeper_uid);
    if keeper.is_some_and(|keeper| keeper.status.force_fail) {
        return Some(Cause { forced: true });
    }
    let gone = keeper.is_none() && !scene.after.keepers.contains_key(&primary.spec.keeper_uid);
    let failed = gone || !primary.status.healthy || scene.is_overdue(primary);
    if failed || has_released(scene, primary) {
        found
    } else {
        None
    }
}

/// Its keeper gave it up, where no acknowledged commit can be lost by that.
fn has_released(scene: &Scene<'_>, primary: &Db) -> bool {
    let released = released(scene, primary);
    is_synchronous(scene) && released.is_some_and(|at| at >= scene.step.view.revision)
}

/// The document by which its keeper gave it up.
fn released(scene: &Scene<'_>, primary: &Db) -> Option<u64> {
    let report = scene.report(&primary.uid)?;
    report.instance.as_ref()?.released_at_revision
}

/// Whether commits wait for standbys: asked for, and in force at the primary.
fn is_synchronous(scene: &Scene<'_>) -> bool {
    let primary = scene.primary();
    scene.spec.synchronous_replication
        && primary.is_none_or(|primary| primary.spec.synchronous_replication)
}

/// Why a standby may not become the primary.
fn exclusion(scene: &Scene<'_>, db: &Db) -> Option<(Invariant, &'static str)> {
    let keeper = &db.spec.keeper_uid;
    let primary = scene.primary();
    if !scene.is_alive(keeper) || !scene.is_fresh(keeper) || !db.status.healthy {
        return Some((
            Invariant::Liveness,
            "it was not heard lately, or not healthy",
        ));
    }
    if !scene.abilities(keeper).0 {
        return Some((Invariant::Contract, "its keeper may not run a primary"));
    }
    if db.status.current_generation == Generation::NONE {
        return Some((Invariant::I3, "its copy is not finished"));
    }
    if primary.is_some_and(|primary| lineage(primary, db) != Lineage::Follows) {
        return Some((
            Invariant::I3,
            "its history is not known to be the primary's",
        ));
    }
    if db.status.xlog_pos == Lsn::UNKNOWN {
        return Some((Invariant::I3, "its position is not known"));
    }
    if is_synchronous(scene) {
        let confirmed = primary
            .is_some_and(|primary| set(&primary.status.synchronous_standbys).contains(&db.uid));
        return (!confirmed).then_some((Invariant::I2, "it is not confirmed"));
    }
    let lag = primary.map_or(0, |primary| {
        primary.status.xlog_pos.bytes_ahead_of(db.status.xlog_pos)
    });
    let lags = lag > u64::from(scene.spec.max_standby_lag);
    lags.then_some((Invariant::I2a, "it lags too much"))
}
