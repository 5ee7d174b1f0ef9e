//! The store: a linearizable map with revisions, expiry and a lease for the leading sentinel.
//!
//! It answers late, not at all, or after it has carried a write out and lost the answer; keys outlive
//! their time; watches stall. What it never does is to lose or reorder what it has stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::request::{Progress, Request, RequestId};
use stolon_core::model::{ClusterData, KeeperInfo, KeeperUid, ProxyInfo, SentinelInfo, wire};
use stolon_core::proxy::Reports;

use super::event::{Actor, What};
use super::network::Way;
use super::past::{Origin, Past};
use super::{Time, World};
use crate::chance::Chance;

/// Of so many revisions one is read back from its bytes.
const READ_BACK: u64 = 16;

/// What is asked of the store.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// The cluster data.
    Get,
    /// What keepers published.
    Keepers,
    /// What proxies published.
    Proxies,
    /// What keepers and sentinels published.
    Reports,
    /// What operators ask for, and what keepers published.
    Asked,
    /// A keeper tells what came of a request.
    Note(KeeperUid, RequestId, Progress),
    /// The cluster data are to be these if they are still of that revision.
    Swap(Option<u64>, Arc<Decided>),
    /// A keeper publishes, by a lease that ends then.
    PublishKeeper(Arc<KeeperInfo>, Time),
    /// A proxy publishes, by a lease that ends then.
    PublishProxy(Arc<ProxyInfo>, Time),
    /// A sentinel publishes, by a lease that ends then.
    PublishSentinel(Arc<SentinelInfo>, Time),
    /// A sentinel takes or renews the lease for so long.
    Hold(String, Duration),
}

impl Operation {
    /// Whether watches tell of it once it is carried out.
    const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Get
                | Self::Keepers
                | Self::Reports
                | Self::Asked
                | Self::Proxies
                | Self::PublishSentinel(_, _)
        )
    }
}

/// What a sentinel decided.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The life of the sentinel.
    pub(crate) by: String,
    /// The revision that it was decided from.
    pub(crate) base: Option<u64>,
    /// What the cluster data are to be.
    pub(crate) data: Arc<ClusterData>,
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// The cluster data with their revision, and where those stand among all that there were.
    Document(Option<(u64, Arc<ClusterData>)>, Origin),
    /// What keepers published, and what operators ask for.
    Keepers(Vec<Arc<KeeperInfo>>, Vec<Request>),
    /// What proxies published.
    Proxies(Vec<Arc<ProxyInfo>>),
    /// What keepers and sentinels published.
    Reports(Reports),
    /// It is stored.
    Written,
    /// It was not as expected.
    Conflict,
    /// Nothing was done.
    Refused,
    /// Whether the lease is held.
    Held(bool),
}

/// What is wrong with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ailments {
    /// It answers nobody.
    pub(crate) down: u32,
    /// It takes up to so many milliseconds.
    pub(crate) slow: u64,
    /// So many answers of a thousand are lost after the request was carried out.
    pub(crate) loses_answers: u64,
    /// Keys live on for so long after their time.
    pub(crate) late_expiry: Duration,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) chance: Chance,
    pub(super) revision: u64,
    pub(super) data: Option<(u64, Arc<ClusterData>)>,
    pub(super) keepers: BTreeMap<String, (Time, Arc<KeeperInfo>)>,
    pub(super) proxies: BTreeMap<String, (Time, Arc<ProxyInfo>)>,
    pub(super) sentinels: BTreeMap<String, (Time, Arc<SentinelInfo>)>,
    pub(super) lease: Option<(String, Time)>,
    /// What operators ask for.
    pub(crate) requests: Vec<Request>,
    pub(crate) past: Past,
    /// The last call by which each life of a process published.
    published: BTreeMap<String, u64>,
    pub(crate) ailments: Ailments,
    /// Who does not hear of changes.
    pub(crate) stalled: BTreeSet<Actor>,
}

