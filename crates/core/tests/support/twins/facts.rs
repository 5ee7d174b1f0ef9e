//! What the twins decide from: the cluster as anybody would describe it who has read the document
//! and heard the reports. Read anew here, by nothing that the decisions read by.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_core::model::{
    ClusterData, Db, DbUid, EffectiveSpec, FollowType, Generation, InitMode, InstanceReport,
    KeeperUid, PostgresState, Role, TimelineSwitch,
};
use stolon_core::sentinel::observe::{ProxyView, View};

/// The cluster, whose phase is normal.
pub(crate) struct Facts {
    pub(crate) spec: EffectiveSpec,
    pub(crate) primary_uid: Option<DbUid>,
    /// None: it is not among the dbs.
    pub(crate) primary: Option<Copy>,
    /// Its keeper gave it up and waits for a newer document.
    pub(crate) released: bool,
    /// It gave it up by this document or one before it, and this one names who is to replace it.
    pub(crate) awaits_successor: bool,
    /// An operator declared its keeper failed.
    pub(crate) forced: bool,
    /// The document that was read has it replicate synchronously.
    pub(crate) in_force: bool,
    pub(crate) listed: BTreeSet<DbUid>,
    pub(crate) confirmed: BTreeSet<DbUid>,
    /// By uid.
    pub(crate) standbys: Vec<Copy>,
    /// Primaries of old.
    pub(crate) deposed: Vec<Copy>,
    /// The keepers there are, those that joined just now included; and what is known of each.
    pub(crate) keepers: Vec<KeeperFacts>,
    pub(crate) too_many_failovers: bool,
    /// A proxy that may still lead clients somewhere may lead them to any standby.
    pub(crate) somebody_reads: bool,
    /// Whom the document that was read has them leave; empty: nobody.
    pub(crate) named: DbUid,
    /// But not to this one: it was named to them all, and they have said so.
    pub(crate) left: Option<DbUid>,
}

/// A keeper.
#[derive(Clone)]
pub(crate) struct KeeperFacts {
    pub(crate) uid: KeeperUid,
    pub(crate) up: bool,
    /// Heard so lately that it may be given something.
    pub(crate) heard: bool,
    pub(crate) may_run_primary: bool,
    pub(crate) may_be_synchronous: bool,
    /// For longer than deadKeeperRemovalInterval.
    pub(crate) dead: bool,
}

/// A copy of the data.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) uid: DbUid,
    /// None: there is no such keeper.
    pub(crate) keeper: Option<KeeperFacts>,
    pub(crate) healthy: bool,
    /// Its data are there.
    pub(crate) begun: bool,
    /// It does what the document that was read says.
    pub(crate) converged: bool,
    /// It has taken longer over that than it may.
    pub(crate) overdue: bool,
    pub(crate) position: u64,
    pub(crate) timeline: u64,
    pub(crate) relation: Relation,
    /// It has received more than the primary's history holds and replayed none of that, and it has
    /// not been long so: half a record, which it drops when it follows (story 29).
    pub(crate) may_drop_rest: bool,
    /// For long now it gets nothing, and the primary has removed what it needs next.
    pub(crate) stranded: bool,
    /// Its keeper, which lives, says that its data cannot be used, and it has been down for long.
    pub(crate) useless: bool,
    /// Its instance runs as a primary.
    pub(crate) writable: bool,
    /// It follows the primary by the document, and WAL comes to it now.
    pub(crate) streams: bool,
}

/// What a copy is to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// An earlier state of it.
    Earlier,
    Forked,
    /// The reports do not tell.
    Untold,
}

