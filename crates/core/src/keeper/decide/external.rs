//! Running the first instance of a standby cluster: itself a standby, of a server outside, which the
//! other members of the cluster follow.

use super::{
    Decision, Patience, Situation, Step, act, converged, listen, not_admitted, parameters, restart,
    settled, slots, standby, until_it_speaks, wait,
};
use crate::model::{Db, FollowType, Role};
use crate::reason::Reason;

/// The last major version that takes another source only at a start (PostgreSQL 13 release notes:
/// `primary_conninfo` changes by reload).
const RESTART_TO_FOLLOW: i64 = 12;

const CONNINFO: &str = "primary_conninfo";

/// Whether a db is to follow a server outside the cluster.
pub(super) fn follows_outside(db: &Db) -> bool {
    let follow = db.spec.follow_config.as_ref();
    db.spec.role == Some(Role::Standby)
        && follow.is_some_and(|follow| follow.follow_type == Some(FollowType::External))
}

/// The next step of the first instance of a standby cluster.
pub(super) fn serve(situation: &Situation<'_>, db: &Db) -> Decision {
    if !situation.admitted {
        return wait(not_admitted());
    }
    let facts = situation.facts;
    let follow = db.spec.follow_config.clone().unwrap_or_default();
    let wanted = parameters::wanted_external(situation, db, &follow);
    if !wanted.recovery.contains_key(CONNINFO)
        && !wanted.recovery.contains_key("restore_command")
        && !wanted.parameters.contains_key("restore_command")
    {
        let text = "the standby cluster has no source: standbySettings.primaryConninfo or \
                    archiveRecoverySettings.restoreCommand has to name one";
        return wait(Reason::error("no-source", text).with("db", &db.uid));
    }
    let running = facts.process.is_running();
    let applied = facts.applied.as_ref();
    if running
        && situation.settings.postgres_version.major <= RESTART_TO_FOLLOW
        && applied.is_some_and(|applied| applied.recovery != wanted.recovery)
    {
        let why = "this version of PostgreSQL takes another source only at a start".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    if applied != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    if !running {
        return act(Step::Start { db: db.uid.clone() }, Vec::new());
    }
    settle(situation, db)
}

fn settle(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    let observation = match listen(situation) {
        Ok(observation) => observation,
        Err(why) => return until_it_speaks(why),
    };
    if !observation.in_recovery {
        return standby::promoted_by_hand(db);
    }
    let mut reasons = Vec::new();
    if let Some(step) = restart::due(situation, db, observation, &mut reasons) {
        return act(step, reasons);
    }
    let conninfo = facts
        .applied
        .as_ref()
        .and_then(|applied| applied.recovery.get(CONNINFO));
    if observation.streams_from.is_none() && conninfo.is_some() {
        let text = "the first instance of the standby cluster does not stream from its source: \
                    PostgreSQL's own log says why. Where their histories have parted it has to be \
                    restored anew (stolonctl init)";
        reasons.push(Reason::warn("source-not-streaming", text).with("db", &db.uid));
    }
    // Those who follow it copy it through their slots.
    if let Some(step) = slots::of_source(situation, db, observation) {
        return act(step, reasons);
    }
    if let Some(step) = converged(facts, db) {
        return act(step, reasons);
    }
    // The data are proven by running: what they replaced may go.
    if facts.disk.beside.is_some() {
        return act(Step::Discard, reasons);
    }
    settled(reasons)
}