impl Store {
    /// An empty store.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::of(seed, "store", 0),
            revision: 0,
            data: None,
            keepers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            sentinels: BTreeMap::new(),
            lease: None,
            requests: Vec::new(),
            past: Past::default(),
            published: BTreeMap::new(),
            ailments: Ailments::default(),
            stalled: BTreeSet::new(),
        }
    }

    /// The cluster data with their revision.
    pub(crate) fn data(&self) -> Option<&(u64, Arc<ClusterData>)> {
        self.data.as_ref()
    }

    fn expire(&mut self, now: Time) {
        let late = self.ailments.late_expiry;
        self.keepers.retain(|_, (until, _)| now < *until + late);
        self.proxies.retain(|_, (until, _)| now < *until + late);
        self.sentinels.retain(|_, (until, _)| now < *until + late);
        if self
            .lease
            .as_ref()
            .is_some_and(|(_, until)| *until + late <= now)
        {
            self.lease = None;
        }
    }

    /// Stores what an operator made of the cluster data, or what a sentinel wrote. Some of them are
    /// written as bytes and read back, which must change nothing: all would take a tenth of a run.
    pub(super) fn put(&mut self, data: Arc<ClusterData>) {
        self.revision += 1;
        if self.revision.is_multiple_of(READ_BACK) {
            let bytes = wire::write(&*data).expect("cluster data can be written");
            let read = wire::read_cluster_data(&bytes).expect("cluster data can be read back");
            assert_eq!(read.as_ref(), Some(&*data), "as written and as read back");
        }
        self.data = Some((self.revision, data));
    }

    /// Whether a publication comes before its lease ends: by its time, or because the same life of
    /// its process has published since, and has ended the leases of those without answer.
    fn is_in_time(&mut self, life: String, call: u64, now: Time, until: Time) -> bool {
        let last = self.published.entry(life).or_default();
        let is_in_time = now < until && call > *last;
        *last = call.max(*last);
        is_in_time
    }

    fn reports(&self) -> Reports {
        let keepers = self.keepers.values();
        let sentinels = self.sentinels.values();
        Reports {
            keepers: keepers.map(|(_, info)| (**info).clone()).collect(),
            sentinels: sentinels.map(|(_, info)| (**info).clone()).collect(),
        }
    }

    /// Takes or renews the lease, where nobody else has it.
    fn hold(&mut self, now: Time, token: &str, ttl: Duration) -> bool {
        let holder = self.lease.as_ref().map(|(holder, _)| holder);
        let is_free = holder.is_none_or(|holder| holder == token);
        if is_free {
            self.lease = Some((token.to_owned(), now + ttl));
        }
        is_free
    }

    /// Carries a request out; true when something changed that watches tell of.
    fn apply(&mut self, now: Time, call: u64, operation: &Operation) -> (Reply, bool) {
        self.expire(now);
        let reply = match operation {
            Operation::Get => Reply::Document(self.data.clone(), self.past.origin()),
            Operation::Keepers | Operation::Asked => Reply::Keepers(
                self.keepers
                    .values()
                    .map(|(_, info)| info.clone())
                    .collect(),
                self.requests.clone(),
            ),
            Operation::Note(keeper, id, progress) => {
                self.note_progress(keeper, id, progress);
                Reply::Written
            }
            Operation::Proxies => Reply::Proxies(
                self.proxies
                    .values()
                    .map(|(_, info)| info.clone())
                    .collect(),
            ),
            Operation::Reports => Reply::Reports(self.reports()),
            Operation::Swap(expected, decided) => {
                if self.data.as_ref().map(|(revision, _)| *revision) != *expected {
                    return (Reply::Conflict, false);
                }
                self.put(Arc::clone(&decided.data));
                self.past.decided();
                self.remember(now);
                Reply::Written
            }
            Operation::PublishKeeper(info, until) => {
                let life = format!("{} {}", info.uid, info.boot_uuid);
                if !self.is_in_time(life, call, now, *until) {
                    return (Reply::Refused, false);
                }
                self.revision += 1;
                let entry = (*until, info.clone());
                self.keepers.insert(info.uid.to_string(), entry);
                Reply::Written
            }
            Operation::PublishProxy(info, until) => {
                if !self.is_in_time(info.uid.to_string(), call, now, *until) {
                    return (Reply::Refused, false);
                }
                self.revision += 1;
                let entry = (*until, info.clone());
                self.proxies.insert(info.uid.to_string(), entry);
                Reply::Written
            }
            Operation::PublishSentinel(info, until) => {
                if !self.is_in_time(info.uid.to_string(), call, now, *until) {
                    return (Reply::Refused, false);
                }
                let entry = (*until, info.clone());
                self.sentinels.insert(info.uid.to_string(), entry);
                Reply::Written
            }
            Operation::Hold(token, ttl) => {
                return (Reply::Held(self.hold(now, token, *ttl)), false);
            }
        };
        (reply, operation.changes())
    }
}

impl World {
    /// A request arrives at the store.
    pub(crate) fn at_store(&mut self, call: u64, operation: &Operation) {
        let Some(actor) = self.calls.get(&call).map(|call| call.actor) else {
            // Its sender has given it up; it is carried out all the same.
            self.carry_out_at_store(call, operation);
            return;
        };
        let ailments = self.store.ailments.clone();
        if ailments.down > 0 {
            self.note("store-unavailable");
            // Half of the calls fail at once, the others are never answered.
            if self.store.chance.happens(500) {
                self.send(
                    Actor::Store,
                    actor,
                    Way::Call,
                    What::Answer(call, Box::new(Reply::Refused)),
                );
            }
            return;
        }
        let reply = self.carry_out_at_store(call, operation);
        if self.store.chance.happens(ailments.loses_answers) {
            self.note("lost-answer");
            return;
        }
        let answer = What::Answer(call, Box::new(reply));
        if ailments.slow > 0 {
            let late = self.store.chance.millis(0, ailments.slow);
            self.queue.put(self.now + late, answer);
        } else {
            self.send(Actor::Store, actor, Way::Call, answer);
        }
    }

    fn carry_out_at_store(&mut self, call: u64, operation: &Operation) -> Reply {
        let as_asked = self.as_store_reads(operation);
        let operation = as_asked.as_ref().unwrap_or(operation);
        let before = self.store.data.clone();
        let (reply, changed) = self.store.apply(self.now, call, operation);
        if let (Operation::Swap(_, decided), Reply::Written) = (operation, &reply) {
            self.check_chain(before.as_ref(), decided);
        }
        if changed {
            self.document_may_have_changed(before.as_ref());
        }
        reply
    }

    /// An operator changes the cluster data, as `stolonctl` does it: by compare-and-swap, again and
    /// again until it succeeds.
    pub(crate) fn operate(&mut self, change: impl FnOnce(&mut ClusterData) -> bool) -> bool {
        let before = self.store.data.clone();
        let Some((_, data)) = &before else {
            return false;
        };
        let mut data = ClusterData::clone(data);
        let done = change(&mut data);
        if done {
            self.store.put(Arc::new(data));
            self.store.past.changed();
            self.document_may_have_changed(before.as_ref());
        }
        done
    }

    pub(super) fn document_may_have_changed(&mut self, before: Option<&(u64, Arc<ClusterData>)>) {
        let after = self.store.data.clone();
        let is_new = before.map(|(old, _)| *old) != after.as_ref().map(|(new, _)| *new);
        if let Some((revision, data)) = after.filter(|_| is_new) {
            self.document_stored(before.map(|(_, data)| data.as_ref()), revision, &data);
        }
        self.wake_watchers(is_new);
    }
}
