//! I5 and I10: nobody acts on an older document after a newer one; nothing moves without a reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use stolon_core::keeper::decide::Step;
use stolon_core::model::{ClusterData, DbUid, Generation};
use stolon_core::sentinel::observe::fail_after;

use crate::world::World;
use crate::world::event::Actor;
use crate::world::past::Origin;

/// How many sleepIntervals a cluster that has become well is left to finish what follows from that: a
/// standby that has caught up becomes a member.
const FINISHES: u32 = 6;
/// And how many proxyTimeouts: one that is gone is enabled for some more.
const FORGETS: u32 = 3;
/// How many sleepIntervals it is watched for then.
const WATCHED: u32 = 6;

/// What was decided: what changes only for a reason.
#[derive(Debug, PartialEq, Eq)]
struct Decided {
    primary: Option<DbUid>,
    dbs: BTreeMap<DbUid, Generation>,
    proxies: Generation,
}

impl Decided {
    fn of(data: &ClusterData) -> Self {
        Self {
            primary: data.primary().map(|db| db.uid.clone()),
            dbs: data
                .dbs
                .values()
                .map(|db| (db.uid.clone(), db.generation))
                .collect(),
            proxies: data.proxy.generation,
        }
    }
}

impl World {
    /// I5: somebody acts on a document of this revision, of the store since it went back so often.
    pub(crate) fn check_order(&mut self, actor: Actor, incarnation: u32, revision: u64) {
        let last = self.checks.acted.entry(actor).or_default();
        if (incarnation, revision) < *last {
            let (_, last) = last;
            let text = format!("{actor} acts on document {revision} after {last}");
            self.fail("I5-older-document", text);
        } else {
            *last = (incarnation, revision);
        }
    }

    /// I5: a keeper that knew a newer document leaves its instance as it is, until a sentinel has
    /// decided on what the store holds now. What ends something is no danger.
    pub(crate) fn check_boot_rule(&mut self, k: usize, step: &Step) {
        let acts = match step {
            Step::Initialize { .. }
            | Step::Restore { .. }
            | Step::FromOutside { .. }
            | Step::Rewind { .. }
            | Step::TakeOver { .. }
            | Step::Copy { .. }
            | Step::Swap { .. }
            | Step::Discard
            | Step::Claim { .. }
            | Step::Configure(_)
            | Step::Start { .. }
            | Step::SetUpRoles
            | Step::Slots { .. }
            | Step::Stir
            | Step::Promote { .. } => true,
            Step::Checkpoint
            | Step::SaveState(_)
            | Step::Stop { .. }
            | Step::KillAll
            | Step::Release { .. } => false,
        };
        let known = &self.keepers[k].known;
        if acts && known.fell {
            let place = known.taken.as_ref().map_or(0, |(origin, _)| origin.place);
            let text = format!("k{k} acts on document {place} of all, and knew a later one");
            self.fail("I5-went-back-with-the-store", text);
        }
    }

    /// I5: a proxy that reads older cluster data than it had closes before anything else.
    pub(crate) fn check_closes_first(
        &mut self,
        p: usize,
        before: &(Origin, u64, Option<Arc<ClusterData>>),
        permits: &[u64],
    ) {
        let Some((origin, revision, data)) = &self.proxies[p].read else {
            return;
        };
        let (known, last, newer) = before;
        let uid = |data: &ClusterData| data.cluster.as_ref().map(|cluster| cluster.uid.clone());
        let fell = match (newer, data) {
            (Some(newer), Some(data)) => {
                let lower = data.proxy.generation < newer.proxy.generation;
                lower || revision < last || uid(data) != uid(newer)
            }
            (Some(_), None) => true,
            (None, _) => false,
        };
        let mut held = self.proxies[p].permits();
        let stays = held.any(|permit| permits.contains(&permit.serial));
        if origin.incarnation > known.incarnation && fell && stays {
            let text = format!("p{p} stays open on a document older than it knew");
            self.fail("I5-stays-open", text);
        } else if origin.incarnation > known.incarnation && fell {
            self.note("closed-for-older-data");
        }
    }

    /// I10: a cluster that is well, and to which nothing happens, stays as it is.
    pub(crate) fn check_steadiness(&mut self) {
        let decided = |world: &Self| world.store.data().map(|(_, data)| Decided::of(data));
        let spec = self.spec();
        let interval = spec.sleep_interval;
        // A publication that was lost in the last outage is missed for as long, and tried again.
        let missed = self.plan.shape.store_timeout + fail_after(&spec) + interval * FINISHES;
        let settled = missed.max(spec.proxy_timeout * FORGETS);
        self.run_until(self.now + settled);
        let before = decided(self);
        self.run_until(self.now + interval * WATCHED);
        let after = decided(self);
        if before != after && self.record.violation.is_none() {
            let text = format!("with nothing to do {before:?} became {after:?}");
            self.fail("I10-restless", text);
        }
    }
}
