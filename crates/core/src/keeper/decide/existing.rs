//! A db whose data are here already: those of a lost store's cluster, of the Go program, or made by
//! hand. They are taken over as they are, and nothing is removed.

use super::super::facts::Content;
use super::{Decision, Patience, Situation, Step, act, wait};
use crate::model::{Db, InitMode};
use crate::reason::Reason;

/// The next step towards a db whose data are here.
///
/// `dbstate` never says that its making has begun: a keeper of the Go program that found that note
/// would remove the data.
pub(super) fn make(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    if facts.process.is_running() {
        let why = "its data are to be taken over by another cluster".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    let refused = |text: &str| wait(Reason::error("no-data", text).with("db", &db.uid));
    match facts.disk.content {
        Content::Nothing => {
            return refused(
                "this keeper is to take over its data and has none: put them in place, or name \
                 another keeper (stolonctl init)",
            );
        }
        Content::Broken => {
            return refused(
                "this keeper is to take over its data, and what is in its data directory is not a \
                 whole database cluster: nothing is touched",
            );
        }
        Content::Cluster => {}
    }
    let state = facts.disk.state.as_ref();
    if facts.disk.identity.is_none() && state.is_some_and(|state| state.initializing) {
        return refused(
            "this keeper is to take over its data, and their making was broken off before they \
             were whole: nothing is touched (remove dbstate if they are known to be whole)",
        );
    }
    if facts.disk.identity.as_ref() == Some(&db.uid) {
        // They are taken over; the making of others under this name was noted before.
        return act(Step::SaveState(super::fresh(db.uid.clone())), Vec::new());
    }
    if facts.disk.control.is_none() {
        return refused(
            "this keeper is to take over its data, and pg_controldata cannot read them: nothing \
             is touched",
        );
    }
    if facts.disk.recovery_signal {
        return refused(
            "this keeper is to take over its data, and they are set up for a recovery from an archive \
             (recovery.signal), which would be given up: use initMode pitr, or have PostgreSQL finish \
             it first; nothing is touched",
        );
    }
    let text = "taking over the data that are here";
    let held = state.map(|state| state.uid.clone()).unwrap_or_default();
    let reason = Reason::info("taking-over", text).with("db", &db.uid);
    let step = Step::TakeOver {
        db: db.uid.clone(),
        standby: super::external::follows_outside(db),
    };
    act(step, vec![reason.with("found", held)])
}

/// Whether the roles are to be made in data that came from elsewhere, before it is told that they
/// serve. They may be there; a keeper that was started anew makes them again.
pub(super) fn needs_roles(situation: &Situation<'_>, db: &Db) -> bool {
    match &db.spec.init_mode {
        Some(InitMode::Existing | InitMode::Pitr) => !situation.facts.roles_set_up,
        Some(InitMode::None | InitMode::New | InitMode::Resync | InitMode::Unknown(_)) | None => {
            false
        }
    }
}
