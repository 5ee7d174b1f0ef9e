//! A new db: `initdb` beside PGDATA, swapped in, started, given its roles.

use super::super::facts::{Content, DbState};
use super::{
    Decision, Patience, Situation, Step, act, listen, parameters, reading, until_it_speaks, wait,
};
use crate::model::{Db, Generation};
use crate::reason::Reason;

/// The next step towards a new db.
pub(super) fn make(situation: &Situation<'_>, db: &Db) -> Decision {
    let initialize = Step::Initialize {
        db: db.uid.clone(),
        config: db.spec.new_config.clone().unwrap_or_default(),
    };
    let text = "initializing a new database cluster";
    let beginning = Reason::info("initialising", text).with("db", &db.uid);
    make_beside(situation, db, beginning, initialize, set_up)
}

/// The next step towards data that are made beside PGDATA. What is on disk says how far it is:
/// `dbstate` first, then the finished cluster beside, then the same in place, then what `in_place`
/// does with it.
pub(super) fn make_beside(
    situation: &Situation<'_>,
    db: &Db,
    beginning: Reason,
    making: Step,
    in_place: impl FnOnce(&Situation<'_>, &Db) -> Decision,
) -> Decision {
    let facts = situation.facts;
    let begun = facts
        .disk
        .state
        .as_ref()
        .is_some_and(|s| s.uid == db.uid && s.initializing);
    let is_in_place =
        facts.disk.content == Content::Cluster && facts.disk.identity.as_ref() == Some(&db.uid);
    if facts.process.is_running() && !(begun && is_in_place) {
        let why = "a new db is to take its place".to_owned();
        let patience = Patience::Short;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    if !begun {
        let state = DbState {
            initializing: true,
            ..super::fresh(db.uid.clone())
        };
        return act(Step::SaveState(state), vec![beginning]);
    }
    if is_in_place {
        return in_place(situation, db);
    }
    if facts.disk.beside.as_ref() == Some(&db.uid) {
        return act(Step::Swap { db: db.uid.clone() }, Vec::new());
    }
    act(making, Vec::new())
}

/// Starts the new instance, makes its roles, and notes its parameters.
fn set_up(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    let wanted = parameters::wanted_primary(situation, db);
    if facts.applied.as_ref() != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    if !facts.process.is_running() && !situation.is_word_fresh() {
        return wait(reading());
    }
    if !facts.process.is_running() {
        return act(Step::Start { db: db.uid.clone() }, Vec::new());
    }
    let observation = match listen(situation) {
        Ok(observation) => observation,
        Err(why) => return until_it_speaks(why),
    };
    if !facts.roles_set_up {
        return act(Step::SetUpRoles, Vec::new());
    }
    let state = DbState {
        generation: Generation::NONE,
        init_parameters: super::reported(&observation.parameters, &db.spec.pg_parameters),
        ..super::fresh(db.uid.clone())
    };
    act(Step::SaveState(state), Vec::new())
}
