//! From what components published, and what is remembered of it, to a [`View`] to decide by.
//!
//! Silence is measured on the *observed clock*: it advances only over time in which this sentinel
//! itself read the store, so that its own blindness (a store outage, a paused process) never counts
//! as anybody's silence.

mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Look;
use crate::model::report::FEATURE_AGE_FROM_SEND;
use crate::model::{
    ClusterData, ClusterUid, DbUid, EffectiveSpec, Generation, KeeperInfo, KeeperUid, Phase,
    PostgresState, ProxyInfo, ProxyUid,
};
use crate::time::Instant;
pub use view::{DbView, KeeperView, ProxyView, View};

/// Failovers within this time count towards the limit of I10.
pub const FAILOVER_WINDOW: Duration = Duration::from_mins(10);

/// How long a member may be silent or unhealthy before it counts as failed: failInterval, and
/// never less than two publications.
pub fn fail_after(spec: &EffectiveSpec) -> Duration {
    spec.fail_interval
        .max(spec.sleep_interval.saturating_mul(2))
}

/// How long a keeper may be silent and still be elected or given work (scenario B4).
pub fn fresh_within(spec: &EffectiveSpec) -> Duration {
    fail_after(spec).min(spec.sleep_interval.saturating_mul(3))
}

/// What is remembered from look to look.
#[derive(Debug)]
pub struct Memory {
    most_failovers: usize,
    cluster: Option<ClusterUid>,
    /// The observed clock.
    observed: Duration,
    last_look: Option<Instant>,
    blind: bool,
    looks: u64,
    keepers: BTreeMap<KeeperUid, KeeperMemory>,
    dbs: BTreeMap<DbUid, DbMemory>,
    proxies: BTreeMap<ProxyUid, ProxyMemory>,
    primary: Option<DbUid>,
    first_keeper: Option<KeeperUid>,
    gave_up: BTreeSet<KeeperUid>,
    failovers: VecDeque<Duration>,
}

#[derive(Debug)]
struct KeeperMemory {
    info: KeeperInfo,
    /// Whether a change was seen, so that the publication is known to be of a living keeper.
    witnessed: bool,
    changed: Duration,
}

#[derive(Debug, Default)]
struct DbMemory {
    good_at: Option<Duration>,
    converging: Option<(Generation, Duration)>,
}

#[derive(Debug)]
struct ProxyMemory {
    info: ProxyInfo,
    heard: bool,
    changed: Duration,
    acknowledged: Duration,
}

impl Memory {
    /// No memory yet; `most_failovers` as in [`View`].
    pub fn new(most_failovers: usize) -> Self {
        Self {
            most_failovers,
            cluster: None,
            observed: Duration::ZERO,
            last_look: None,
            blind: false,
            looks: 0,
            keepers: BTreeMap::new(),
            dbs: BTreeMap::new(),
            proxies: BTreeMap::new(),
            primary: None,
            first_keeper: None,
            gave_up: BTreeSet::new(),
            failovers: VecDeque::new(),
        }
    }

    /// A look failed: the time until the next good one counts for nobody.
    pub fn note_blindness(&mut self) {
        self.blind = true;
    }

    /// Takes in a look at `data`, stored at `revision`.
    pub fn observe(&mut self, look: &Look, data: &ClusterData, revision: u64) -> View {
        let cluster = data.cluster.as_ref();
        let uid = cluster.map(|cluster| cluster.uid.clone());
        if self.cluster != uid {
            *self = Self {
                cluster: uid,
                ..Self::new(self.most_failovers)
            };
        }
        let spec = cluster
            .and_then(|c| c.spec.as_ref())
            .cloned()
            .unwrap_or_default()
            .effective();
        self.advance(look.sent_at, &spec);
        self.note_keepers(look, data);
        self.note_proxies(look, data, &spec);
        self.note_dbs(data);
        self.note_failover(data);
        self.note_initialisation(data);
        self.view(look, data, revision, &spec)
    }

    /// Advances the observed clock. A gap longer than looks are apart is time in which this
    /// sentinel did not look, whatever the cause.
    fn advance(&mut self, sent_at: Instant, spec: &EffectiveSpec) {
        let longest = spec.sleep_interval.saturating_add(spec.sleep_interval / 2);
        let gap = self
            .last_look
            .map_or(Duration::ZERO, |last| sent_at.since(last));
        if !self.blind {
            self.observed = self.observed.saturating_add(gap.min(longest));
        }
        self.blind = false;
        self.last_look = Some(sent_at);
        self.looks = self.looks.saturating_add(1);
    }

