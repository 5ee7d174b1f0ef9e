//! Running a standby.

use super::super::facts::Health;
use super::{
    Decision, Patience, Situation, Step, act, converged, listen, not_admitted, parameters, restart,
    resync, settled, slots, until_it_speaks, wait,
};
use crate::model::{Db, FollowType};
use crate::reason::Reason;

/// The last major version whose standbys must restart to follow another server (PostgreSQL 13
/// release notes: `primary_conninfo` changes by reload).
const RESTART_TO_FOLLOW: i64 = 12;

/// The next step of a standby.
pub(super) fn serve(situation: &Situation<'_>, db: &Db) -> Decision {
    if !situation.admitted {
        return wait(not_admitted());
    }
    let facts = situation.facts;
    let follow = db.spec.follow_config.as_ref();
    if follow.and_then(|follow| follow.follow_type.as_ref()) != Some(&FollowType::Internal) {
        let text = "what this standby is to follow is not known to this version";
        return wait(Reason::error("unsupported-follow", text).with("db", &db.uid));
    }
    let source = follow.and_then(|follow| situation.document.data.dbs.get(&follow.db_uid));
    let Some(source) = source.filter(|source| !source.status.listen_address.is_empty()) else {
        return wait(Reason::info(
            "no-source",
            "the address of the db to follow is not known",
        ));
    };
    if let Some(reason) = of_later_history(situation, db, source) {
        return wait(reason);
    }
    let wanted = parameters::wanted_standby(situation, db, resync::follow(db, source));
    let applied = facts.applied.as_ref();
    let running = facts.process.is_running();
    if running
        && situation.settings.postgres_version.major <= RESTART_TO_FOLLOW
        && applied.is_some_and(|applied| applied.follow != wanted.follow)
    {
        let why = "this version of PostgreSQL follows another server only after a restart";
        return act(
            Step::Stop {
                why: why.to_owned(),
                patience: Patience::Long,
            },
            Vec::new(),
        );
    }
    if applied != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    if !running {
        return act(Step::Start { db: db.uid.clone() }, Vec::new());
    }
    settle(situation, db, source)
}

/// Whether the cluster data went back to before this instance was the primary: its keeper has carried out
/// newer ones, and its timeline is later than that of the primary they name. It is left as it is: as a
/// standby it could not follow, and would lose what tells that it was more.
fn of_later_history(situation: &Situation<'_>, db: &Db, source: &Db) -> Option<Reason> {
    let facts = situation.facts;
    let went_back = facts.disk.state.as_ref()?.generation > db.generation;
    let timeline = match &facts.health {
        Health::Running(seen) | Health::Saturated(seen) => seen.timeline,
        Health::Unknown | Health::Starting(_) | Health::Silent(_) => {
            facts.disk.control.as_ref()?.timeline
        }
    };
    if !went_back || timeline <= source.status.timeline_id {
        return None;
    }
    let text = "the cluster data are from before this instance's timeline began: leaving it as it is, \
                until an operator chooses between it and the primary named there";
    let reason = Reason::error("later-history", text).with("db", &db.uid);
    Some(
        reason
            .with("timeline", timeline)
            .with("primary", &source.uid),
    )
}

fn settle(situation: &Situation<'_>, db: &Db, source: &Db) -> Decision {
    let facts = situation.facts;
    let observation = match listen(situation) {
        Ok(observation) => observation,
        Err(why) => return until_it_speaks(why),
    };
    if !observation.in_recovery {
        return promoted_by_hand(db);
    }
    let mut reasons = Vec::new();
    if let Some(step) = restart::due(situation, db, observation, &mut reasons) {
        return act(step, reasons);
    }
    if let Some(step) = converged(facts, db) {
        return act(step, reasons);
    }
    // The copy is proven by running: what it replaced may go.
    if facts.disk.beside.is_some() && observation.streams_from.is_some() {
        return act(Step::Discard, reasons);
    }
    // Last: nothing that others wait for depends on them.
    if let Some(step) = slots::of_standby(situation, db, source, observation) {
        return act(step, reasons);
    }
    settled(reasons)
}

/// Somebody promoted it. Its new timeline tells the sentinel, which has it copied.
pub(super) fn promoted_by_hand(db: &Db) -> Decision {
    let text = "the instance is writable and is to be a standby: its history left the cluster's";
    wait(Reason::error("promoted-by-hand", text).with("db", &db.uid))
}
