//! From what components published, and what is remembered of it, to a [`View`] to decide by.
//!
//! Silence is measured on the *observed clock*: it advances only over time in which this sentinel
//! itself read the store, so that its own blindness (a store outage, a paused process) never counts
//! as anybody's silence; nor does time in which, as far as it knows, nobody could write there.

mod asked;
mod db_memory;
mod proxies;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Look;
use super::lineage::is_forked;
use crate::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbUid, EffectiveSpec, KeeperInfo, KeeperUid, Lsn,
    Phase, PostgresState, ProxyUid,
};
use crate::time::Instant;
pub use asked::{Asked, Pause};
use db_memory::DbMemory;
use proxies::Proxies;
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
    /// Nothing can be written to the store, as far as is known.
    unwritable: bool,
    looks: u64,
    keepers: BTreeMap<KeeperUid, KeeperMemory>,
    dbs: BTreeMap<DbUid, DbMemory>,
    proxies: Proxies,
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
    /// When its present start was first seen.
    started: Duration,
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
            unwritable: false,
            looks: 0,
            keepers: BTreeMap::new(),
            dbs: BTreeMap::new(),
            proxies: Proxies::default(),
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

    /// What was sent at `sent_at` could not be stored. While nothing can be written nobody can give a
    /// sign of life: from then on no time counts, until somebody is seen to have given one.
    pub fn note_unwritable(&mut self, sent_at: Instant) {
        let Some(last) = self.last_look.filter(|_| !self.unwritable) else {
            return;
        };
        self.unwritable = true;
        self.observed = self.observed.saturating_sub(last.since(sent_at));
    }

    /// Takes in a look at `data`, stored at `revision`.
    pub fn observe(&mut self, look: &Look, data: &ClusterData, revision: u64) -> View {
        let spec = self.take_in(look, data);
        self.view(look, data, revision, &spec)
    }

    /// Takes in a look at `data` by which nothing is decided: when the passing of time alone may next
    /// change what would be seen.
    pub fn follow(&mut self, look: &Look, data: &ClusterData) -> Duration {
        let spec = self.take_in(look, data);
        let (_, next_change_in) = self.proxies_and_next_change(data, &spec);
        next_change_in
    }

    fn take_in(&mut self, look: &Look, data: &ClusterData) -> EffectiveSpec {
        let cluster = data.cluster.as_ref();
        let uid = cluster.map(|cluster| cluster.uid.clone());
        if self.cluster != uid {
            *self = Self {
                cluster: uid,
                ..Self::new(self.most_failovers)
            };
        }
        let spec = cluster.and_then(|c| c.spec.as_ref()).map_or_else(
            || ClusterSpec::default().effective(),
            ClusterSpec::effective,
        );
        let before = self.observed;
        self.advance(look.sent_at, &spec);
        self.note_keepers(look, data);
        self.proxies.note(self.observed, look, data, &spec);
        self.note_dbs(data, self.observed.saturating_sub(before));
        self.note_failover(data);
        self.note_initialisation(data);
        spec
    }

    /// Advances the observed clock. A gap longer than looks are apart is time in which this
    /// sentinel did not look, whatever the cause.
    fn advance(&mut self, sent_at: Instant, spec: &EffectiveSpec) {
        let longest = spec.sleep_interval.saturating_add(spec.sleep_interval / 2);
        let gap = self
            .last_look
            .map_or(Duration::ZERO, |last| sent_at.since(last));
        if !self.blind && !self.unwritable {
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
                    started: now,
                });
            if memory.info.boot_uuid != info.boot_uuid {
                memory.started = now;
            }
            if memory.info.info_uid != info.info_uid {
                memory.witnessed |= !first;
                self.unwritable = false;
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
                    started: now,
                });
        }
    }

    fn note_dbs(&mut self, data: &ClusterData, passed: Duration) {
        let now = self.observed;
        let first = self.looks == 1;
        let primary = data.primary();
        self.dbs.retain(|uid, _| data.dbs.contains_key(uid));
        for (uid, db) in &data.dbs {
            let report = self.report(uid, &db.spec.keeper_uid);
            let good_at = report
                .filter(|(state, _)| state.healthy)
                .map(|(_, changed)| changed);
            let generation = report.map_or(db.status.current_generation, |(s, _)| s.generation);
            let position = report.map_or(Lsn::UNKNOWN, |(state, _)| state.xlog_pos);
            let needs = self.lacks_wal_since(primary, db);
            let waited = self.waits_for_admission(data, &db.spec.keeper_uid);
            let memory = self.dbs.entry(uid.clone()).or_default();
            memory.hold(passed.min(waited));
            if first && db.status.healthy {
                memory.good_at = Some(now);
            }
            memory.good_at = memory.good_at.max(good_at);
            let astray = primary.is_some_and(|primary| is_forked(primary, db));
            memory.astray = astray.then(|| memory.astray.unwrap_or(now));
            // What moves finds WAL somewhere, as in an archive; what was further before has it.
            memory.furthest = memory.furthest.max(position);
            let stranded = needs.is_some_and(|oldest| memory.furthest < oldest);
            let since = memory.stranded.filter(|_| memory.position == position);
            memory.stranded = stranded.then(|| since.unwrap_or(now));
            memory.position = position;
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

    /// Where the primary's WAL begins, when that is after what a standby has that runs and gets
    /// nothing from it.
    fn lacks_wal_since(&self, primary: Option<&Db>, db: &Db) -> Option<Lsn> {
        let report = |db: &Db| {
            let found = self.report(&db.uid, &db.spec.keeper_uid);
            found.map(|(state, _)| state)
        };
        let (oldest, state) = (report(primary?)?.oldest_wal(), report(db)?);
        let streaming = state.instance.as_ref().and_then(|own| own.streaming);
        let position = state.xlog_pos;
        let lacks = state.healthy && streaming != Some(true);
        (lacks && position != Lsn::UNKNOWN && position < oldest).then_some(oldest)
    }

    /// How long a keeper that started anew has waited for somebody who leads and admits this start:
    /// by the boot rule its instance must not run yet, and that is not the instance's fault. A leader
    /// admits at the look that first sees the start: a keeper that starts again and again gains nothing.
    fn waits_for_admission(&self, data: &ClusterData, keeper: &KeeperUid) -> Duration {
        let reported = self.keepers.get(keeper).filter(|memory| memory.witnessed);
        let admitted = data.keepers.get(keeper);
        reported
            .zip(admitted)
            .filter(|(memory, keeper)| memory.info.boot_uuid != keeper.status.boot_uuid)
            .map_or(Duration::ZERO, |(memory, _)| {
                self.observed.saturating_sub(memory.started)
            })
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
        let keepers = self.keepers.iter().map(|(uid, memory)| {
            let silent_for = now.saturating_sub(memory.changed);
            let info = memory.witnessed.then(|| memory.info.clone());
            (uid.clone(), KeeperView { info, silent_for })
        });
        let keepers = keepers.collect();
        let dbs = data.dbs.iter().map(|(uid, db)| {
            let memory = self.dbs.get(uid);
            let [unhealthy_for, astray_for, stranded_for] =
                memory.map_or([None; 3], |memory| memory.ages(now));
            let converging_for = memory
                .and_then(|memory| memory.converging)
                .map(|(_, since)| now.saturating_sub(since));
            let report = self
                .report(uid, &db.spec.keeper_uid)
                .map(|(state, _)| state.clone());
            (
                uid.clone(),
                DbView {
                    report,
                    unhealthy_for,
                    converging_for,
                    astray_for,
                    stranded_for,
                },
            )
        });
        let dbs = dbs.collect();
        let (proxies, next_change_in) = self.proxies_and_next_change(data, spec);
        View {
            wall: look.wall,
            entropy: look.entropy,
            revision,
            looks: self.looks,
            keepers,
            dbs,
            proxies,
            proxies_reached: self.proxies.reached(),
            gave_up: self.gave_up.clone(),
            recent_failovers: self.failovers.len(),
            most_failovers: self.most_failovers,
            asked: Asked::new(look),
            next_change_in,
        }
    }

    /// The proxies as they are seen, and when the passing of time alone may next change any of it.
    fn proxies_and_next_change(
        &self,
        data: &ClusterData,
        spec: &EffectiveSpec,
    ) -> (BTreeMap<ProxyUid, ProxyView>, Duration) {
        let now = self.observed;
        let mut deadlines = Vec::new();
        let proxies = self.proxies.view(now, spec, &mut deadlines);
        let keepers = self.keepers.values();
        let silences = keepers.map(|memory| now.saturating_sub(memory.changed));
        let dbs = data.dbs.keys().filter_map(|uid| self.dbs.get(uid));
        let ages = dbs.flat_map(|memory| memory.ages(now)).flatten();
        for age in silences.chain(ages) {
            deadlines.push(fail_after(spec).checked_sub(age));
        }
        let left = deadlines.into_iter().flatten();
        let next = left.filter(|left| !left.is_zero()).min();
        (proxies, next.unwrap_or(spec.sleep_interval))
    }
}
