//! What must hold, checked after every event, by the numbers of `ARCHITECTURE.md`.

pub(crate) mod chain;
mod gate;
pub mod history;
mod liveness;
mod no_lost_commit;
mod one_primary;
mod readers;
mod standby_cluster;
mod steady;

pub(crate) use liveness::bound;

use std::collections::{BTreeMap, BTreeSet};

use stolon_core::model::{ClusterData, DbUid, Generation, Lsn, ProxySpec};

use crate::world::World;
use crate::world::event::Actor;
use crate::world::keeper::keeper_uid;

/// What the checks remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// Whether a client that goes round the proxies and finds the hole ends the run.
    pub(crate) minds_direct_clients: bool,
    /// What proxies were told, by the generation.
    told: BTreeMap<Generation, ProxySpec>,
    /// The newest document that anybody acted on.
    acted: BTreeMap<Actor, (u32, u64)>,
    /// Who began the timelines of which number, by the system identifier.
    begun: BTreeMap<(String, u64), usize>,
    /// The instances that were opened to users, in which of their writable lives.
    opened: BTreeSet<(usize, u32)>,
    /// Asynchronous commits up to here must be in whatever is opened next; none: all.
    floor: Option<u64>,
    /// What the primary acknowledges is promised by nobody: the store went back, and the primary
    /// has not taken in yet what it says now.
    pub(crate) is_unsettled: bool,
    pub(crate) elections: chain::Elections,
    /// The document as it was last told of.
    described: String,
}

impl Checks {
    /// The store has forgotten who was promised what.
    pub(crate) fn promises_nothing(&mut self) {
        self.floor = Some(0);
        self.is_unsettled = true;
        self.elections.forget();
        // Which timelines may have begun the store has forgotten too (ADR 11).
        self.begun.clear();
    }
}

impl World {
    /// Whether decisions are held to core's own invariants. Not where one is broken on purpose: there
    /// the world has to show it.
    pub(crate) fn judges_documents(&self) -> bool {
        self.plan.sabotage.is_none()
    }

    /// A document was stored.
    pub(crate) fn document_stored(
        &mut self,
        before: Option<&ClusterData>,
        revision: u64,
        after: &ClusterData,
    ) {
        self.note_settled(after);
        self.note_switch(before, after);
        let proxy = &after.proxy;
        self.checks
            .told
            .insert(proxy.generation, proxy.spec.clone());
        let master = |data: &ClusterData| data.cluster.as_ref()?.status.master.clone();
        let old = before.and_then(master);
        let new = master(after);
        if let (Some(old), Some(new)) = (&old, &new)
            && old != new
        {
            self.elected(before, after, old, new);
        }
        let synchronous = |data: &ClusterData| {
            let spec = data
                .cluster
                .as_ref()
                .and_then(|cluster| cluster.spec.as_ref());
            spec.is_some_and(|spec| spec.effective().synchronous_replication)
        };
        if before.is_some_and(synchronous) && !synchronous(after) {
            self.note("synchronous-off");
            self.history.end_promises();
        }
        let listed = |data: &ClusterData| {
            let primary = data.primary();
            primary.map(|db| db.spec.synchronous_standbys.as_slice().to_vec())
        };
        if before.and_then(listed) != listed(after) {
            self.note("synchronous-change");
            if listed(after).is_some_and(|list| list.len() > 1) {
                self.note("synchronous-union");
            }
        }
        if self.record.is_tracing() {
            let text = describe(after);
            if self.checks.described != text {
                self.say(|| format!("document {revision}: {text}"));
                self.checks.described = text;
            }
        }
    }

    /// Whether what the store says since it went back is what the primary does.
    fn note_settled(&mut self, data: &ClusterData) {
        let Some(primary) = data.primary().filter(|_| self.checks.is_unsettled) else {
            return;
        };
        let origin = self.store.past.origin();
        let is_there = primary.status.healthy
            && primary.status.current_generation == primary.generation
            && origin.decided;
        let keeper = &primary.spec.keeper_uid;
        let k = (0..self.keepers.len()).find(|k| keeper_uid(*k) == *keeper);
        let has_taken = k.is_some_and(|k| {
            let node = &self.keepers[k];
            let taken = node.known.taken.as_ref();
            let is_newest = taken
                .is_some_and(|(taken, _)| taken.incarnation == origin.incarnation && taken.decided);
            is_newest && node.core().is_some_and(|core| !core.needs_reload())
        });
        if is_there && has_taken {
            self.checks.is_unsettled = false;
        }
    }

    fn elected(
        &mut self,
        before: Option<&ClusterData>,
        after: &ClusterData,
        old: &DbUid,
        new: &DbUid,
    ) {
        self.note("failover");
        if before.is_some_and(|data| data.proxy.spec.successor_db_uid == *new) {
            self.note("failover-waited-for-readers");
        }
        let deposed = after
            .dbs
            .get(old)
            .or_else(|| before.and_then(|data| data.dbs.get(old)));
        let spec = after
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.clone());
        let most_lag = spec.unwrap_or_default().effective().max_standby_lag;
        let Lsn(position) = deposed.map_or(Lsn::UNKNOWN, |db| db.status.xlog_pos);
        let floor = position.saturating_sub(u64::from(most_lag));
        self.checks.floor = Some(self.checks.floor.map_or(floor, |known| known.min(floor)));
        self.say(|| format!("the primary is {new} now, and was {old}"));
    }

    /// The keeper that runs a db, by the newest document.
    pub(crate) fn keeper_of(&self, uid: &DbUid) -> Option<usize> {
        let (_, data) = self.store.data()?;
        let keeper = &data.dbs.get(uid)?.spec.keeper_uid;
        (0..self.keepers.len()).find(|k| keeper_uid(*k) == *keeper)
    }
}

fn describe(data: &ClusterData) -> String {
    let phase = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.status.phase.as_ref());
    let phase = phase.map_or("none", |phase| phase.as_str());
    let master = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.status.master.as_ref());
    let master = master.map_or("none", |uid| uid.as_str());
    let dbs: Vec<String> = data
        .dbs
        .values()
        .map(|db| {
            let role = db.spec.role.as_ref().map_or("?", |role| role.as_str());
            let health = if db.status.healthy { "" } else { " unhealthy" };
            let (keeper, generation) = (&db.spec.keeper_uid, db.generation);
            let current = db.status.current_generation;
            let named: Vec<&str> = db
                .spec
                .synchronous_standbys
                .iter()
                .map(DbUid::as_str)
                .collect();
            let confirmed = db.status.synchronous_standbys.iter().map(DbUid::as_str);
            let confirmed: Vec<&str> = confirmed.collect();
            let sync = if db.spec.synchronous_replication {
                format!(" sync {named:?} confirmed {confirmed:?}")
            } else {
                String::new()
            };
            format!(
                "{}@{keeper} {role} {current}/{generation}{health}{sync}",
                db.uid
            )
        })
        .collect();
    let proxies = &data.proxy.spec.primary_db_uid;
    let generation = data.proxy.generation;
    format!(
        "{phase}, primary {master}, proxies [{proxies}] generation {generation}; {}",
        dbs.join("; ")
    )
}