impl Facts {
    /// None: the cluster is not in its normal phase.
    pub(crate) fn read(data: &ClusterData, view: &View) -> Option<Self> {
        let cluster = data.cluster.as_ref()?;
        if cluster.status.phase != Some(stolon_core::model::Phase::Normal) {
            return None;
        }
        let spec = cluster.spec.as_ref()?.effective();
        let keepers = keepers(data, view, &spec);
        let source = data.primary();
        let copy = |db: &Db| read_copy(db, source, &keepers, view, &spec);
        let is_standby = |db: &&Db| {
            let follow = db.spec.follow_config.as_ref();
            let inside = follow.is_some_and(|f| f.follow_type == Some(FollowType::Internal));
            db.spec.role == Some(Role::Standby) && inside
        };
        // The first of a standby cluster.
        let outside = |db: &&Db| {
            let follow = db.spec.follow_config.as_ref();
            db.spec.role == Some(Role::Standby)
                && follow.is_some_and(|f| f.follow_type == Some(FollowType::External))
        };
        let (standbys, others): (Vec<&Db>, Vec<&Db>) = data.dbs.values().partition(is_standby);
        let deposed = others.into_iter().filter(|db| {
            Some(*db) != source && (db.spec.role == Some(Role::Primary) || outside(db))
        });
        let keeper = source.and_then(|db| data.keepers.get(&db.spec.keeper_uid));
        let instance = source.and_then(|db| instance(view, &db.uid));
        let released = instance.and_then(|instance| instance.released_at_revision);
        let named = source.map(|db| &db.spec.synchronous_standbys);
        Some(Self {
            primary_uid: cluster.status.master.clone(),
            primary: source.map(copy),
            released: released.is_some_and(|at| at >= view.revision),
            awaits_successor: released.is_some()
                && spec.synchronous_replication
                && !data.proxy.spec.successor_db_uid.is_empty(),
            forced: keeper.is_some_and(|keeper| keeper.status.force_fail),
            in_force: source.is_some_and(|db| db.spec.synchronous_replication),
            listed: named.into_iter().flat_map(|l| l.iter().cloned()).collect(),
            confirmed: source.map(|db| confirmed(db, view)).unwrap_or_default(),
            standbys: standbys.into_iter().map(copy).collect(),
            deposed: deposed.map(copy).collect(),
            somebody_reads: readers(data, view).next().is_some(),
            named: data.proxy.spec.successor_db_uid.clone(),
            left: readers(data, view)
                .all(|proxy| !proxy.live || proxy.generation == Some(data.proxy.generation))
                .then(|| data.proxy.spec.successor_db_uid.clone()),
            too_many_failovers: view.recent_failovers >= view.most_failovers,
            keepers,
            spec,
        })
    }
}

/// The proxies that may read from standbys, now or when they come back.
fn readers<'a>(data: &'a ClusterData, view: &'a View) -> impl Iterator<Item = &'a ProxyView> {
    let enabled = &data.proxy.spec.enabled_proxies;
    let all = view.proxies.iter().filter(|(_, proxy)| proxy.reads);
    let able = all.filter(|(uid, proxy)| proxy.live || enabled.contains(uid));
    able.map(|(_, proxy)| proxy)
}

impl Copy {
    pub(crate) fn is_up(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.up)
    }

    /// It does what it is to do.
    pub(crate) fn is_good(&self) -> bool {
        self.healthy && self.converged
    }
}

fn keepers(data: &ClusterData, view: &View, spec: &EffectiveSpec) -> Vec<KeeperFacts> {
    let all: BTreeSet<&KeeperUid> = data.keepers.keys().chain(view.keepers.keys()).collect();
    let facts = all.into_iter().filter_map(|uid| {
        let (known, seen) = (data.keepers.get(uid), view.keepers.get(uid));
        let silence = seen.map_or(Duration::ZERO, |seen| seen.silent_for);
        let heard = seen.is_some_and(|seen| seen.info.is_some())
            && silence <= patience(spec).min(3 * spec.sleep_interval);
        let joins = known.is_none() && heard;
        let status = known.map(|known| &known.status);
        let forced = status.is_some_and(|status| status.force_fail);
        let up = silence < patience(spec) && !forced;
        let says = seen.and_then(|seen| seen.info.as_ref());
        let primary = says.map_or_else(|| status?.can_be_master, |info| info.can_be_master);
        let synchronous = says.map_or_else(
            || status?.can_be_synchronous_replica,
            |info| info.can_be_synchronous_replica,
        );
        let last = status.map(|status| status.last_healthy_time);
        let last = last.filter(|stamp| !stamp.is_zero());
        let buried = spec.dead_keeper_removal_interval;
        (known.is_some() || joins).then(|| KeeperFacts {
            uid: uid.clone(),
            up,
            heard,
            may_run_primary: primary != Some(false),
            may_be_synchronous: synchronous != Some(false),
            dead: !up && !forced && last.is_some_and(|last| view.wall.since(last) > buried),
        })
    });
    facts.collect()
}

