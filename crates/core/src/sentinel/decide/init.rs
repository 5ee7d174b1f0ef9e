//! The beginning of a cluster: its first db is made, taken over or restored on one of the keepers.

use super::{Convergence, Draft, first_db};
use crate::model::spec::ClusterInitMode;
use crate::model::{Db, InitMode, Phase};
use crate::reason::Reason;

/// Makes the first db, waits for it, and lets the cluster begin.
pub(super) fn decide(draft: &mut Draft<'_>) {
    if !can_initialise(draft) {
        return;
    }
    match draft.primary().cloned() {
        None => first_db::choose(draft),
        Some(db) => match draft.convergence(&db) {
            Convergence::Converged if db.status.healthy => begin(draft, &db),
            Convergence::Failed => {
                let text = "the first db was not initialised within initTimeout";
                give_up(draft, &db, text);
            }
            Convergence::Converged | Convergence::Converging => wait(draft, &db),
        },
    }
}

/// Waits for the first db, unless its keeper is lost and another one can make it as well.
fn wait(draft: &mut Draft<'_>, db: &Db) {
    let keeper = &db.spec.keeper_uid;
    if db.spec.init_mode == Some(InitMode::Pitr) {
        // A command or a target that is wrong is mended by an update.
        let config = draft.spec.pitr_config.clone();
        draft.edit_db(&db.uid, |spec| spec.pitr_config = config);
    }
    if draft.is_keeper_healthy(keeper) {
        let text = "waiting for the first db to be initialised";
        let reason = Reason::info("initialising", text).with("db", &db.uid);
        return draft.because(reason.with("keeper", keeper));
    }
    let text = match &db.spec.init_mode {
        // The data are there and nowhere else.
        Some(InitMode::Existing) => {
            "the keeper whose data are taken over is not heard: waiting for it"
        }
        // What was restored may have taken hours (scenario C8).
        Some(InitMode::Pitr) if !draft.forced.contains(keeper) => {
            "the keeper that restores the data is not heard: waiting for it (stolonctl failkeeper \
             has another one begin anew)"
        }
        Some(
            InitMode::None
            | InitMode::New
            | InitMode::Pitr
            | InitMode::Resync
            | InitMode::Unknown(_),
        )
        | None => return give_up(draft, db, "the keeper of the first db failed"),
    };
    let reason = Reason::warn("keeper-awaited", text).with("keeper", keeper);
    draft.because(reason.with("db", &db.uid));
}

/// Whether this version can initialise as the spec asks.
fn can_initialise(draft: &mut Draft<'_>) -> bool {
    let mode = draft.spec.init_mode.clone();
    match mode {
        ClusterInitMode::New | ClusterInitMode::Existing | ClusterInitMode::Pitr => true,
        ClusterInitMode::Unknown(_) => {
            let text = "this initMode is not supported by this version: nothing is initialised";
            draft.because(Reason::error("unsupported-init-mode", text).with("initMode", mode));
            false
        }
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
