//! Running the primary: started only on a fresh word, configured before it is promoted.

use super::super::facts::Observation;
use super::{
    Decision, Situation, Step, access, act, converged, existing, listen, not_admitted, parameters,
    reading, restart, settled, slots, until_it_speaks, wait,
};
use crate::model::{Db, Role, TimelineId};
use crate::reason::Reason;

/// The next step of the primary.
pub(super) fn serve(situation: &Situation<'_>, db: &Db) -> Decision {
    if !situation.admitted {
        return wait(not_admitted());
    }
    if !situation.facts.process.is_running() {
        return start(situation, db);
    }
    let wanted = parameters::wanted_primary(situation, db);
    // Needs no SQL, and may be what frees a saturated instance (scenario B1).
    if situation.facts.applied.as_ref() != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    let observation = match listen(situation) {
        Ok(observation) => observation,
        Err(why) => return until_it_speaks(why),
    };
    if !observation.in_recovery {
        return settle(situation, db, observation);
    }
    if observation.synchronous_standby_names != names(db) {
        return wait(configuring());
    }
    let reason = Reason::info("promoting", "promoting to primary").with("db", &db.uid);
    let slots = slots::missing(situation, db, observation);
    let taken = taken_timelines(situation, db, observation);
    act(Step::Promote { slots, taken }, vec![reason])
}

/// As many as can be: a document that makes no sense costs no more.
const MOST_TAKEN: u64 = 100;

/// The timelines above the instance's own that another primary may have begun without this instance
/// knowing of it: two of one number could not be told apart where both begin at the same position.
///
/// As far as others reported, and one for each that was to be promoted and may not have reported that.
/// Of those that are still there the first one was the primary already when the next was elected: a
/// deposed primary's db is deleted when its successor serves.
fn taken_timelines(
    situation: &Situation<'_>,
    db: &Db,
    observation: &Observation,
) -> Vec<TimelineId> {
    let own = observation.timeline.0;
    let others = situation.document.data.dbs.values();
    let others: Vec<&Db> = others.filter(|other| other.uid != db.uid).collect();
    let primaries = others
        .iter()
        .filter(|other| other.spec.role == Some(Role::Primary));
    let unreported = u64::try_from(primaries.count().saturating_sub(1)).unwrap_or(MOST_TAKEN);
    let reported = others.iter().map(|other| other.status.timeline_id.0).max();
    let last = reported.unwrap_or(0).saturating_add(unreported);
    let last = last.min(own.saturating_add(MOST_TAKEN));
    (own.saturating_add(1)..=last).map(TimelineId).collect()
}

fn configuring() -> Reason {
    let text = "waiting for the configuration to be in force";
    Reason::info("configuring", text)
}

fn names(db: &Db) -> String {
    parameters::synchronous_standby_names(&db.spec)
}

/// I8: the word that makes an instance writable is younger than the end of its last writable life.
fn start(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    if !situation.is_word_fresh() {
        return wait(reading());
    }
    match facts.released_at {
        Some(revision) if situation.document.revision <= revision => {
            let text = "the primary is released: waiting for a newer document";
            return wait(Reason::warn("released", text).with("revision", revision));
        }
        Some(_)
            if !situation
                .document
                .data
                .proxy
                .spec
                .successor_db_uid
                .is_empty() =>
        {
            let text = "the primary is to be replaced: it stays released";
            let revision = situation.document.revision;
            return act(
                Step::Release { revision },
                vec![Reason::info("releasing", text)],
            );
        }
        None if facts.starts_failed > 0 && db.spec.synchronous_replication => {
            let text = "the primary does not come back: releasing it, so that a synchronous \
                        standby may take over at once";
            let revision = situation.document.revision;
            return act(
                Step::Release { revision },
                vec![Reason::warn("releasing", text)],
            );
        }
        Some(_) | None => {}
    }
    let wanted = parameters::wanted_primary(situation, db);
    if facts.applied.as_ref() != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    act(Step::Start { db: db.uid.clone() }, Vec::new())
}

fn settle(situation: &Situation<'_>, db: &Db, observation: &Observation) -> Decision {
    let mut reasons: Vec<Reason> = access::stored_for_md5(situation).into_iter().collect();
    if let Some(step) = restart::due(situation, db, observation, &mut reasons) {
        return act(step, reasons);
    }
    if situation.sync.wants_stir() {
        return act(Step::Stir, reasons);
    }
    if existing::needs_roles(situation, db) {
        return act(Step::SetUpRoles, reasons);
    }
    if let Some(step) = slots::of_source(situation, db, observation) {
        return act(step, reasons);
    }
    // The generation tells others that the list is in force.
    if observation.synchronous_standby_names != names(db) {
        reasons.push(configuring());
        return Decision {
            settled: false,
            ..settled(reasons)
        };
    }
    if let Some(step) = converged(situation.facts, db) {
        return act(step, reasons);
    }
    // It is open: what it replaced may go.
    if situation.facts.disk.beside.is_some() {
        return act(Step::Discard, reasons);
    }
    settled(reasons)
}