/// How long anybody may be silent, or not well (ADR 0008).
fn patience(spec: &EffectiveSpec) -> Duration {
    spec.fail_interval.max(2 * spec.sleep_interval)
}

fn report<'a>(view: &'a View, db: &DbUid) -> Option<&'a PostgresState> {
    view.dbs.get(db)?.report.as_ref()
}

fn instance<'a>(view: &'a View, db: &DbUid) -> Option<&'a InstanceReport> {
    report(view, db)?.instance.as_ref()
}

/// Who has everything: once seen in sync, by a report of the generation that named it, and named
/// ever since.
fn confirmed(primary: &Db, view: &View) -> BTreeSet<DbUid> {
    let mut known = primary.status.synchronous_standbys.to_vec();
    let report = report(view, &primary.uid).filter(|r| r.healthy);
    if let Some(report) = report.filter(|r| r.generation == primary.generation) {
        known.extend(report.synchronous_standbys.iter().cloned());
    }
    known.retain(|uid| primary.spec.synchronous_standbys.contains(uid));
    let known = known.into_iter().collect();
    if primary.spec.synchronous_replication {
        known
    } else {
        BTreeSet::new()
    }
}

fn read_copy(
    db: &Db,
    primary: Option<&Db>,
    keepers: &[KeeperFacts],
    view: &View,
    spec: &EffectiveSpec,
) -> Copy {
    let keeper = keepers
        .iter()
        .find(|keeper| keeper.uid == db.spec.keeper_uid);
    let seen = view.dbs.get(&db.uid);
    let said = report(view, &db.uid);
    let there = said.map_or(db.status.current_generation, |said| said.generation);
    let begun = there != Generation::NONE;
    let well = seen.and_then(|seen| seen.unhealthy_for);
    let way = Way::of(db, view);
    let source = primary.map(|primary| Way::of(primary, view));
    let replayed = instance(view, &db.uid).map_or(0, |instance| instance.replay_lsn.0);
    let as_replayed = Way {
        position: replayed,
        ..Way::of(db, view)
    };
    let astray = seen.and_then(|seen| seen.astray_for);
    let soon = astray.is_none_or(|age| age < patience(spec));
    let stranded = seen.and_then(|seen| seen.stranded_for);
    let stands_at = |way: &Way<'_>| {
        let source = source.as_ref();
        source.map_or(Relation::Untold, |source| way.relation(source))
    };
    let limit = match db.spec.init_mode {
        Some(InitMode::New) if !begun => Some(spec.init_timeout),
        Some(InitMode::Resync) if !begun => spec.sync_timeout,
        _ => Some(spec.convergence_timeout),
    };
    let waited = seen.and_then(|seen| seen.converging_for);
    let follow = db.spec.follow_config.as_ref().map(|follow| &follow.db_uid);
    let follows = primary.is_some_and(|primary| Some(&primary.uid) == follow);
    let is_up = keeper.is_some_and(|keeper| keeper.up);
    let healthy = well.is_some_and(|age| age < patience(spec)) && is_up;
    let useless = instance(view, &db.uid).is_some_and(|said| !said.data_unusable.is_empty());
    let writable = instance(view, &db.uid).is_some_and(|said| said.in_recovery == Some(false));
    Copy {
        uid: db.uid.clone(),
        healthy,
        writable,
        useless: useless && !healthy && is_up,
        keeper: keeper.cloned(),
        begun,
        converged: there == db.generation,
        overdue: there != db.generation && waited.zip(limit).is_some_and(|(w, limit)| w > limit),
        position: way.position,
        timeline: way.timeline,
        relation: stands_at(&way),
        may_drop_rest: soon && replayed > 0 && stands_at(&as_replayed) != Relation::Forked,
        stranded: stranded.is_some_and(|long| long >= patience(spec)),
        streams: follows && primary.is_some_and(|primary| receives(db, primary, view)),
    }
}

