//! Decisions that are broken on purpose, to prove that the checks see it.
//!
//! Each is done at the boundary between a state machine and the world: an effect, an event or a
//! document is changed on its way. Core has no hooks for it.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::{ClusterData, DbUid, FollowConfig, InitMode, KeeperInfo, List, Role};
use stolon_core::proxy::{Event, ReadRoute, Route};
use stolon_core::time::Instant;

use crate::world::World;
use crate::world::keeper::keeper_uid;
use crate::world::outside::is_standby_cluster;
use crate::world::proxy::keeper_at;
use crate::world::store::Operation;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// The least advanced candidate wins an election, whatever it has.
    LeastAdvancedWins,
    /// Proxies are opened to a new primary without waiting for any to close.
    OpensWithoutAcknowledgement,
    /// A change of the synchronous set leaves out the step in which old and new members are waited for.
    SkipsUnion,
    /// A proxy acknowledges a generation before it has closed.
    AcknowledgesBeforeClosing,
    /// A proxy's leave to forward does not end by time.
    LeaveNeverEnds,
    /// A resync removes the old data before it copies.
    DeletesFirst,
    /// An election goes by the last report, whether its keeper is heard or the standby confirmed.
    ElectsByLastReport,
    /// A keeper reports every standby in its list as being in sync.
    BelievesSyncState,
    /// A promotion begins the next timeline, whoever may have begun it before.
    ReusesTimelines,
    /// A keeper goes back with the store: it counts as admitted whatever it knew before.
    GoesBackWithTheStore,
    /// A proxy does not see that the cluster data it reads are older than those it had.
    StaysOpen,
    /// A sentinel's write does not ask whether the document is still the one it was decided from.
    WritesBlindly,
    /// A primary that was restarted lets users in whatever its standbys have.
    LetsUsersInAtOnce,
    /// A sentinel does not count its failovers.
    CountsNoFailovers,
    /// A failover in a standby cluster makes the winner a primary, though nobody promoted the cluster.
    PromotesStandbyCluster,
    /// A server outside that is merely behind is taken for one that has lost something.
    TakesBehindForParted,
    /// A sentinel promotes a standby whoever may read from it.
    IgnoresReaders,
    /// A proxy acknowledges that a standby is to be promoted before those who read from it are gone.
    LeavesLate,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::LeastAdvancedWins,
        Self::OpensWithoutAcknowledgement,
        Self::SkipsUnion,
        Self::AcknowledgesBeforeClosing,
        Self::LeaveNeverEnds,
        Self::DeletesFirst,
        Self::ElectsByLastReport,
        Self::BelievesSyncState,
        Self::ReusesTimelines,
        Self::GoesBackWithTheStore,
        Self::StaysOpen,
        Self::WritesBlindly,
        Self::LetsUsersInAtOnce,
        Self::CountsNoFailovers,
        Self::PromotesStandbyCluster,
        Self::TakesBehindForParted,
        Self::IgnoresReaders,
        Self::LeavesLate,
    ];
}

fn master(data: &ClusterData) -> Option<DbUid> {
    data.cluster.as_ref()?.status.master.clone()
}

/// Lets another db be the winner of an election.
fn install_instead(data: &mut ClusterData, winner: &DbUid, other: &DbUid) {
    let Some(won) = data.dbs.get(winner).map(|db| db.spec.clone()) else {
        return;
    };
    let follow = FollowConfig::internal(other.clone());
    if let Some(loser) = data.dbs.get_mut(winner) {
        loser.spec.role = Some(Role::Standby);
        loser.spec.follow_config = Some(follow.clone());
        loser.spec.followers = List(Some(Vec::new()));
        loser.spec.synchronous_replication = false;
        loser.spec.synchronous_standbys = List::NULL;
        loser.spec.external_synchronous_standbys = List::NULL;
        loser.status.synchronous_standbys = List::NULL;
    }
    let swap = |uid: &DbUid| {
        if uid == other {
            winner.clone()
        } else {
            uid.clone()
        }
    };
    let swapped =
        |list: &List<DbUid>| List(list.0.as_ref().map(|list| list.iter().map(swap).collect()));
    if let Some(db) = data.dbs.get_mut(other) {
        db.spec.role = Some(Role::Primary);
        db.spec.follow_config = None;
        db.spec.init_mode = Some(InitMode::None);
        db.spec.followers = swapped(&won.followers);
        db.spec.synchronous_replication = won.synchronous_replication;
        db.spec.synchronous_standbys = swapped(&won.synchronous_standbys);
        db.spec.external_synchronous_standbys = won.external_synchronous_standbys;
        db.status.synchronous_standbys = db.spec.synchronous_standbys.clone();
    }
    for db in data.dbs.values_mut() {
        if db.spec.role == Some(Role::Standby) {
            db.spec.follow_config = Some(follow.clone());
        }
    }
    if let Some(cluster) = data.cluster.as_mut() {
        cluster.status.master = Some(other.clone());
    }
}

