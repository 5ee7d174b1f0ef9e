//! I5 and I10: nobody acts on an older document after a newer one; nothing moves without a reason.

use std::collections::BTreeMap;

use stolon_core::model::{ClusterData, DbUid, Generation};

use crate::world::World;
use crate::world::event::Actor;

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
    /// I5: somebody acts on a document of this revision.
    pub(crate) fn check_order(&mut self, actor: Actor, revision: u64) {
        let last = self.checks.acted.entry(actor).or_default();
        if revision < *last {
            let text = format!("{actor} acts on document {revision} after {last}");
            self.fail("I5-older-document", text);
        } else {
            *last = revision;
        }
    }

    /// I10: a cluster that is well, and to which nothing happens, stays as it is.
    pub(crate) fn check_steadiness(&mut self) {
        let decided = |world: &Self| world.store.data().map(|(_, data)| Decided::of(data));
        let spec = self.spec();
        let interval = spec.sleep_interval;
        let settled = (interval * FINISHES).max(spec.proxy_timeout * FORGETS);
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
