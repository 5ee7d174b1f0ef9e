//! What a decision was made from, with what was seen folded in: the ground the rules stand on.
//!
//! Written anew, and not taken from the decision, so that a mistake there shows here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Step;
use crate::model::spec::ClusterRole;
use crate::model::{
    ClusterData, Db, DbUid, EffectiveSpec, FollowType, Generation, InitMode, KeeperUid, List,
    Phase, PostgresState, ProxyUid, Role,
};
use crate::sentinel::observe::{fail_after, fresh_within};

/// A decision, and the world it was made in.
pub(super) struct Scene<'a> {
    pub(super) before: &'a ClusterData,
    pub(super) after: &'a ClusterData,
    pub(super) step: Step<'a>,
    pub(super) spec: EffectiveSpec,
    /// The dbs of the document that was read, with what was seen of them since.
    pub(super) dbs: BTreeMap<DbUid, Db>,
    valid: bool,
}

impl<'a> Scene<'a> {
    /// None: there is no cluster to decide about.
    pub(super) fn new(step: Step<'a>) -> Option<Self> {
        let spec = step.before.cluster.as_ref()?.spec.as_ref()?;
        let mut scene = Self {
            before: step.before,
            after: step.after,
            step,
            spec: spec.effective(),
            dbs: BTreeMap::new(),
            valid: spec.validate().is_ok(),
        };
        let dbs = step.before.dbs.iter();
        scene.dbs = dbs.map(|(k, db)| (k.clone(), scene.as_seen(db))).collect();
        Some(scene)
    }

    /// Whether anything may be decided at all.
    pub(super) fn may_decide(&self) -> bool {
        let phase = phase(self.before);
        self.valid && !matches!(phase, Some(Phase::Unknown(_)))
    }

    /// Whether the cluster serves, rather than being made.
    pub(super) fn is_normal(&self) -> bool {
        phase(self.before) == Some(&Phase::Normal)
    }

    pub(super) fn is_standby_cluster(&self) -> bool {
        self.spec.role == ClusterRole::Standby
    }