impl World {
    fn is_broken(&self, sabotage: Sabotage) -> bool {
        self.plan.sabotage == Some(sabotage)
    }

    /// What a sentinel decided, on its way to the store.
    pub(crate) fn tamper_with_decision(&mut self, mut next: ClusterData) -> ClusterData {
        let Some(before) = self.store.data().map(|(_, data)| data.clone()) else {
            return next;
        };
        let (old, new) = (master(&before), master(&next));
        let is_election = old.is_some() && old != new;
        match self.plan.sabotage {
            Some(Sabotage::LeastAdvancedWins) if is_election => {
                self.choose(&mut next, old.as_ref(), new.as_ref(), false);
            }
            Some(Sabotage::ElectsByLastReport) if is_election => {
                self.choose(&mut next, old.as_ref(), new.as_ref(), true);
            }
            Some(Sabotage::OpensWithoutAcknowledgement) => {
                let primary = new.and_then(|uid| next.dbs.get(&uid));
                let serves = primary.filter(|db| {
                    db.status.healthy && db.status.current_generation == db.generation
                });
                if let Some(uid) = serves.map(|db| db.uid.clone())
                    && next.proxy.spec.primary_db_uid.is_empty()
                {
                    self.note("sabotaged");
                    next.proxy.spec.primary_db_uid = uid;
                    next.proxy.generation = before.proxy.generation.next();
                }
            }
            Some(Sabotage::PromotesStandbyCluster) if is_election => {
                let winner = new.and_then(|uid| next.dbs.get_mut(&uid));
                if let Some(db) = winner.filter(|_| is_standby_cluster(&before)) {
                    db.spec.role = Some(Role::Primary);
                    db.spec.follow_config = None;
                    self.note("sabotaged");
                }
            }
            Some(Sabotage::SkipsUnion) => self.skip_union(&before, &mut next),
            _ => {}
        }
        next
    }

    fn choose(
        &mut self,
        next: &mut ClusterData,
        old: Option<&DbUid>,
        new: Option<&DbUid>,
        most: bool,
    ) {
        let Some(winner) = new else {
            return;
        };
        let candidates = next
            .dbs
            .values()
            .filter(|db| Some(&db.uid) != old && db.status.current_generation.0 > 0);
        let mut order: Vec<_> = candidates
            .map(|db| (db.status.xlog_pos, db.uid.clone()))
            .collect();
        order.sort();
        // By the last report any other may seem as good as the one that was elected for its reasons.
        order.retain(|(_, uid)| !most || uid != winner);
        let chosen = if most {
            order.pop()
        } else {
            order.into_iter().next()
        };
        if let Some((_, other)) = chosen.filter(|(_, other)| other != winner) {
            self.note("sabotaged");
            install_instead(next, &winner.clone(), &other);
        }
    }

    fn skip_union(&mut self, before: &ClusterData, next: &mut ClusterData) {
        let Some(uid) = master(next).filter(|uid| master(before).as_ref() == Some(uid)) else {
            return;
        };
        let listed = |data: &ClusterData| {
            let db = data.dbs.get(&uid);
            db.map(|db| db.spec.synchronous_standbys.as_slice().to_vec())
                .unwrap_or_default()
        };
        let (was, is) = (listed(before), listed(next));
        let fresh: Vec<DbUid> = is
            .iter()
            .filter(|uid| !was.contains(uid))
            .cloned()
            .collect();
        if fresh.is_empty() || was.is_empty() {
            return;
        }
        self.note("sabotaged");
        if let Some(db) = next.dbs.get_mut(&uid) {
            db.spec.synchronous_standbys = fresh.iter().cloned().collect();
            db.status.synchronous_standbys = fresh.into_iter().collect();
        }
    }

    /// How much later than core believes a proxy closes.
    pub(crate) fn tamper_with_route(&mut self, p: usize, route: &Route) -> Option<Duration> {
        let closes = matches!(route, Route::Closed(_)) && self.proxies[p].permit.is_some();
        let late = self.is_broken(Sabotage::AcknowledgesBeforeClosing) && closes;
        late.then(|| {
            self.note("sabotaged");
            Duration::from_secs(3)
        })
    }