/// Whether the primary sends to it; where the primary does not say whom it sends to, whether it
/// says itself that it receives, or at least not that it does not.
fn receives(db: &Db, primary: &Db, view: &View) -> bool {
    let sends = |primary: &InstanceReport| {
        let mut peers = primary.peers.iter();
        peers.any(|peer| peer.db_uid == db.uid && peer.state == "streaming")
    };
    let denies = || instance(view, &db.uid).is_some_and(|own| own.streaming == Some(false));
    instance(view, &primary.uid).map_or_else(|| !denies(), sends)
}

/// The way a copy went, as far back as is told.
struct Way<'a> {
    /// Its keeper has reported it in the generation that is wanted.
    reported: bool,
    begun: bool,
    system: &'a str,
    timeline: u64,
    position: u64,
    switches: &'a [TimelineSwitch],
}

impl<'a> Way<'a> {
    /// By its last healthy report; before that by what the document says.
    fn of(db: &'a Db, view: &'a View) -> Self {
        let (status, said) = (&db.status, report(view, &db.uid));
        let there = said.map_or(status.current_generation, |said| said.generation);
        let (reported, begun) = (there == db.generation, there != Generation::NONE);
        let (system, timeline, position, switches) = match said.filter(|said| said.healthy) {
            Some(it) => (
                &it.system_id,
                it.timeline_id,
                it.xlog_pos,
                &it.timelines_history,
            ),
            None => (
                &status.system_id,
                status.timeline_id,
                status.xlog_pos,
                &status.timelines_history,
            ),
        };
        Self {
            reported,
            begun,
            system,
            timeline: timeline.0,
            position: position.0,
            switches,
        }
    }

    /// What this copy is to `primary`'s.
    fn relation(&self, primary: &Self) -> Relation {
        if !self.begun {
            return Relation::Untold;
        }
        if self.system != primary.system && !self.system.is_empty() && !primary.system.is_empty() {
            return Relation::Forked;
        }
        // Promoted, and lost before it could say so: whoever followed it is ahead of what it said.
        let lost = primary.begun && !primary.reported;
        let ahead = self.timeline > primary.timeline && lost;
        let (early, late) = if ahead {
            (primary, self)
        } else {
            (self, primary)
        };
        if early.timeline == 0 || late.timeline == 0 {
            return Relation::Untold;
        }
        early.leads_to(late)
    }

    /// Whether `late` came through where this copy is. Two switches are told at most: with fewer
    /// there were no others.
    fn leads_to(&self, late: &Self) -> Relation {
        let told = |switches: &[TimelineSwitch]| -> Vec<(u64, u64)> {
            switches
                .iter()
                .map(|s| (s.timeline_id.0, s.switch_point.0))
                .collect()
        };
        let mut way = told(late.switches);
        let oldest = way.first().copied();
        way.push((late.timeline, u64::MAX));
        if let Some(here) = way
            .iter()
            .position(|(timeline, _)| *timeline == self.timeline)
        {
            let mut before = way[..here]
                .iter()
                .rev()
                .zip(told(self.switches).into_iter().rev());
            let one_way = before.all(|(theirs, ours)| *theirs == ours);
            let in_time = self.position <= way[here].1;
            return if one_way && in_time {
                Relation::Earlier
            } else {
                Relation::Forked
            };
        }
        let before_all_told = oldest.is_some_and(|(timeline, left_at)| {
            late.switches.len() == 2 && self.timeline < timeline && self.position <= left_at
        });
        if before_all_told || (oldest.is_none() && self.timeline < late.timeline) {
            Relation::Untold
        } else {
            Relation::Forked
        }
    }
}