    pub(super) fn report(&self, db: &DbUid) -> Option<&'a PostgresState> {
        self.step.view.dbs.get(db)?.report.as_ref()
    }

    /// A db with the report about it: the positions of the last healthy one, and as confirmed
    /// members of the set those that were, or that a report of the present generation names.
    fn as_seen(&self, db: &Db) -> Db {
        let mut db = db.clone();
        let report = self.report(&db.uid);
        let mut confirmed: BTreeSet<DbUid> =
            db.status.synchronous_standbys.iter().cloned().collect();
        if let Some(report) = report {
            db.status.current_generation = report.generation;
            if report.healthy {
                db.status.system_id.clone_from(&report.system_id);
                db.status.timeline_id = report.timeline_id;
                db.status.xlog_pos = report.xlog_pos;
                let history = &report.timelines_history;
                db.status.timelines_history.clone_from(history);
                if report.generation == db.generation {
                    confirmed.extend(report.synchronous_standbys.iter().cloned());
                }
            }
        }
        confirmed.retain(|uid| {
            db.spec.synchronous_replication && set(&db.spec.synchronous_standbys).contains(uid)
        });
        db.status.synchronous_standbys = List(Some(confirmed.into_iter().collect()));
        let view = self.step.view.dbs.get(&db.uid);
        let lately = view
            .and_then(|view| view.unhealthy_for)
            .is_some_and(|age| age < fail_after(&self.spec));
        db.status.healthy = lately && self.is_alive(&db.spec.keeper_uid);
        db
    }

    /// Whether a keeper counts as healthy: known, heard within failInterval, not declared failed.
    pub(super) fn is_alive(&self, keeper: &KeeperUid) -> bool {
        let silent_for = self.silence(keeper).unwrap_or_default();
        let heard = silent_for < fail_after(&self.spec);
        match self.before.keepers.get(keeper) {
            Some(keeper) => heard && !keeper.status.force_fail,
            None => heard && self.is_fresh(keeper),
        }
    }

    /// Whether an operator declared a db's keeper failed.
    pub(super) fn is_forced(&self, db: &Db) -> bool {
        let keeper = self.before.keepers.get(&db.spec.keeper_uid);
        keeper.is_some_and(|keeper| keeper.status.force_fail)
    }

    /// Whether a keeper was heard lately.
    pub(super) fn is_fresh(&self, keeper: &KeeperUid) -> bool {
        let view = self.step.view.keepers.get(keeper);
        view.is_some_and(|view| view.info.is_some() && view.silent_for <= fresh_within(&self.spec))
    }

    pub(super) fn silence(&self, keeper: &KeeperUid) -> Option<Duration> {
        let view = self.step.view.keepers.get(keeper)?;
        Some(view.silent_for)
    }

    /// What the keeper says of itself: whether it may run the primary, and a synchronous standby.
    pub(super) fn abilities(&self, keeper: &KeeperUid) -> (bool, bool) {
        let said = self.step.view.keepers.get(keeper);
        let known = self.before.keepers.get(keeper).map(|keeper| &keeper.status);
        let (primary, synchronous) = match said.and_then(|view| view.info.as_ref()) {
            Some(info) => (info.can_be_master, info.can_be_synchronous_replica),
            None => known.map_or((Some(false), Some(false)), |known| {
                (known.can_be_master, known.can_be_synchronous_replica)
            }),
        };
        (primary.unwrap_or(true), synchronous.unwrap_or(true))
    }

    /// The primary of the document that was read, as it is seen.
    pub(super) fn primary(&self) -> Option<&Db> {
        self.dbs.get(&master(self.before)?)
    }

    /// Whether the primary changed.
    pub(super) fn is_elected(&self) -> bool {
        self.is_normal() && master(self.before) != master(self.after)
    }

    /// A proxy through which clients may read from a standby, or that may lead them there as soon as it
    /// comes back: all that may read from standbys, until a document has named this one to be left; from
    /// then on those that live and have not said that they have carried that out.
    pub(super) fn reader_of(&self, standby: &DbUid) -> Option<&'a ProxyUid> {
        let told = &self.before.proxy;
        let to_be_left = told.spec.successor_db_uid == *standby;
        let mut proxies = self.step.view.proxies.iter();
        let reader = proxies.find(|(uid, proxy)| {
            let left = to_be_left && proxy.generation == Some(told.generation);
            let returns = !to_be_left && told.spec.enabled_proxies.contains(uid);
            proxy.reads && !left && (proxy.live || returns)
        });
        reader.map(|(uid, _)| uid)
    }

    /// Whether the primary is good, and remains the primary.
    pub(super) fn is_primary_good(&self) -> bool {
        let stays = self.after.proxy.spec.successor_db_uid.is_empty();
        stays && !self.is_elected() && self.primary().is_some_and(is_good)
    }

    /// Whether a db takes longer than it may to do what it is to do.
    pub(super) fn is_overdue(&self, db: &Db) -> bool {
        let begun = db.status.current_generation != Generation::NONE;
        let spec = &self.spec;
        let limit = match &db.spec.init_mode {
            Some(InitMode::Unknown(_)) => None,
            Some(InitMode::New) if !begun => Some(spec.init_timeout),
            Some(InitMode::Resync) if !begun => spec.sync_timeout,
            Some(InitMode::Existing | InitMode::Pitr) if !begun => None,
            Some(_) | None => Some(spec.convergence_timeout),
        };
        let waited = self
            .step
            .view
            .dbs
            .get(&db.uid)
            .and_then(|view| view.converging_for);
        let there = db.status.current_generation == db.generation;
        !there
            && waited
                .zip(limit)
                .is_some_and(|(waited, limit)| waited > limit)
    }
}

/// Healthy, and doing what the document that was read says.
pub(super) fn is_good(db: &Db) -> bool {
    db.status.healthy && db.status.current_generation == db.generation
}

pub(super) fn phase(data: &ClusterData) -> Option<&Phase> {
    data.cluster.as_ref()?.status.phase.as_ref()
}

pub(super) fn master(data: &ClusterData) -> Option<DbUid> {
    data.cluster.as_ref()?.status.master.clone()
}

/// A standby of a db of this cluster.
pub(super) fn is_standby(db: &Db) -> bool {
    let follow = db.spec.follow_config.as_ref();
    db.spec.role == Some(Role::Standby)
        && follow.is_some_and(|follow| follow.follow_type == Some(FollowType::Internal))
}

/// A standby of a server outside the cluster.
pub(super) fn follows_outside(db: &Db) -> bool {
    let follow = db.spec.follow_config.as_ref();
    db.spec.role == Some(Role::Standby)
        && follow.is_some_and(|follow| follow.follow_type == Some(FollowType::External))
}

pub(super) fn set(list: &List<DbUid>) -> BTreeSet<DbUid> {
    list.iter().cloned().collect()
}
