//! The next step of a keeper: the whole policy, on one screen.

mod access;
mod existing;
mod external;
mod init;
mod parameters;
mod pitr;
mod primary;
pub(super) mod restart;
mod resync;
mod rewind;
mod slots;
mod standby;
mod step;
mod unusable;

use std::collections::BTreeMap;

pub use access::{SCRAM, lets_users_in};
pub(crate) use external::{conninfo, parted};
pub use parameters::{is_managed, synchronous_standby_names};
pub(crate) use parameters::{is_worth_a_restart, reported};
pub use step::{Follow, Patience, Start, Step, Wanted};
pub(crate) use unusable::{MOST_FAILED_STARTS, lacks_wal, unusable};

use super::facts::{Content, DbState, Facts, Health, Observation};
use super::sync::SyncTracker;
use super::{Document, Settings};
use crate::model::{ClusterSpec, Db, DbUid, EffectiveSpec, Generation, InitMode, Role};
use crate::reason::Reason;

/// What a keeper does next.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The step; none: nothing is to be done now.
    pub step: Option<Step>,
    /// Why, or what is waited for.
    pub reasons: Vec<Reason>,
    /// Whether all is as the document says.
    pub settled: bool,
}

/// All that decisions read.
struct Situation<'a> {
    settings: &'a Settings,
    facts: &'a Facts,
    document: &'a Document,
    sync: &'a SyncTracker,
    spec: EffectiveSpec,
    /// Whether the document knows this start of the keeper (the boot rule).
    admitted: bool,
}

impl Situation<'_> {
    /// Whether the document was read after the instance last was writable: the only word on which it
    /// may become so again (I8).
    fn is_word_fresh(&self) -> bool {
        self.document.sent_at > self.facts.writable_until
    }
}

/// Decides the next step.
pub fn decide(
    settings: &Settings,
    facts: &Facts,
    document: &Document,
    sync: &SyncTracker,
) -> Decision {
    let data = &document.data;
    let Some(keeper) = data.keepers.get(&settings.uid) else {
        let text =
            "this keeper is not among the cluster's keepers yet: leaving the data as they are";
        return wait(Reason::info("not-a-member", text));
    };
    let spec = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.as_ref());
    let situation = Situation {
        settings,
        facts,
        document,
        sync,
        spec: spec.map_or_else(
            || ClusterSpec::default().effective(),
            ClusterSpec::effective,
        ),
        admitted: keeper.status.boot_uuid == settings.boot_uuid,
    };
    if facts.process == super::facts::Process::Leftovers {
        return act(Step::KillAll, Vec::new());
    }
    let assigned = data.db_of(&settings.uid);
    if let Some(state) = identified(facts, assigned) {
        return act(Step::SaveState(state), Vec::new());
    }
    match assigned {
        None => without_db(&situation),
        Some(db) if holds(facts, &db.uid) => serve(&situation, db),
        Some(db) => make(&situation, db),
    }
}

fn act(step: Step, reasons: Vec<Reason>) -> Decision {
    Decision {
        step: Some(step),
        reasons,
        settled: false,
    }
}

fn wait(reason: Reason) -> Decision {
    Decision {
        step: None,
        reasons: vec![reason],
        settled: false,
    }
}

/// Nothing is left to do.
const fn settled(reasons: Vec<Reason>) -> Decision {
    Decision {
        step: None,
        reasons,
        settled: true,
    }
}

/// What the instance says; or why it says nothing, when that is to be told.
fn listen<'a>(situation: &Situation<'a>) -> Result<&'a Observation, Option<Reason>> {
    let waiting = |reason| Err(Some(reason));
    match &situation.facts.health {
        // It was seen before it was changed: the next look is on its way.
        Health::Running(_) if !situation.facts.is_health_fresh => Err(None),
        Health::Running(observation) => Ok(observation),
        Health::Saturated(_) => waiting(Reason::warn(
            "saturated",
            "the instance has no connection left for the keeper",
        )),
        Health::Unknown | Health::Starting(_) => waiting(Reason::info(
            "starting",
            "waiting for the instance to accept connections",
        )),
        Health::Silent(why) => {
            waiting(Reason::warn("silent", "the instance does not answer").with("error", why))
        }
    }
}

/// Waits until the instance says something.
fn until_it_speaks(reason: Option<Reason>) -> Decision {
    Decision {
        step: None,
        reasons: reason.into_iter().collect(),
        settled: false,
    }
}

/// Whether PGDATA holds this db, whole.
fn holds(facts: &Facts, db: &DbUid) -> bool {
    facts.disk.content == Content::Cluster
        && facts
            .disk
            .state
            .as_ref()
            .is_some_and(|state| state.uid == *db && !state.initializing)
}

