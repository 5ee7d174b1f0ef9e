//! The beginning of a cluster: its first db, made on one of the keepers.

use super::{Convergence, Draft};
use crate::model::spec::ClusterInitMode;
use crate::model::{Db, DbSpec, Generation, InitMode, KeeperUid, List, Phase, Role};
use crate::reason::Reason;

/// Makes the first db, waits for it, and lets the cluster begin.
pub(super) fn decide(draft: &mut Draft<'_>) {
    if !can_initialise(draft) {
        return;
    }
    match draft.primary().cloned() {
        None => choose(draft),
        Some(db) => match draft.convergence(&db) {
            Convergence::Converged if db.status.healthy => begin(draft, &db),
            Convergence::Failed => {
                let text = "the first db was not initialised within initTimeout";
                give_up(draft, &db, text);
            }
            Convergence::Converged | Convergence::Converging => {
                if draft.is_keeper_healthy(&db.spec.keeper_uid) {
                    let text = "waiting for the first db to be initialised";
                    let reason = Reason::info("initialising", text).with("db", &db.uid);
                    draft.because(reason.with("keeper", &db.spec.keeper_uid));
                } else {
                    give_up(draft, &db, "the keeper of the first db failed");
                }
            }
        },
    }
}

/// Whether this version can initialise as the spec asks.
fn can_initialise(draft: &mut Draft<'_>) -> bool {
    let mode = draft.spec.init_mode.clone();
    if draft.follows_outside() {
        let text = "standby clusters are not supported by this version: nothing is initialised";
        draft.because(Reason::error("unsupported-role", text));
        return false;
    }
    match mode {
        ClusterInitMode::New => true,
        ClusterInitMode::Existing | ClusterInitMode::Pitr | ClusterInitMode::Unknown(_) => {
            let text = "this initMode is not supported by this version: nothing is initialised";
            draft.because(Reason::error("unsupported-init-mode", text).with("initMode", mode));
            false
        }
    }
}

/// The keeper with the smallest uid among those that may run a primary (scenario A12); one on which
/// it was given up before only when there is no other.
fn choose(draft: &mut Draft<'_>) {
    let mut able: Vec<_> = draft
        .next
        .keepers
        .values()
        .filter(|keeper| keeper.status.healthy && keeper.status.may_be_primary())
        .filter(|keeper| draft.is_fresh(&keeper.uid) && draft.next.db_of(&keeper.uid).is_none())
        .map(|keeper| (draft.view.gave_up.contains(&keeper.uid), keeper.uid.clone()))
        .collect();
    able.sort();
    let keeper = able.into_iter().next().map(|(_, uid)| uid);
    let Some(keeper) = keeper else {
        let text = "waiting for a keeper that may run the primary";
        draft.because(Reason::info("no-keeper", text).with("keepers", draft.next.keepers.len()));
        return;
    };
    let db = first_db(draft, keeper);
    let text = "initialising the cluster on a keeper";
    let reason = Reason::info("initialise", text).with("keeper", &db.spec.keeper_uid);
    draft.because(reason.with("db", &db.uid));
    draft.cluster().status.phase = Some(Phase::Initializing);
    draft.cluster().status.master = Some(db.uid.clone());
    draft.next.dbs.insert(db.uid.clone(), db);
}

fn first_db(draft: &mut Draft<'_>, keeper: KeeperUid) -> Db {
    let spec = DbSpec {
        keeper_uid: keeper,
        init_mode: Some(InitMode::New),
        new_config: draft.spec.new_config.clone(),
        role: Some(Role::Primary),
        followers: List(Some(Vec::new())),
        include_previous_config: draft.spec.merge_pg_parameters,
        ..DbSpec::default()
    };
    Db {
        uid: draft.new_db_uid(),
        generation: Generation::FIRST,
        spec,
        ..Db::default()
    }
}

/// The first db is there: take its parameters into the spec, and go on as a normal cluster.
fn begin(draft: &mut Draft<'_>, db: &Db) {
    if draft.spec.merge_pg_parameters {
        draft
            .spec
            .pg_parameters
            .clone_from(&db.status.pg_parameters);
        if let Some(spec) = draft.cluster().spec.as_mut() {
            spec.pg_parameters.clone_from(&db.status.pg_parameters);
        }
    }
    draft.edit_db(&db.uid, |spec| {
        spec.init_mode = Some(InitMode::None);
        spec.include_previous_config = false;
    });
    draft.cluster().status.phase = Some(Phase::Normal);
    let text = "the cluster is initialised";
    let reason = Reason::info("initialised", text).with("db", &db.uid);
    draft.because(reason.with("keeper", &db.spec.keeper_uid));
}

/// The first db did not come to be; it held nothing yet, so another keeper may try.
fn give_up(draft: &mut Draft<'_>, db: &Db, text: &str) {
    draft.next.dbs.remove(&db.uid);
    draft.cluster().status.master = None;
    let reason = Reason::warn("initialisation-failed", text).with("db", &db.uid);
    draft.because(reason.with("keeper", &db.spec.keeper_uid));
}
