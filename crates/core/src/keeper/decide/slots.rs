//! The replication slots of an instance: which there are, and from where on each keeps WAL.
//!
//! Whoever may become the primary keeps the WAL that the other standbys still need: a standby that was
//! away during a failover finds it there, and needs no copy (scenario C5, ADR 13). On the source a slot
//! moves with who streams through it; on a standby nobody streams, and the keeper moves it.

use super::super::facts::{Observation, Slot};
use super::{Situation, Step};
use crate::model::{Db, DbUid, FollowType, Lsn, Role};

/// What every slot of ours begins with.
const PREFIX: &str = "stolon_";

/// A slot that there is to be.
struct Wanted {
    name: String,
    /// No WAL from before is needed any more; none: whoever streams moves it, or nothing is known.
    needed_from: Option<Lsn>,
    /// Whether it is made anew when it kept too much and was lost. Before its standby is back that
    /// would only begin to pin WAL again.
    remake: bool,
}

/// Brings the slots of the instance that the others follow to what they are to be: those of its
/// followers, and the additional ones.
pub(super) fn of_source(
    situation: &Situation<'_>,
    db: &Db,
    observation: &Observation,
) -> Option<Step> {
    let wanted = wanted_of_source(situation, db);
    // A standby may be there before the sentinel names it as a follower.
    let others: Vec<String> = standbys(situation, db)
        .filter(|standby| !is_given_up(situation, standby))
        .map(|standby| standby.uid.replication_name())
        .collect();
    step(observation, &wanted, &others)
}

/// The slots that the instance lacks to be followed.
pub(super) fn missing(
    situation: &Situation<'_>,
    db: &Db,
    observation: &Observation,
) -> Vec<String> {
    let wanted = wanted_of_source(situation, db);
    let missing = wanted.into_iter().map(|slot| slot.name);
    missing
        .filter(|name| find(observation, name).is_none())
        .collect()
}

/// Brings the slots of a standby of `source` to what they are to be: those that the source has for
/// its other standbys and for others.
pub(super) fn of_standby(
    situation: &Situation<'_>,
    db: &Db,
    source: &Db,
    observation: &Observation,
) -> Option<Step> {
    let follows = |sibling: &&Db| {
        let follow = sibling.spec.follow_config.as_ref();
        follow.is_some_and(|follow| follow.db_uid == source.uid)
    };
    let siblings = standbys(situation, db).filter(follows);
    let siblings = siblings.filter(|sibling| !is_given_up(situation, sibling));
    let siblings = siblings.map(|sibling| Wanted {
        name: sibling.uid.replication_name(),
        needed_from: position(sibling, observation),
        remake: is_keeper_healthy(situation, sibling),
    });
    // Nobody tells where the source has these. It has no WAL of before its oldest, so that nobody
    // needs that.
    let kept = source.status.oldest_wal();
    let kept = (kept > Lsn::UNKNOWN).then_some(kept);
    let additional = additional(source).map(|name| Wanted {
        name,
        needed_from: kept,
        remake: true,
    });
    let wanted: Vec<Wanted> = siblings.chain(additional).collect();
    step(observation, &wanted, &[])
}

fn wanted_of_source(situation: &Situation<'_>, db: &Db) -> Vec<Wanted> {
    let dbs = &situation.document.data.dbs;
    let is_back = |uid: &DbUid| {
        dbs.get(uid)
            .is_some_and(|db| is_keeper_healthy(situation, db))
    };
    let is_needed = |uid: &&DbUid| {
        let follower = dbs.get(*uid);
        follower.is_none_or(|follower| !is_given_up(situation, follower))
    };
    let followers = db.spec.followers.iter().filter(is_needed);
    let followers = followers.map(|uid| Wanted {
        name: uid.replication_name(),
        needed_from: None,
        remake: is_back(uid),
    });
    // Who reads through a lost one has lost something, and is to know.
    let additional = additional(db).map(|name| Wanted {
        name,
        needed_from: None,
        remake: false,
    });
    followers.chain(additional).collect()
}

fn additional(source: &Db) -> impl Iterator<Item = String> + '_ {
    let names = source.spec.additional_replication_slots.iter();
    names.map(|name| format!("{PREFIX}{name}"))
}

/// The other dbs that follow one of this cluster.
fn standbys<'a>(situation: &Situation<'a>, db: &'a Db) -> impl Iterator<Item = &'a Db> {
    let is_internal = |db: &&Db| {
        let follow = db.spec.follow_config.as_ref();
        follow.is_some_and(|follow| follow.follow_type == Some(FollowType::Internal))
    };
    let dbs = situation.document.data.dbs.values();
    dbs.filter(move |other| other.uid != db.uid && other.spec.role == Some(Role::Standby))
        .filter(is_internal)
}

