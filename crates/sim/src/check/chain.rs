//! I4 and the limit of I10: each stored document was decided from the one before it, and a leader
//! moves the primary no more often than it may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::ClusterData;
use stolon_core::sentinel::observe::FAILOVER_WINDOW;

use crate::world::store::Decided;
use crate::world::{Time, World};

/// The part of [`FAILOVER_WINDOW`] that is over soonest by the fastest clock.
const WINDOW: Duration = Duration::from_secs(FAILOVER_WINDOW.as_secs() * 95 / 100);

/// The elections of each life of a sentinel.
#[derive(Debug, Default)]
pub(crate) struct Elections(BTreeMap<String, Vec<Time>>);

impl Elections {
    /// The store went back: whoever leads remembers nothing any more.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

fn is_moved(before: &ClusterData, after: &ClusterData) -> bool {
    let master = |data: &ClusterData| data.cluster.as_ref()?.status.master.clone();
    let (old, new) = (master(before), master(after));
    old.is_some() && new.is_some() && old != new
}

/// Whether an operator asked for it (`stolonctl failkeeper`).
fn is_forced(before: &ClusterData) -> bool {
    let keeper = before
        .primary()
        .and_then(|db| before.keepers.get(&db.spec.keeper_uid));
    keeper.is_some_and(|keeper| keeper.status.force_fail)
}

impl World {
    /// What a sentinel decided was stored over `before`.
    pub(crate) fn check_chain(
        &mut self,
        before: Option<&(u64, Arc<ClusterData>)>,
        decided: &Decided,
    ) {
        let found = before.map(|(revision, _)| *revision);
        if found != decided.base {
            let (by, base) = (&decided.by, decided.base);
            let text = format!("what {by} decided from document {base:?} is stored over {found:?}");
            self.fail("I4-not-from-its-predecessor", text);
            return;
        }
        let Some((_, before)) = before else {
            return;
        };
        let after = &decided.data;
        let falls = before.dbs.iter().find(|(uid, db)| {
            let after = after.dbs.get(*uid);
            after.is_some_and(|after| after.generation < db.generation)
        });
        if let Some((uid, _)) = falls {
            let text = format!("{} lets the generation of db {uid} fall", decided.by);
            self.fail("I4-generation-falls", text);
        } else if after.proxy.generation < before.proxy.generation {
            let text = format!("{} lets the generation of the proxies fall", decided.by);
            self.fail("I4-generation-falls", text);
        }
        if is_moved(before, after) {
            self.check_limit(before, &decided.by);
        }
    }

    fn check_limit(&mut self, before: &ClusterData, by: &str) {
        let (now, most) = (self.now, self.plan.shape.most_failovers);
        let times = self.checks.elections.0.entry(by.to_owned()).or_default();
        times.retain(|at| now.saturating_sub(*at) < WINDOW);
        let already = times.len();
        times.push(now);
        if already >= most && !is_forced(before) {
            let text = format!("{by} moves the primary after {already} times in ten minutes");
            self.fail("I10-too-many-failovers", text);
        }
    }
}