    /// How much later than core believes a proxy leaves a standby.
    pub(crate) fn tamper_with_read_route(
        &mut self,
        p: usize,
        route: &ReadRoute,
    ) -> Option<Duration> {
        let goes_on = |host: usize| match route {
            ReadRoute::To(targets) => targets
                .iter()
                .any(|(target, _)| keeper_at(&target.host) == Some(host)),
            ReadRoute::Closed(_) => false,
        };
        let mut permits = self.proxies[p].reading.iter();
        let leaves = permits.any(|permit| !goes_on(permit.target));
        let late = self.is_broken(Sabotage::LeavesLate) && leaves;
        late.then(|| {
            self.note("sabotaged");
            Duration::from_secs(3)
        })
    }

    /// Whether sentinels do not see that proxies lead clients to standbys.
    pub(crate) fn ignores_readers(&self) -> bool {
        self.is_broken(Sabotage::IgnoresReaders)
    }

    /// Whether leave to forward does not end by time.
    pub(crate) fn tampers_with_leave(&self) -> bool {
        self.is_broken(Sabotage::LeaveNeverEnds)
    }

    /// A request to the store as it is carried out; none: as it was sent.
    pub(crate) fn as_store_reads(&mut self, operation: &Operation) -> Option<Operation> {
        let Operation::Swap(expected, decided) = operation else {
            return None;
        };
        let present = self.store.data().map(|(revision, _)| *revision);
        if !self.is_broken(Sabotage::WritesBlindly) || *expected == present {
            return None;
        }
        self.note("sabotaged");
        Some(Operation::Swap(present, Arc::clone(decided)))
    }

    /// Failovers in ten minutes after which a sentinel lets the next one wait.
    pub(crate) fn most_failovers(&self) -> usize {
        if self.is_broken(Sabotage::CountsNoFailovers) {
            usize::MAX
        } else {
            self.plan.shape.most_failovers
        }
    }

    /// Whether users are let in without a look at the access rules.
    pub(crate) fn lets_users_in_at_once(&self) -> bool {
        self.is_broken(Sabotage::LetsUsersInAtOnce)
    }

    /// Whether every server outside counts as one that is written to.
    pub(crate) fn takes_behind_for_parted(&self) -> bool {
        self.is_broken(Sabotage::TakesBehindForParted)
    }

    /// Whether a promotion minds which timelines may have begun.
    pub(crate) fn reuses_timelines(&self) -> bool {
        self.is_broken(Sabotage::ReusesTimelines)
    }

    /// Whether a resync removes the old data first.
    pub(crate) fn deletes_first(&self) -> bool {
        self.is_broken(Sabotage::DeletesFirst)
    }

    /// The cluster data as a keeper reads them.
    pub(crate) fn as_keeper_reads(&self, k: usize, data: &Arc<ClusterData>) -> Arc<ClusterData> {
        let mut data = Arc::clone(data);
        if self.is_broken(Sabotage::GoesBackWithTheStore)
            && let Some(keeper) = Arc::make_mut(&mut data).keepers.get_mut(&keeper_uid(k))
        {
            keeper
                .status
                .boot_uuid
                .clone_from(&self.keepers[k].published_as);
        }
        data
    }

    /// The cluster data as a proxy reads them.
    pub(crate) fn as_proxy_reads(
        &self,
        p: usize,
        sent_at: Instant,
        revision: u64,
        data: Option<&Arc<ClusterData>>,
    ) -> Event {
        let mut data = data.cloned();
        let mut revision = revision;
        if self.is_broken(Sabotage::StaysOpen)
            && let Some((_, last, Some(known))) = &self.proxies[p].read
        {
            revision = revision.max(*last);
            let data = Arc::make_mut(data.get_or_insert_with(|| Arc::clone(known)));
            data.proxy.generation = data.proxy.generation.max(known.proxy.generation);
        }
        Event::Document {
            sent_at,
            revision,
            data,
        }
    }

    /// What a keeper publishes.
    pub(crate) fn tamper_with_report(&mut self, k: usize, info: &mut KeeperInfo) {
        if !self.is_broken(Sabotage::BelievesSyncState) {
            return;
        }
        let document = self.keepers[k].core().and_then(|core| core.document());
        let listed = document.and_then(|document| {
            let db = document.data.db_of(&info.uid)?;
            Some(db.spec.synchronous_standbys.clone())
        });
        if let (Some(listed), Some(state)) = (listed, info.postgres_state.as_mut())
            && state.healthy
        {
            state.synchronous_standbys = listed;
        }
    }
}