/// What `dbstate` is to say when PGDATA itself says that it holds another db: a crash between the
/// swap of the directories and the note of it, or the making of another db that was called off. While
/// a new db is being made beside them, they are what is to be replaced.
fn identified(facts: &Facts, assigned: Option<&Db>) -> Option<DbState> {
    let identity = facts.disk.identity.as_ref()?;
    let noted = facts.disk.state.as_ref().is_some_and(|state| {
        // A keeper of the Go program may have copied the note along with its source's data, and notes
        // only in dbstate what they are.
        let is_assigned = assigned.is_some_and(|db| db.uid == state.uid);
        state.uid == *identity || is_assigned
    });
    if noted || facts.disk.content != Content::Cluster {
        return None;
    }
    Some(DbState {
        uid: identity.clone(),
        ..DbState::default()
    })
}

fn without_db(situation: &Situation<'_>) -> Decision {
    if situation.facts.process.is_running() {
        let why = "no db is assigned to this keeper".to_owned();
        let patience = Patience::Short;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    wait(Reason::info("no-db", "no db is assigned to this keeper"))
}

/// Runs a db whose data are here.
fn serve(situation: &Situation<'_>, db: &Db) -> Decision {
    let is_clusters = situation
        .document
        .data
        .primary()
        .is_some_and(|p| p.uid == db.uid);
    match &db.spec.role {
        Some(Role::Standby) if !external::follows_outside(db) => standby::serve(situation, db),
        Some(Role::Primary | Role::Standby) if !is_clusters => deposed(situation, db),
        Some(Role::Primary) => primary::serve(situation, db),
        Some(Role::Standby) => external::serve(situation, db),
        Some(Role::Unknown(_)) | None => {
            let text = "the db's role is not known to this version: leaving the instance as it is";
            wait(Reason::error("unknown-role", text).with("db", &db.uid))
        }
    }
}

/// Another db is the primary now. This one must accept nothing any more, not even from clients that
/// go round the proxies.
fn deposed(situation: &Situation<'_>, db: &Db) -> Decision {
    if situation.facts.process.is_running() {
        let why = "another db is the primary now".to_owned();
        let reason = Reason::warn("deposed", "this db is not the primary any more");
        let patience = Patience::Short;
        return act(
            Step::Stop { why, patience },
            vec![reason.with("db", &db.uid)],
        );
    }
    let text = "this db is not the primary any more: waiting to be given a new one";
    wait(Reason::info("deposed", text).with("db", &db.uid))
}

/// Makes the data of a db that are not here.
fn make(situation: &Situation<'_>, db: &Db) -> Decision {
    if !situation.admitted {
        return wait(not_admitted());
    }
    let mode = db.spec.init_mode.as_ref();
    match mode {
        Some(InitMode::New) => init::make(situation, db),
        Some(InitMode::Existing) => existing::make(situation, db),
        Some(InitMode::Pitr) => pitr::make(situation, db),
        Some(InitMode::Resync) => resync::make(situation, db),
        Some(InitMode::None) | None => {
            external::make_again(situation, db).unwrap_or_else(|| unusable::refuse(situation, db))
        }
        Some(mode @ InitMode::Unknown(_)) => {
            let text = "this init mode is not supported by this version: nothing is touched";
            wait(Reason::error("unsupported-init-mode", text).with("initMode", mode))
        }
    }
}

fn reading() -> Reason {
    Reason::debug("reading", "reading the cluster data before starting")
}

fn not_admitted() -> Reason {
    let text = "waiting for the sentinel to know this start of the keeper";
    Reason::info("not-admitted", text)
}

/// The state to write down when the db has come to its present generation, if it is not yet.
fn converged(facts: &Facts, db: &Db) -> Option<Step> {
    let state = facts.disk.state.clone().unwrap_or_default();
    let noted = noted(&state, db);
    (noted != state).then_some(Step::SaveState(noted))
}

/// The state of a db that has come to its present generation.
fn noted(state: &DbState, db: &Db) -> DbState {
    // The parameters of a new instance are told until they are in the spec.
    let is_new = db.spec.init_mode == Some(InitMode::New);
    let init_parameters = if is_new {
        state.init_parameters.clone()
    } else {
        BTreeMap::new()
    };
    DbState {
        generation: db.generation,
        init_parameters,
        ..state.clone()
    }
}

/// The generation of a db that was just made.
const fn fresh(uid: DbUid) -> DbState {
    DbState {
        uid,
        generation: Generation::NONE,
        initializing: false,
        init_parameters: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, Db, DbState, Generation, InitMode, noted};

    #[test]
    fn what_initdb_chose_is_noted_until_it_was_taken_over() {
        let chosen = BTreeMap::from([("lc_messages".to_owned(), "C".to_owned())]);
        let state = DbState {
            uid: "d1".into(),
            generation: Generation(1),
            init_parameters: chosen.clone(),
            ..DbState::default()
        };
        let mut db = Db {
            generation: Generation(2),
            ..Db::default()
        };
        for (mode, expected) in [(InitMode::New, chosen), (InitMode::None, BTreeMap::new())] {
            db.spec.init_mode = Some(mode);
            let noted = noted(&state, &db);
            assert_eq!(noted.generation, Generation(2));
            assert_eq!(noted.init_parameters, expected);
        }
    }
}
