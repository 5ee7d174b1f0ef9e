//! The first db of a cluster: on which keeper it is made, and what it is to be.

use super::Draft;
use crate::model::spec::ClusterInitMode;
use crate::model::{Db, DbSpec, Generation, InitMode, KeeperUid, List, Phase};
use crate::reason::Reason;

/// Chooses a keeper and gives it the first db, when there is a keeper to choose.
pub(super) fn choose(draft: &mut Draft<'_>) {
    let keeper = match draft.spec.init_mode {
        ClusterInitMode::Existing => named(draft),
        ClusterInitMode::New | ClusterInitMode::Pitr | ClusterInitMode::Unknown(_) => any(draft),
    };
    let keeper = match keeper {
        Ok(keeper) => keeper,
        Err(reason) => return draft.because(reason),
    };
    let db = first_db(draft, keeper);
    let text = match draft.spec.init_mode {
        ClusterInitMode::Existing => "taking over the data of a keeper as the cluster's",
        ClusterInitMode::New | ClusterInitMode::Pitr | ClusterInitMode::Unknown(_) => {
            "initialising the cluster on a keeper"
        }
    };
    let reason = Reason::info("initialise", text).with("keeper", &db.spec.keeper_uid);
    draft.because(reason.with("db", &db.uid));
    draft.cluster().status.phase = Some(Phase::Initializing);
    draft.cluster().status.master = Some(db.uid.clone());
    draft.next.dbs.insert(db.uid.clone(), db);
}

/// The keeper with the smallest uid among those that may run a primary (scenario A12); one on which
/// it was given up before only when there is no other.
fn any(draft: &Draft<'_>) -> Result<KeeperUid, Reason> {
    let mut able: Vec<_> = draft
        .next
        .keepers
        .values()
        .filter(|keeper| keeper.status.healthy && keeper.status.may_be_primary())
        .filter(|keeper| draft.is_fresh(&keeper.uid) && draft.next.db_of(&keeper.uid).is_none())
        .map(|keeper| (draft.view.gave_up.contains(&keeper.uid), keeper.uid.clone()))
        .collect();
    able.sort();
    able.into_iter().next().map(|(_, uid)| uid).ok_or_else(|| {
        let text = "waiting for a keeper that may run the primary";
        Reason::info("no-keeper", text).with("keepers", draft.next.keepers.len())
    })
}

/// The keeper that the operator says has the data. Nobody else has them, so it is waited for.
fn named(draft: &Draft<'_>) -> Result<KeeperUid, Reason> {
    let config = draft.spec.existing_config.as_ref();
    let uid = config.map_or_else(KeeperUid::default, |config| config.keeper_uid.clone());
    let Some(keeper) = draft.next.keepers.get(&uid) else {
        let text = "waiting for the keeper that has the data (existingConfig.keeperUID): it was \
                    never heard";
        return Err(Reason::warn("keeper-awaited", text).with("keeper", uid));
    };
    if !keeper.status.healthy || !draft.is_fresh(&uid) {
        let text = "waiting for the keeper that has the data (existingConfig.keeperUID): it is \
                    not heard";
        return Err(Reason::warn("keeper-awaited", text).with("keeper", uid));
    }
    if !keeper.status.may_be_primary() {
        let text = "the keeper that has the data (existingConfig.keeperUID) may not run the \
                    primary: start it without --can-be-master=false";
        return Err(Reason::error("keeper-not-able", text).with("keeper", uid));
    }
    Ok(uid)
}

fn first_db(draft: &mut Draft<'_>, keeper: KeeperUid) -> Db {
    let spec = &draft.spec;
    let (role, follow_config) = super::role::of_source(spec);
    let init_mode = match &spec.init_mode {
        ClusterInitMode::New => InitMode::New,
        ClusterInitMode::Existing => InitMode::Existing,
        ClusterInitMode::Pitr => InitMode::Pitr,
        ClusterInitMode::Unknown(mode) => InitMode::Unknown(mode.clone()),
    };
    let spec = DbSpec {
        keeper_uid: keeper,
        new_config: spec
            .new_config
            .clone()
            .filter(|_| init_mode == InitMode::New),
        pitr_config: spec
            .pitr_config
            .clone()
            .filter(|_| init_mode == InitMode::Pitr),
        init_mode: Some(init_mode),
        role: Some(role),
        follow_config,
        followers: List(Some(Vec::new())),
        include_previous_config: spec.merge_pg_parameters,
        ..DbSpec::default()
    };
    Db {
        uid: draft.new_db_uid(),
        generation: Generation::FIRST,
        spec,
        ..Db::default()
    }
}