fn is_keeper_healthy(situation: &Situation<'_>, db: &Db) -> bool {
    let keeper = situation.document.data.keepers.get(&db.spec.keeper_uid);
    keeper.is_some_and(|keeper| keeper.status.healthy)
}

/// Whether the keeper of a standby has been dead for so long that nothing is kept for it any more: by
/// the times in the document, which one leader after another writes and which is never older than what
/// it says of a healthy keeper.
fn is_given_up(situation: &Situation<'_>, db: &Db) -> bool {
    let data = &situation.document.data;
    let Some(longest) = situation.document.settings.max_slot_wal_keep_time else {
        return false;
    };
    let Some(keeper) = data.keepers.get(&db.spec.keeper_uid) else {
        return false;
    };
    let seen = data.keepers.values();
    let seen = seen.map(|keeper| keeper.status.last_healthy_time);
    let latest = seen.max_by_key(|time| time.moment());
    let latest = latest.unwrap_or_default();
    let last = keeper.status.last_healthy_time;
    let dead_for = data.change_time.since(last).max(latest.since(last));
    !keeper.status.healthy && !last.is_zero() && dead_for >= longest
}

/// What a standby has flushed of the history of this instance: no more than it reported, and nothing
/// of a timeline that this instance left before.
fn position(standby: &Db, observation: &Observation) -> Option<Lsn> {
    let status = &standby.status;
    let left = || {
        let mut history = observation.history.iter();
        let switch = history.find(|switch| switch.timeline_id == status.timeline_id)?;
        Some(switch.switch_point)
    };
    let shared = if status.timeline_id == observation.timeline {
        status.xlog_pos
    } else {
        status.xlog_pos.min(left()?)
    };
    (shared > Lsn::UNKNOWN).then_some(shared)
}

fn find<'a>(observation: &'a Observation, name: &str) -> Option<&'a Slot> {
    observation.slots.iter().find(|slot| slot.name == name)
}

/// The step that brings our slots to the wanted ones, and leaves those of `others` if there are any.
/// Foreign ones are left alone, and one that is in use is not touched.
fn step(observation: &Observation, wanted: &[Wanted], others: &[String]) -> Option<Step> {
    let is_wanted = |name: &String| wanted.iter().any(|slot| slot.name == *name);
    let idle = observation.slots.iter().filter(|slot| !slot.active);
    let mut drop: Vec<String> = idle
        .map(|slot| slot.name.clone())
        .filter(|name| name.starts_with(PREFIX) && !is_wanted(name) && !others.contains(name))
        .collect();
    let (mut create, mut advance) = (Vec::new(), Vec::new());
    for wanted in wanted {
        let Some(found) = find(observation, &wanted.name) else {
            create.push(wanted.name.clone());
            continue;
        };
        if found.active {
            continue;
        }
        if found.is_lost() {
            if wanted.remake {
                drop.push(wanted.name.clone());
                create.push(wanted.name.clone());
            }
        } else if let Some(to) = wanted
            .needed_from
            .and_then(|needed| goes_on(found, needed, observation))
        {
            advance.push((wanted.name.clone(), to));
        }
    }
    let is_done = drop.is_empty() && create.is_empty() && advance.is_empty();
    (!is_done).then_some(Step::Slots {
        drop,
        create,
        advance,
    })
}

/// Where a slot is moved to: only when that lets a whole file of the WAL go, and never past what this
/// instance has replayed, which PostgreSQL does not allow.
fn goes_on(slot: &Slot, needed: Lsn, observation: &Observation) -> Option<Lsn> {
    let to = needed.min(observation.replay_lsn);
    let file = |lsn: Lsn| lsn.0.checked_div(observation.wal_segment);
    let goes_on = slot.restart_lsn > Lsn::UNKNOWN && file(to)? > file(slot.restart_lsn)?;
    goes_on.then_some(to)
}

#[cfg(test)]
mod tests {
    use super::{Lsn, Observation, Slot, goes_on};

    /// Scenario C6: whole files of whatever size there are.
    #[test]
    fn a_slot_moves_when_a_file_can_go() {
        let slot = Slot {
            restart_lsn: Lsn(100 << 20),
            ..Slot::default()
        };
        let moves = |megabytes: u64, needed: u64| {
            let observation = Observation {
                replay_lsn: Lsn(500 << 20),
                wal_segment: megabytes << 20,
                ..Observation::default()
            };
            goes_on(&slot, Lsn(needed << 20), &observation).map(|lsn| lsn.0 >> 20)
        };
        assert_eq!(
            [moves(1, 101), moves(16, 111), moves(16, 112)],
            [Some(101), None, Some(112)]
        );
        assert_eq!(
            [moves(64, 127), moves(64, 128), moves(64, 900)],
            [None, Some(128), Some(500)]
        );
        assert_eq!(moves(0, 400), None, "a size that is not known");
    }
}
