//! The keeper's metrics (contract, section 6).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stolon_core::keeper::Keeper;
use stolon_core::keeper::facts::{Health as InstanceHealth, Observation};
use stolon_core::model::{Lsn, Role};

use crate::runtime::clock;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SlotLabel {
    slot: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StandbyLabel {
    standby: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// The gauges.
#[derive(Debug, Default, Clone)]
pub(super) struct Metrics {
    last_valid_update: Seconds,
    target_role: Family<RoleLabel, Gauge>,
    local_role: Family<RoleLabel, Gauge>,
    needs_reload: Gauge,
    needs_restart: Gauge,
    last_sync: Seconds,
    sleep_interval: Seconds,
    shutdown: Seconds,
    flush_lsn: Gauge,
    timeline: Gauge,
    replication: Replication,
}

/// What shows how the standbys get on, and what is kept for them.
#[derive(Debug, Default, Clone)]
struct Replication {
    streaming: Gauge,
    replay_lsn: Gauge,
    replay_age: Seconds,
    silent: Seconds,
    pending_restarts: Gauge,
    standby_lag: Family<StandbyLabel, Gauge>,
    slot_kept: Family<SlotLabel, Gauge>,
    slot_lost: Family<SlotLabel, Gauge>,
}

impl Replication {
    fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        let help = "Whether the WAL receiver of a standby streams";
        add("stolon_keeper_streaming", help, &self.streaming);
        let help = "Replay position, in bytes";
        add("stolon_keeper_replay_lsn", help, &self.replay_lsn);
        let (name, help) = (
            "stolon_keeper_pending_restart_parameters",
            "Parameters that wait for a restart",
        );
        add(name, help, &self.pending_restarts);
        let help = "Age of the last transaction that a standby has replayed";
        registry.register(
            "stolon_keeper_replay_age_seconds",
            help,
            self.replay_age.clone(),
        );
        let help = "Time since a standby last heard from its source";
        registry.register(
            "stolon_keeper_receiver_silent_seconds",
            help,
            self.silent.clone(),
        );
        let help = "Bytes that a standby has not flushed yet, by its primary";
        registry.register(
            "stolon_keeper_standby_flush_lag_bytes",
            help,
            self.standby_lag.clone(),
        );
        let help = "Bytes of WAL that a slot keeps";
        registry.register(
            "stolon_keeper_slot_wal_kept_bytes",
            help,
            self.slot_kept.clone(),
        );
        let help = "Whether a slot kept more than allowed, and is of no use any more";
        registry.register("stolon_keeper_slot_lost", help, self.slot_lost.clone());
    }

    fn update(&self, seen: &Observation) {
        let set = |gauge: &Gauge, bytes: u64| gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.streaming.set(i64::from(seen.streams_from.is_some()));
        set(&self.replay_lsn, seen.replay_lsn.0);
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        self.replay_age.set(seconds(seen.replay_age));
        self.silent.set(seconds(seen.silent_for));
        let pending = seen.pending_restart.len();
        set(&self.pending_restarts, u64::try_from(pending).unwrap_or(0));
        // Who is gone is to be gone here as well.
        self.standby_lag.clear();
        for peer in &seen.peers {
            let standby = peer.name.clone();
            let lag = seen.flush_lsn.bytes_ahead_of(peer.flush_lsn);
            set(
                &self.standby_lag.get_or_create(&StandbyLabel { standby }),
                lag,
            );
        }
        self.slot_kept.clear();
        self.slot_lost.clear();
        for slot in &seen.slots {
            let label = SlotLabel {
                slot: slot.name.clone(),
            };
            let keeps = slot.restart_lsn > Lsn::UNKNOWN;
            let kept = seen.replay_lsn.bytes_ahead_of(slot.restart_lsn);
            set(
                &self.slot_kept.get_or_create(&label),
                if keeps { kept } else { 0 },
            );
            let lost = i64::from(slot.is_lost());
            self.slot_lost.get_or_create(&label).set(lost);
        }
    }
}

/// The registry of a keeper's metrics, and the handles to set them.
pub(super) fn registry(cluster_name: &str) -> (Registry, Metrics) {
    let mut registry = Registry::default();
    crate::runtime::http::register_identity(&mut registry, cluster_name, "keeper");
    let metrics = Metrics::default();
    let m = metrics.clone();
    let mut add = |name: &str, help: &str, gauge: Seconds| registry.register(name, help, gauge);
    add(
        "stolon_keeper_clusterdata_last_valid_update_seconds",
        "Last time the cluster data was read and understood",
        m.last_valid_update,
    );
    add(
        "stolon_keeper_last_sync_success_seconds",
        "Last time nothing was left to do",
        m.last_sync,
    );
    add(
        "stolon_keeper_sleep_interval",
        "Seconds between two looks",
        m.sleep_interval,
    );
    add(
        "stolon_keeper_shutdown_seconds",
        "Seconds the shutdown took",
        m.shutdown,
    );
    registry.register(
        "stolon_keeper_target_role",
        "Role the cluster data ask for",
        m.target_role,
    );
    registry.register(
        "stolon_keeper_local_role",
        "Role the instance has",
        m.local_role,
    );
    registry.register(
        "stolon_keeper_needs_reload",
        "Whether a reload is due",
        m.needs_reload,
    );
    registry.register(
        "stolon_keeper_needs_restart",
        "Whether a restart is due",
        m.needs_restart,
    );
    registry.register(
        "stolon_keeper_flush_lsn",
        "Flush position, in bytes",
        m.flush_lsn,
    );
    registry.register(
        "stolon_keeper_timeline",
        "Timeline of the instance",
        m.timeline,
    );
    metrics.replication.register(&mut registry);
    (registry, metrics)
}

impl Metrics {
    /// Sets everything from what the keeper knows.
    pub(super) fn update(&self, keeper: &Keeper) {
        let (facts, document) = (keeper.facts(), keeper.document());
        let wall = clock::wall().moment().as_second();
        #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix epoch fit")]
        let now = wall as f64;
        let db = document.and_then(|d| d.data.db_of(keeper.uid()));
        if let Some(document) = document {
            let age = clock::now().since(document.sent_at).as_secs_f64();
            self.last_valid_update.set(now - age);
            let cluster = document.data.cluster.as_ref();
            let spec = cluster.and_then(|c| c.spec.clone()).unwrap_or_default();
            self.sleep_interval
                .set(spec.effective().sleep_interval.as_secs_f64());
        }
        let target = db.and_then(|db| db.spec.role.as_ref()).and_then(name_of);
        set_role(&self.target_role, target);
        let observation = match &facts.health {
            InstanceHealth::Running(observation) => Some(observation),
            _ => None,
        };
        let local = observation.map(|o| if o.in_recovery { "standby" } else { "master" });
        set_role(&self.local_role, local);
        if let Some(observation) = observation {
            self.replication.update(observation);
            self.needs_restart
                .set(i64::from(!observation.pending_restart.is_empty()));
            self.flush_lsn
                .set(i64::try_from(observation.flush_lsn.0).unwrap_or(i64::MAX));
            self.timeline
                .set(i64::try_from(observation.timeline.0).unwrap_or(i64::MAX));
        }
        let held = facts.disk.state.as_ref();
        let settled = db
            .zip(held)
            .is_some_and(|(db, held)| db.uid == held.uid && db.generation == held.generation);
        self.needs_reload.set(i64::from(keeper.needs_reload()));
        if settled && observation.is_some() {
            self.last_sync.set(now);
        }
    }

    pub(super) fn set_shutdown(&self, took: Duration) {
        self.shutdown.set(took.as_secs_f64());
    }
}

fn name_of(role: &Role) -> Option<&'static str> {
    match role {
        Role::Primary => Some("master"),
        Role::Standby => Some("standby"),
        Role::Unknown(_) => None,
    }
}

/// All three are always there.
fn set_role(family: &Family<RoleLabel, Gauge>, role: Option<&'static str>) {
    for name in ["undefined", "master", "standby"] {
        let is_it = role.unwrap_or("undefined") == name;
        family
            .get_or_create(&RoleLabel { role: name })
            .set(i64::from(is_it));
    }
}
