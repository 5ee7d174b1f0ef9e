//! What the cluster should be next: the whole policy, on one screen.
//!
//! [`decide`] reads a document and a [`View`] and returns the next document with the reasons for
//! every difference. It is a pure function: the same input gives the same output, and with stable
//! facts it reaches a document that it does not change any more (I10).

pub mod elect;
pub mod generations;

mod behind;
mod failover;
mod first_db;
mod init;
mod members;
mod parameters;
mod pause;
mod proxies;
mod role;
mod standbys;
mod successor;
mod sync_standbys;

use std::collections::BTreeSet;

use super::lineage::{Lineage, is_forked, lineage, may_drop_what_is_more};
use super::observe::{DbView, KeeperView, View, fail_after, fresh_within};
use crate::model::spec::ClusterRole;
use crate::model::{
    Cluster, ClusterData, ClusterSpec, Db, DbSpec, DbUid, EffectiveSpec, Generation, InitMode,
    KeeperUid, Phase,
};
use crate::reason::Reason;

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The next document; equal to the present one when nothing is to be done.
    pub next: ClusterData,
    /// Why, and what stands in the way of more.
    pub reasons: Vec<Reason>,
    /// Somebody waits for a newer document, even one that says the same.
    pub must_write: bool,
}

/// Decides what follows `data`, which has a cluster with a spec.
pub fn decide(data: &ClusterData, view: &View) -> Decision {
    let Some(spec) = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.as_ref())
    else {
        return Decision {
            next: data.clone(),
            reasons: Vec::new(),
            must_write: false,
        };
    };
    let mut draft = Draft::new(data, view, spec.effective());
    let phase = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.status.phase.as_ref());
    if !may_decide(&mut draft, spec, phase) {
        return draft.into_decision();
    }
    // Named anew by each decision that waits for it.
    draft.next.proxy.spec.successor_db_uid = DbUid::default();
    members::update(&mut draft);
    if phase == Some(&Phase::Normal) && behind::note(&mut draft) {
        proxies::close(&mut draft);
        generations::raise(data, view, &mut draft.next);
        return draft.into_decision();
    }
    let paused = pause::note(&mut draft);
    if phase == Some(&Phase::Normal) {
        failover::decide(&mut draft);
        role::decide(&mut draft);
        sync_standbys::decide(&mut draft);
        standbys::decide(&mut draft);
        if !paused {
            members::forget_dead_keepers(&mut draft);
        }
    } else if !paused {
        init::decide(&mut draft);
        if draft.cluster().status.phase == Some(Phase::Normal) {
            sync_standbys::decide(&mut draft);
        }
    }
    parameters::decide(&mut draft);
    proxies::decide(&mut draft);
    generations::raise(data, view, &mut draft.next);
    draft.into_decision()
}

/// Whether the document can be acted on. Whatever wrote one that cannot did not mean a guess at it,
/// which could cost data.
fn may_decide(draft: &mut Draft<'_>, spec: &ClusterSpec, phase: Option<&Phase>) -> bool {
    if let Err(problems) = spec.validate() {
        for problem in problems {
            let text = "the stored cluster specification is not valid: nothing is decided until it \
                        is mended (stolonctl update)";
            draft.because(Reason::error("invalid-spec", text).with("problem", problem));
        }
        return false;
    }
    match phase {
        None | Some(Phase::Initializing | Phase::Normal) => true,
        Some(Phase::Unknown(phase)) => {
            let text = "the cluster is in a phase this version does not know: nothing is decided";
            draft.because(Reason::error("unknown-phase", text).with("phase", phase));
            false
        }
    }
}

/// The next document while it is being decided, with what the decisions share.
struct Draft<'a> {
    before: &'a ClusterData,
    next: ClusterData,
    view: &'a View,
    spec: EffectiveSpec,
    names: NewNames,
    reasons: Vec<Reason>,
    /// Keepers an operator declared failed, for this decision.
    forced: BTreeSet<KeeperUid>,
    must_write: bool,
}

/// How far a db is on its way to its present generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convergence {
    Converged,
    Converging,
    /// It took longer than it may.
    Failed,
}

impl<'a> Draft<'a> {
    fn new(data: &'a ClusterData, view: &'a View, spec: EffectiveSpec) -> Self {
        Self {
            before: data,
            next: data.clone(),
            view,
            spec,
            names: NewNames::new(view.entropy),
            reasons: Vec::new(),
            forced: BTreeSet::new(),
            must_write: false,
        }
    }

    fn because(&mut self, reason: Reason) {
        self.reasons.push(reason);
    }

    fn into_decision(self) -> Decision {
        Decision {
            next: self.next,
            reasons: self.reasons,
            must_write: self.must_write,
        }
    }

    fn cluster(&mut self) -> &mut Cluster {
        self.next.cluster.get_or_insert_with(Cluster::default)
    }

    fn primary_uid(&self) -> Option<DbUid> {
        self.next.cluster.as_ref()?.status.master.clone()
    }

    fn primary(&self) -> Option<&Db> {
        self.next.primary()
    }

