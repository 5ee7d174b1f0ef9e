//! The store goes back: a copy of it is restored, or an operator writes an older document over the
//! present one, or the cluster data are gone for a while, or are begun anew (I5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::{ClusterData, ClusterUid, KeeperInfo, ProxyInfo, SentinelInfo};

use super::event::Actor;
use super::store::Store;
use super::{Time, World};

/// So many states of the store are remembered, from when one may come back.
const MOST: usize = 400;

/// Where a document stands among all that there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// How often the store had gone back when it was there.
    pub(crate) incarnation: u32,
    /// Its place in the order in which documents were first written; one that comes back keeps it.
    pub(crate) place: u64,
    /// Whether a sentinel wrote it, or what it was made from, since the store last went back.
    pub(crate) decided: bool,
}

/// The store as it once was.
#[derive(Debug, Clone)]
struct State {
    at: Time,
    place: u64,
    revision: u64,
    data: Arc<ClusterData>,
    keepers: BTreeMap<String, (Time, Arc<KeeperInfo>)>,
    proxies: BTreeMap<String, (Time, Arc<ProxyInfo>)>,
    sentinels: BTreeMap<String, (Time, Arc<SentinelInfo>)>,
    lease: Option<(String, Time)>,
}

/// What the store was.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Whether it may be needed in this run.
    pub(super) is_kept: bool,
    states: VecDeque<State>,
    /// How many documents were written.
    written: u64,
    origin: Origin,
}

/// How the store goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesBack {
    /// A copy of it is put in its place, with its revisions and all that was published then.
    Restored,
    /// An operator writes the document of then over the present one (`stolonctl clusterdata write`).
    WrittenOver,
}

impl Past {
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// A document was written by an operator.
    pub(super) fn changed(&mut self) {
        self.written += 1;
        self.origin.place = self.written;
    }

    /// A document was written by a sentinel.
    pub(super) fn decided(&mut self) {
        self.changed();
        self.origin.decided = true;
    }

    fn fall(&mut self, place: u64) {
        self.origin = Origin {
            incarnation: self.origin.incarnation + 1,
            place,
            decided: false,
        };
    }

    /// The state that is so old, or the oldest that is known.
    fn state(&self, now: Time, age: Duration) -> Option<&State> {
        let old = |state: &&State| state.at + age <= now;
        self.states.iter().rev().find(old).or(self.states.front())
    }
}

impl Store {
    /// Takes note of what is there, for when it comes back.
    pub(super) fn remember(&mut self, now: Time) {
        let Some((_, data)) = self.data.as_ref().filter(|_| self.past.is_kept) else {
            return;
        };
        if self.past.states.len() >= MOST {
            self.past.states.pop_front();
        }
        self.past.states.push_back(State {
            at: now,
            place: self.past.origin.place,
            revision: self.revision,
            data: Arc::clone(data),
            keepers: self.keepers.clone(),
            proxies: self.proxies.clone(),
            sentinels: self.sentinels.clone(),
            lease: self.lease.clone(),
        });
    }

    /// Goes back by so much; false: there is nothing to go back to.
    fn go_back(&mut self, now: Time, how: GoesBack, age: Duration) -> bool {
        let Some(state) = self.past.state(now, age).cloned() else {
            return false;
        };
        match how {
            GoesBack::Restored => {
                // Leases last as long again as they had left.
                let again = |until: Time| now + until.saturating_sub(state.at);
                self.revision = state.revision;
                self.keepers = state.keepers;
                self.proxies = state.proxies;
                self.sentinels = state.sentinels;
                self.lease = state.lease;
                let keepers = self.keepers.values_mut().map(|(until, _)| until);
                let proxies = self.proxies.values_mut().map(|(until, _)| until);
                let sentinels = self.sentinels.values_mut().map(|(until, _)| until);
                let lease = self.lease.as_mut().map(|(_, until)| until);
                for until in keepers.chain(proxies).chain(sentinels).chain(lease) {
                    *until = again(*until);
                }
            }
            GoesBack::WrittenOver => self.revision += 1,
        }
        self.data = Some((self.revision, state.data));
        self.past.fall(state.place);
        true
    }