    fn note_keepers(&mut self, look: &Look, data: &ClusterData) {
        let now = self.observed;
        self.keepers.retain(|uid, _| {
            data.keepers.contains_key(uid) || look.keepers.iter().any(|info| info.uid == *uid)
        });
        let ours = |info: &&KeeperInfo| Some(&info.cluster_uid) == self.cluster.as_ref();
        for info in look.keepers.iter().filter(ours) {
            let first = self.looks == 1;
            let memory = self
                .keepers
                .entry(info.uid.clone())
                .or_insert_with(|| KeeperMemory {
                    info: KeeperInfo::default(),
                    witnessed: false,
                    changed: now,
                });
            if memory.info.info_uid != info.info_uid {
                memory.witnessed |= !first;
                memory.changed = now;
                memory.info = info.clone();
            }
        }
        for uid in data.keepers.keys() {
            self.keepers
                .entry(uid.clone())
                .or_insert_with(|| KeeperMemory {
                    info: KeeperInfo::default(),
                    witnessed: false,
                    changed: now,
                });
        }
    }

    fn note_proxies(&mut self, look: &Look, data: &ClusterData, spec: &EffectiveSpec) {
        let now = self.observed;
        // A vanished key is silence like any other: forgotten only once it cannot forward.
        self.proxies.retain(|uid, memory| {
            let silent_for = now.saturating_sub(memory.changed);
            data.proxy.spec.enabled_proxies.contains(uid)
                || look.proxies.iter().any(|info| info.uid == *uid)
                || silent_for < proxy_bound(&memory.info, memory.heard, spec)
        });
        for info in &look.proxies {
            let memory = self
                .proxies
                .entry(info.uid.clone())
                .or_insert_with(|| ProxyMemory {
                    info: ProxyInfo::default(),
                    heard: false,
                    changed: now,
                    acknowledged: now,
                });
            if memory.heard && memory.info.info_uid == info.info_uid {
                continue;
            }
            if memory.info.generation != info.generation || !memory.heard {
                memory.acknowledged = now;
            }
            memory.info = info.clone();
            memory.heard = true;
            memory.changed = now;
        }
        for uid in &data.proxy.spec.enabled_proxies {
            self.proxies
                .entry(uid.clone())
                .or_insert_with(|| ProxyMemory {
                    info: ProxyInfo::default(),
                    heard: false,
                    changed: now,
                    acknowledged: now,
                });
        }
    }

    fn note_dbs(&mut self, data: &ClusterData) {
        let now = self.observed;
        let first = self.looks == 1;
        self.dbs.retain(|uid, _| data.dbs.contains_key(uid));
        for (uid, db) in &data.dbs {
            let report = self.report(uid, &db.spec.keeper_uid);
            let good_at = report
                .filter(|(state, _)| state.healthy)
                .map(|(_, changed)| changed);
            let generation = report.map_or(db.status.current_generation, |(s, _)| s.generation);
            let memory = self.dbs.entry(uid.clone()).or_default();
            if first && db.status.healthy {
                memory.good_at = Some(now);
            }
            memory.good_at = memory.good_at.max(good_at);
            if generation == db.generation {
                memory.converging = None;
            } else if memory
                .converging
                .is_none_or(|(wanted, _)| wanted != db.generation)
            {
                memory.converging = Some((db.generation, now));
            }
        }
    }

    /// The last report about a db that was seen to be fresh, and when it was seen.
    fn report(&self, db: &DbUid, keeper: &KeeperUid) -> Option<(&PostgresState, Duration)> {
        let memory = self.keepers.get(keeper).filter(|memory| memory.witnessed)?;
        let state = memory
            .info
            .postgres_state
            .as_ref()
            .filter(|state| state.uid == *db)?;
        Some((state, memory.changed))
    }