    fn keeper_view(&self, uid: &KeeperUid) -> Option<&KeeperView> {
        self.view.keepers.get(uid)
    }

    fn db_view(&self, uid: &DbUid) -> Option<&DbView> {
        self.view.dbs.get(uid)
    }

    /// Whether a keeper was heard lately enough to be elected or given work.
    fn is_fresh(&self, keeper: &KeeperUid) -> bool {
        self.keeper_view(keeper)
            .is_some_and(|view| view.info.is_some() && view.silent_for <= fresh_within(&self.spec))
    }

    fn is_keeper_healthy(&self, keeper: &KeeperUid) -> bool {
        self.next
            .keepers
            .get(keeper)
            .is_some_and(|keeper| keeper.status.healthy)
    }

    /// Whether a standby cluster is asked for, whose "primary" follows an external server.
    fn follows_outside(&self) -> bool {
        self.spec.role == ClusterRole::Standby
    }

    /// How far `db` is, judged by the timeout that goes with how it comes into being.
    fn convergence(&self, db: &Db) -> Convergence {
        if db.status.current_generation == db.generation {
            return Convergence::Converged;
        }
        let never_there = db.status.current_generation == Generation::NONE;
        let timeout = match &db.spec.init_mode {
            Some(InitMode::New) if never_there => Some(self.spec.init_timeout),
            Some(InitMode::Resync) if never_there => self.spec.sync_timeout,
            Some(InitMode::Existing | InitMode::Pitr) if never_there => None,
            Some(InitMode::Unknown(_)) => None,
            Some(
                InitMode::None
                | InitMode::New
                | InitMode::Resync
                | InitMode::Existing
                | InitMode::Pitr,
            )
            | None => Some(self.spec.convergence_timeout),
        };
        let waited = self.db_view(&db.uid).and_then(|view| view.converging_for);
        match (waited, timeout) {
            (Some(waited), Some(timeout)) if waited > timeout => Convergence::Failed,
            _ => Convergence::Converging,
        }
    }

    /// Whether a db does what it is to do, now.
    fn is_good(&self, db: &Db) -> bool {
        db.status.healthy && self.convergence(db) == Convergence::Converged
    }

    /// Whether the primary is there and does what it is to do. One that this very decision makes
    /// the primary has not even read that it is; one that has a successor is to be replaced.
    fn is_primary_good(&self) -> bool {
        let before = self.before.cluster.as_ref();
        let stays = self.next.proxy.spec.successor_db_uid.is_empty();
        stays
            && before.and_then(|cluster| cluster.status.master.as_ref())
                == self.primary_uid().as_ref()
            && self.primary().is_some_and(|primary| self.is_good(primary))
    }

    /// The dbs that commits wait for: by the document that was read, which the primary may still be
    /// working in, and by the one that is decided.
    fn synchronous_members(&self) -> BTreeSet<DbUid> {
        let primaries = [self.before.primary(), self.primary()];
        let lists = primaries
            .into_iter()
            .flatten()
            .map(|primary| &primary.spec.synchronous_standbys);
        lists.flat_map(|list| list.iter().cloned()).collect()
    }

    fn edit_db(&mut self, uid: &DbUid, edit: impl FnOnce(&mut DbSpec)) {
        if let Some(db) = self.next.dbs.get_mut(uid) {
            edit(&mut db.spec);
        }
    }

    /// A name that no db has.
    fn new_db_uid(&mut self) -> DbUid {
        // A collision among 2^32 names is all but impossible; a bound keeps it honest.
        for _ in 0..64 {
            let uid = DbUid::new(self.names.next_uid());
            if !self.next.dbs.contains_key(&uid) {
                return uid;
            }
        }
        DbUid::new(self.names.next_uid())
    }
}

/// Whether a db is what the cluster's data come from, as opposed to a standby of a db of this
/// cluster. None: of a role this version does not know, about which nothing is decided.
fn is_source(db: &Db) -> Option<bool> {
    use crate::model::{FollowType, Role};
    match (
        &db.spec.role,
        db.spec
            .follow_config
            .as_ref()
            .map(|follow| &follow.follow_type),
    ) {
        (Some(Role::Primary), _) | (Some(Role::Standby), Some(Some(FollowType::External))) => {
            Some(true)
        }
        (Some(Role::Standby), Some(Some(FollowType::Internal))) => Some(false),
        (Some(Role::Standby), None | Some(None | Some(FollowType::Unknown(_))))
        | (Some(Role::Unknown(_)) | None, _) => None,
    }
}

/// New names of 8 hexadecimal digits, from chance that comes from outside.
#[derive(Debug)]
pub struct NewNames {
    state: u64,
}

impl NewNames {
    /// The names that follow from `entropy`.
    pub const fn new(entropy: u64) -> Self {
        Self { state: entropy }
    }

    /// The next name (the generator is `SplitMix64` by Steele, Lea and Flood).
    pub fn next_uid(&mut self) -> String {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        format!("{:08x}", (mixed ^ (mixed >> 31)) >> 32)
    }
}