    /// The cluster data are gone.
    fn lose_data(&mut self) {
        self.revision += 1;
        self.data = None;
        self.past.fall(0);
    }

    /// As `stolonctl init` with the flag that names the cluster: another cluster begins.
    fn begin_anew(&mut self, fresh: ClusterData) {
        self.put(Arc::new(fresh));
        self.past.changed();
        self.past.fall(self.past.written);
    }
}

/// What a component knows, as the world saw it learn it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The newest document that it acts on.
    pub(crate) taken: Option<(Origin, Arc<ClusterData>)>,
    /// It knew a newer document of this cluster, and no sentinel has decided since.
    pub(crate) fell: bool,
}

impl Known {
    /// It acts on a document from now on.
    pub(crate) fn take(&mut self, origin: Origin, data: &Arc<ClusterData>) {
        let falls = self.taken.as_ref().is_some_and(|(known, before)| {
            let goes_back = known.incarnation < origin.incarnation && origin.place < known.place;
            goes_back && has_fallen(before, data)
        });
        self.fell = (self.fell || falls) && !origin.decided;
        self.taken = Some((origin, Arc::clone(data)));
    }
}

fn uid(data: &ClusterData) -> Option<&ClusterUid> {
    data.cluster.as_ref().map(|cluster| &cluster.uid)
}

/// Whether anything that was wanted is not what is wanted now. Where a counter rose it is no older
/// document, but one of another branch of the history: the store went back more than once.
fn has_fallen(before: &ClusterData, after: &ClusterData) -> bool {
    let rises = |(uid, db): (_, &stolon_core::model::Db)| {
        let after = after.dbs.get(uid);
        after.is_some_and(|after| after.generation > db.generation)
    };
    if uid(before) != uid(after) {
        return true;
    }
    if after.proxy.generation > before.proxy.generation || before.dbs.iter().any(rises) {
        return false;
    }
    let master = |data: &ClusterData| data.cluster.as_ref()?.status.master.clone();
    let differs = |(uid, db): (_, &stolon_core::model::Db)| {
        after
            .dbs
            .get(uid)
            .is_some_and(|after| after.spec != db.spec)
    };
    master(before) != master(after)
        || before.proxy.spec != after.proxy.spec
        || before.dbs.iter().any(differs)
}

impl World {
    /// The store goes back by so much.
    pub(crate) fn store_goes_back(&mut self, how: GoesBack, age: Duration) {
        let before = self.store.data().cloned();
        if self.store.go_back(self.now, how, age) {
            self.note("store-went-back");
            self.after_the_fall(before.as_ref());
        }
    }

    /// The cluster data are gone.
    pub(crate) fn lose_cluster_data(&mut self) {
        let before = self.store.data().cloned();
        if before.is_some() {
            self.note("data-gone");
            self.store.lose_data();
            self.after_the_fall(before.as_ref());
        }
    }

    /// An operator makes another cluster of this one, whatever was in it.
    pub(crate) fn begin_cluster_anew(&mut self) {
        let before = self.store.data().cloned();
        let spec = self.plan.shape.spec.clone();
        let wall = self.clock_of(Actor::Store).wall(self.now);
        self.serial += 1;
        let uid = ClusterUid::new(format!("anew{}", self.serial));
        if before.is_some() {
            self.note("init-again");
            self.store.begin_anew(ClusterData::new(uid, spec, wall));
            self.after_the_fall(before.as_ref());
        }
    }

    /// What was promised by what the store has forgotten is promised no more, until the primary is
    /// again what the store says.
    fn after_the_fall(&mut self, before: Option<&(u64, Arc<ClusterData>)>) {
        self.say(|| "the store went back".to_owned());
        self.history.end_promises();
        self.checks.promises_nothing();
        let servers = self.instances.iter_mut().filter_map(|i| i.server.as_mut());
        for server in servers {
            server.promoted_by_lost_word |= server.promoting;
        }
        self.document_may_have_changed(before);
        self.wake_watchers(true);
    }
}
