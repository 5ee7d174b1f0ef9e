//! Restarts of a running instance: because an operator asked, or because parameters need one and
//! automaticPgRestart is on.
//!
//! One instance after the other, standbys before the primary (scenario C12): a standby must not have
//! less of some parameters than its primary, so where they are raised it goes first, and where they are
//! lowered it keeps what its primary has until that one has restarted.

use super::super::facts::{Asked, Observation};
use super::super::requests::restart_of;
use super::{Patience, Situation, Step};
use crate::model::{Condition, Db, InstanceReport, KeeperInfo, Role};
use crate::reason::Reason;

/// The stop that a restart begins with, when it is this instance's turn; the reasons say what waits.
pub(super) fn due(
    situation: &Situation<'_>,
    db: &Db,
    observation: &Observation,
    reasons: &mut Vec<Reason>,
) -> Option<Step> {
    let stop = |why: String| Step::Stop {
        why,
        patience: Patience::AfterCheckpoint,
    };
    let asked = situation.facts.asked.as_ref();
    let keeper = &situation.settings.uid;
    if let Some((request, begun)) = asked.and_then(|asked| restart_of(asked, keeper))
        && begun.postmaster == observation.postmaster
    {
        let text = "restarting the instance, as an operator asked";
        reasons.push(Reason::info("restart-asked", text).with("request", request));
        return Some(stop("an operator asked for a restart".to_owned()));
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
    match in_the_way(situation, db, asked) {
        None => Some(stop(
            "parameters need a restart, and automaticPgRestart is on".to_owned(),
        )),
        Some(why) => {
            let text = format!("the restart waits for its turn: {why}");
            reasons.push(Reason::info("restart-waits", text));
            None
        }
    }
}

/// Whether others are to be asked what they are about: it depends on them when this one restarts.
pub(in super::super) fn needs_peers(observation: &Observation, automatic: bool) -> bool {
    automatic && !observation.pending_restart.is_empty()
}

/// Who is before this instance, or on their way; none: it is its turn. Dead keepers are passed over. One
/// that lives and whose instance is not well stops the others: what keeps it from starting may be the
/// very parameter that waits.
fn in_the_way(situation: &Situation<'_>, db: &Db, asked: Option<&Asked>) -> Option<String> {
    let Some(peers) = asked.and_then(|asked| asked.peers.as_ref()) else {
        return Some("what the others are about is not known yet".to_owned());
    };
    let data = &situation.document.data;
    let is_primary = |db: &Db| data.primary().is_some_and(|primary| primary.uid == db.uid);
    let others = data.dbs.values().filter(|other| other.uid != db.uid);
    for other in others {
        let Some(keeper) = data.keepers.get(&other.spec.keeper_uid) else {
            continue;
        };
        let is_before = !is_primary(other) && (is_primary(db) || other.uid < db.uid);
        let is_deposed = other.spec.role == Some(Role::Primary) && !is_primary(other);
        if !keeper.status.healthy || is_deposed {
            continue;
        }
        let info = peers.iter().find(|info| info.uid == other.spec.keeper_uid);
        if let Some(why) = info.map_or(Some("it says nothing"), |info| {
            is_about(info, other, is_before)
        }) {
            return Some(format!("keeper {}: {why}", other.spec.keeper_uid));
        }
    }
    None
}

/// What another instance is about that this one has to wait for.
fn is_about(info: &KeeperInfo, db: &Db, is_before: bool) -> Option<&'static str> {
    let state = info.postgres_state.as_ref();
    let Some(state) = state.filter(|state| state.uid == db.uid) else {
        return Some("its instance is being made");
    };
    if !state.healthy {
        return Some("its instance is not well");
    }
    // The Go program's keepers say no more.
    let instance = state.instance.as_ref()?;
    if instance.condition == Some(Condition::Stopping) {
        return Some("its instance is restarting");
    }
    if instance.streaming == Some(false) {
        return Some("its instance does not stream");
    }
    let waits = |instance: &InstanceReport| !instance.pending_restart.is_empty();
    let is_to_restart = state.generation < db.generation || waits(instance);
    (is_before && is_to_restart).then_some("its instance is to restart first")
}
