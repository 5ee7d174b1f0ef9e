//! What decisions are made from, beside the document.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::asked::Asked;
use crate::model::{
    ClusterData, Db, DbUid, EffectiveSpec, FollowType, Generation, KeeperInfo, KeeperUid,
    PostgresState, ProxyUid, Role,
};
use crate::time::Timestamp;

/// What one look, with the memory of the earlier ones, says of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The wall clock.
    pub wall: Timestamp,
    /// Chance, for new names.
    pub entropy: u64,
    /// The store revision of the document that was looked at.
    pub revision: u64,
    /// How many looks at this cluster there have been, this one included.
    pub looks: u64,
    /// Every keeper that published, or that the cluster data name.
    pub keepers: BTreeMap<KeeperUid, KeeperView>,
    /// Every db of the cluster data.
    pub dbs: BTreeMap<DbUid, DbView>,
    /// Every proxy that published, or that the cluster data enable.
    pub proxies: BTreeMap<ProxyUid, ProxyView>,
    /// The highest generation that the proxies were ever given, as far as was seen. One above that of
    /// the cluster data: those are older ones than proxies may still go by (I5).
    pub proxies_reached: Generation,
    /// Keepers on which the initialisation of this cluster was given up.
    pub gave_up: BTreeSet<KeeperUid>,
    /// Changes of the primary seen within [`super::FAILOVER_WINDOW`].
    pub recent_failovers: usize,
    /// How many of them are too many to go on without an operator (I10).
    pub most_failovers: usize,
    /// What operators ask for.
    pub asked: Asked,
    /// When the passing of time alone may next change this view.
    pub next_change_in: Duration,
}

/// So far ahead of the cluster data a generation may be that somebody says to have carried out: one
/// that makes no sense must not use generations up.
pub(super) const MOST_AHEAD: i64 = 1_000_000;

impl View {
    /// The highest generation that a db is known to have had, of which `present` is one: that of its
    /// keeper's report is higher where the cluster data went back (I5).
    pub fn generation_reached(&self, db: &DbUid, present: Generation) -> Generation {
        let report = self.dbs.get(db).and_then(|db| db.report.as_ref());
        let said = report.map_or(Generation::NONE, |report| report.generation);
        let most = Generation(present.0.saturating_add(MOST_AHEAD));
        if said <= most {
            present.max(said)
        } else {
            present
        }
    }

    /// The standbys, by `data`, that are none: their keepers have carried out newer cluster data than
    /// these, and hold an instance on a later timeline than the primary's, writable or at rest. So the
    /// cluster data went back to before a failover; whoever goes on by them loses what was committed since
    /// (I7).
    pub fn later_primaries<'a>(&self, data: &'a ClusterData) -> Vec<&'a Db> {
        let Some(primary) = data.primary() else {
            return Vec::new();
        };
        let report = |db: &Db| self.dbs.get(&db.uid)?.report.as_ref();
        let seen = report(primary).filter(|report| report.healthy);
        let timeline = seen.map_or(primary.status.timeline_id, |report| report.timeline_id);
        let system = seen.map_or(&primary.status.system_id, |report| &report.system_id);
        let is_later = |db: &&Db| {
            let follow = db.spec.follow_config.as_ref();
            let follows = follow.and_then(|follow| follow.follow_type.as_ref());
            let is_standby = db.spec.role == Some(Role::Standby)
                && follows == Some(&FollowType::Internal)
                && db.uid != primary.uid;
            let went_back = self.generation_reached(&db.uid, db.generation) > db.generation;
            is_standby
                && went_back
                && report(db).is_some_and(|report| {
                    // The Go program's keepers do not tell what their instance is.
                    let own = report.instance.as_ref();
                    let follows_nobody = own.is_some_and(|own| own.in_recovery != Some(true));
                    let same = system.is_empty() || report.system_id == *system;
                    follows_nobody && same && report.timeline_id > timeline
                })
        };
        data.dbs.values().filter(is_later).collect()
    }

    /// Whether a db is without WAL for good, which the primary has removed: it has stood still for as
    /// long as any failure lasts. What moves finds it elsewhere, as in an archive.
    pub fn is_stranded(&self, db: &DbUid, spec: &EffectiveSpec) -> bool {
        let stranded_for = self.dbs.get(db).and_then(|db| db.stranded_for);
        stranded_for.is_some_and(|long| long >= super::fail_after(spec))
    }

    /// Why the data of a standby cannot be used any more, as its keeper says of an instance that has been
    /// down for as long as any failure lasts: a disk may only be mounted late.
    pub fn unusable(&self, db: &Db) -> Option<&str> {
        let report = self.dbs.get(&db.uid)?.report.as_ref()?;
        let why = report.instance.as_ref()?.data_unusable.as_str();
        (!why.is_empty() && !db.status.healthy).then_some(why)
    }

    /// Whether an instance was last reported to be out of recovery.
    pub fn is_writable(&self, uid: &DbUid) -> bool {
        let report = self.dbs.get(uid).and_then(|view| view.report.as_ref());
        let instance = report.and_then(|report| report.instance.as_ref());
        instance.is_some_and(|instance| instance.in_recovery == Some(false))
    }
}

/// A keeper as it is seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeeperView {
    /// Its last publication, whose change was seen by this sentinel; none: nothing new was seen.
    pub info: Option<KeeperInfo>,
    /// How long ago its publication was last seen to change, or it was first noted.
    pub silent_for: Duration,
}

/// A db as it is seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DbView {
    /// Its keeper's last report about it.
    pub report: Option<PostgresState>,
    /// How long ago it was last reported healthy; none: never.
    pub unhealthy_for: Option<Duration>,
    /// How long it has been on its way to its present generation; none: it is there.
    pub converging_for: Option<Duration>,
    /// How long it has had WAL that the primary's history does not; none: it has not.
    pub astray_for: Option<Duration>,
    /// How long it has stood still, got nothing, and needed WAL that the primary has removed; none: it
    /// does not.
    pub stranded_for: Option<Duration>,
}

/// A proxy as it is seen.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyView {
    /// The generation it says it has carried out; none: it has not been heard.
    pub generation: Option<Generation>,
    /// Whether it may still forward what it once was told to.
    pub live: bool,
    /// Whether it published at all in the memory of this sentinel.
    pub heard: bool,
    /// Whether it closes connections before it acknowledges; the Go program acknowledges first.
    pub closes_first: bool,
    /// Whether it may lead clients to standbys, as it says.
    pub reads: bool,
    /// How long ago it was first seen to have carried out that generation.
    pub acknowledged_for: Duration,
}