    fn note_failover(&mut self, data: &ClusterData) {
        let primary = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.status.master.clone());
        if self.primary.is_some() && primary.is_some() && self.primary != primary {
            self.failovers.push_back(self.observed);
        }
        if primary.is_some() {
            self.primary = primary;
        }
        let now = self.observed;
        self.failovers
            .retain(|at| now.saturating_sub(*at) < FAILOVER_WINDOW);
    }

    /// Remembers where the initialisation was given up, so that another keeper tries next.
    fn note_initialisation(&mut self, data: &ClusterData) {
        let status = data.cluster.as_ref().map(|cluster| &cluster.status);
        if status.is_none_or(|status| status.phase == Some(Phase::Normal)) {
            self.gave_up.clear();
            return;
        }
        let keeper = data.primary().map(|db| db.spec.keeper_uid.clone());
        if keeper.is_none()
            && let Some(before) = self.first_keeper.take()
        {
            self.gave_up.insert(before);
        }
        self.first_keeper = keeper;
    }

    fn view(&self, look: &Look, data: &ClusterData, revision: u64, spec: &EffectiveSpec) -> View {
        let now = self.observed;
        let mut deadlines = Vec::new();
        let keepers = self.keepers.iter().map(|(uid, memory)| {
            let silent_for = now.saturating_sub(memory.changed);
            deadlines.push(fail_after(spec).checked_sub(silent_for));
            let info = memory.witnessed.then(|| memory.info.clone());
            (uid.clone(), KeeperView { info, silent_for })
        });
        let keepers = keepers.collect();
        let dbs = data.dbs.iter().map(|(uid, db)| {
            let memory = self.dbs.get(uid);
            let unhealthy_for = memory
                .and_then(|memory| memory.good_at)
                .map(|good| now.saturating_sub(good));
            let converging_for = memory
                .and_then(|memory| memory.converging)
                .map(|(_, since)| now.saturating_sub(since));
            deadlines.push(unhealthy_for.and_then(|age| fail_after(spec).checked_sub(age)));
            let report = self
                .report(uid, &db.spec.keeper_uid)
                .map(|(state, _)| state.clone());
            (
                uid.clone(),
                DbView {
                    report,
                    unhealthy_for,
                    converging_for,
                },
            )
        });
        let dbs = dbs.collect();
        let proxies = self.proxies.iter().map(|(uid, memory)| {
            let (view, left) = self.proxy_view(memory, spec);
            deadlines.push(left);
            (uid.clone(), view)
        });
        let proxies = proxies.collect();
        let next_change_in = deadlines
            .into_iter()
            .flatten()
            .filter(|left| !left.is_zero())
            .min();
        View {
            wall: look.wall,
            entropy: look.entropy,
            revision,
            looks: self.looks,
            keepers,
            dbs,
            proxies,
            gave_up: self.gave_up.clone(),
            recent_failovers: self.failovers.len(),
            most_failovers: self.most_failovers,
            next_change_in: next_change_in.unwrap_or(spec.sleep_interval),
        }
    }

    /// The proxy, and how long until it, or the pause after its acknowledgement, is over.
    fn proxy_view(
        &self,
        memory: &ProxyMemory,
        spec: &EffectiveSpec,
    ) -> (ProxyView, Option<Duration>) {
        let silent_for = self.observed.saturating_sub(memory.changed);
        let acknowledged_for = self.observed.saturating_sub(memory.acknowledged);
        let ours = memory
            .info
            .features
            .iter()
            .any(|name| name == FEATURE_AGE_FROM_SEND);
        let bound = proxy_bound(&memory.info, memory.heard, spec);
        let left = bound.checked_sub(silent_for);
        let pause = spec
            .sleep_interval
            .checked_sub(acknowledged_for)
            .filter(|_| !ours);
        let view = ProxyView {
            generation: memory.heard.then_some(memory.info.generation),
            live: silent_for < bound,
            heard: memory.heard,
            closes_first: ours,
            acknowledged_for,
        };
        (
            view,
            [left, pause]
                .into_iter()
                .flatten()
                .filter(|time| !time.is_zero())
                .min(),
        )
    }
}

/// How long after its last publication a proxy may still forward (contract, section 7).
fn proxy_bound(info: &ProxyInfo, heard: bool, spec: &EffectiveSpec) -> Duration {
    let declared = u64::try_from(info.proxy_timeout_nanos)
        .ok()
        .filter(|nanos| *nanos > 0);
    let timeout = match declared {
        Some(nanos) if heard => Duration::from_nanos(nanos),
        Some(_) | None => spec.proxy_timeout,
    };
    if info
        .features
        .iter()
        .any(|name| name == FEATURE_AGE_FROM_SEND)
    {
        let twentieth = timeout / 20;
        timeout
            .saturating_add(twentieth)
            .saturating_add(Duration::from_millis(500))
    } else {
        timeout.saturating_mul(2)
    }
}
