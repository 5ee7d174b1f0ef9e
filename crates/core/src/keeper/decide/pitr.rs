//! A db that is restored from a backup: by a command of the operator's beside PGDATA, swapped in,
//! recovered once to where they want it (scenarios C8, C9).
//!
//! What is on disk says how far it is. The request for recovery (`recovery.signal`) is written before
//! the restored data are said to be whole, and PostgreSQL removes it when the recovery is finished: a
//! recovery that has begun goes on where it was, and a finished one is not begun again.

use super::super::facts::Observation;
use super::{
    Decision, Patience, Situation, Step, act, init, listen, parameters, reading, until_it_speaks,
    wait,
};
use crate::model::{Db, Role};
use crate::reason::Reason;

/// The next step towards restored data.
pub(super) fn make(situation: &Situation<'_>, db: &Db) -> Decision {
    let config = db.spec.pitr_config.clone().unwrap_or_default();
    let restore = Step::Restore {
        db: db.uid.clone(),
        command: config.data_restore_command,
        standby: is_standby(db),
    };
    let text = "restoring a database cluster from a backup";
    let beginning = Reason::info("restoring", text).with("db", &db.uid);
    init::make_beside(situation, db, beginning, restore, recover)
}

fn is_standby(db: &Db) -> bool {
    db.spec.role == Some(Role::Standby)
}

/// Recovers the restored data, which are in place.
fn recover(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    let running = facts.process.is_running();
    let finished = act(Step::SaveState(super::fresh(db.uid.clone())), Vec::new());
    if is_standby(db) {
        // Its recovery does not end.
        return finished;
    }
    // I8: it ends as a primary, and begins only as the one that is named.
    let primary = situation.document.data.primary();
    if primary.is_none_or(|primary| primary.uid != db.uid) {
        return unnamed(situation, db);
    }
    if !facts.disk.recovery_signal {
        return finished;
    }
    let wanted = parameters::wanted_recovery(situation, db);
    let applied = facts.applied.as_ref();
    if running && applied.is_some_and(|applied| applied.recovery != wanted.recovery) {
        let why = "its recovery is to go elsewhere".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    if applied != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    if !running && !situation.is_word_fresh() {
        return wait(reading());
    }
    if !running {
        let text = "the restored data recover, and are promoted where that ends";
        let reason = Reason::info("recovering", text).with("db", &db.uid);
        return act(Step::Start { db: db.uid.clone() }, vec![reason]);
    }
    // While it runs its own word is newer than what was seen on disk.
    match listen(situation) {
        Ok(Observation {
            in_recovery: true, ..
        }) => wait(Reason::info(
            "replaying",
            "the restored data are consistent and replay WAL",
        )),
        Ok(_) => finished,
        Err(why) => until_it_speaks(why),
    }
}

/// The restored data must not become writable.
fn unnamed(situation: &Situation<'_>, db: &Db) -> Decision {
    if situation.facts.process.is_running() {
        let why = "another db is the primary".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    let text = "the restored data do not recover while another db is the primary";
    wait(Reason::info("not-primary", text).with("db", &db.uid))
}
