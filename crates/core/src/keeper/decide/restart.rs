//! Restarts of a running instance: because an operator asked, or because parameters need one and
//! automaticPgRestart is on.
//!
//! One instance after the other, standbys before the primary (scenario C12): a standby must not have
//! less of some parameters than its primary, so where they are raised it goes first, and where they are
//! lowered it keeps what its primary has until that one has restarted.

use super::super::facts::Observation;
use super::super::requests::{holds_back, restart_of};
use super::{Patience, Situation, Step};
use crate::model::{Condition, Db, Generation, KeeperInfo, Role};
use crate::reason::Reason;

/// What a restart begins with, when it is this instance's turn; the reasons say what waits.
pub(super) fn due(
    situation: &Situation<'_>,
    db: &Db,
    observation: &Observation,
    reasons: &mut Vec<Reason>,
) -> Option<Step> {
    let facts = situation.facts;
    let asked = facts.asked.as_ref();
    let keeper = &situation.settings.uid;
    // What a checkpoint writes out while clients are served, the stop need not.
    let restart = |why: &str| {
        if facts.checkpoint_of.as_ref() != Some(&observation.postmaster) {
            return Step::Checkpoint;
        }
        Step::Stop {
            why: why.to_owned(),
            patience: Patience::Long,
        }
    };
    if let Some((request, begun)) = asked.and_then(|asked| restart_of(asked, keeper))
        && begun.postmaster == observation.postmaster
    {
        let text = "restarting the instance, as an operator asked";
        reasons.push(Reason::info("restart-asked", text).with("request", request));
        return Some(restart("an operator asked for a restart"));
    }
    if observation.pending_restart.is_empty() {
        return None;
    }
    let text = "parameters wait for a restart of the instance";
    let names = observation.pending_restart.join(" ");
    reasons.push(Reason::warn("pending-restart", text).with("parameters", names));
    if !situation.spec.automatic_pg_restart {
        return None;
    }
    let Some(why) = in_the_way(situation, db) else {
        return Some(restart(
            "parameters need a restart, and automaticPgRestart is on",
        ));
    };
    let text = format!("the restart waits for its turn: {why}");
    reasons.push(Reason::info("restart-waits", text));
    None
}

/// Whether others are to be asked what they are about: it depends on them when this one restarts.
pub(in super::super) fn needs_peers(observation: &Observation, automatic: bool) -> bool {
    automatic && !observation.pending_restart.is_empty()
}

/// Who is before this instance, or on their way; none: it is its turn. Passed over are dead keepers,
/// instances that are being made, and those that were not well before. One that has taken in what is
/// asked for and is not well stops the others: what keeps it from starting may be the very parameter.
fn in_the_way(situation: &Situation<'_>, db: &Db) -> Option<String> {
    let asked = situation.facts.asked.as_ref();
    let Some((asked, peers)) = asked.and_then(|asked| Some((asked, asked.peers.as_ref()?))) else {
        return Some("what the others are about is not known yet".to_owned());
    };
    if let Some(why) = holds_back(asked) {
        return Some(why.to_owned());
    }
    if !situation.facts.may_restart {
        return Some("others may not have seen yet that theirs is to".to_owned());
    }
    let data = &situation.document.data;
    let is_primary = |db: &Db| data.primary().is_some_and(|primary| primary.uid == db.uid);
    let others = data.dbs.values().filter(|other| other.uid != db.uid);
    for other in others {
        let uid = &other.spec.keeper_uid;
        let is_before = !is_primary(other) && (is_primary(db) || other.uid < db.uid);
        let is_deposed = other.spec.role == Some(Role::Primary) && !is_primary(other);
        let is_alive = data
            .keepers
            .get(uid)
            .is_some_and(|keeper| keeper.status.healthy);
        let is_made = other.status.current_generation != Generation::NONE;
        if !is_alive || is_deposed || !is_made {
            continue;
        }
        let info = peers.iter().find(|info| info.uid == *uid);
        if let Some(why) = info.and_then(|info| is_about(info, other, is_before)) {
            return Some(format!("keeper {uid}: {why}"));
        }
    }
    None
}

/// What another instance is about that this one has to wait for.
fn is_about(info: &KeeperInfo, db: &Db, is_before: bool) -> Option<&'static str> {
    let state = info
        .postgres_state
        .as_ref()
        .filter(|state| state.uid == db.uid)?;
    let is_up_to_date = state.generation == db.generation;
    // The Go program's keepers say no more than whether they are well.
    let instance = state.instance.as_ref();
    if instance.is_some_and(|instance| instance.condition == Some(Condition::Stopping)) {
        return Some("its instance is restarting");
    }
    if !state.healthy {
        return is_up_to_date.then_some("its instance is not well");
    }
    let waits = instance.is_some_and(|instance| !instance.pending_restart.is_empty());
    (is_before && (waits || !is_up_to_date)).then_some("its instance is to restart first")
}
