//! The keeper's metrics (contract, section 6) and health.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stolon_core::keeper::Keeper;
use stolon_core::keeper::facts::Health as InstanceHealth;
use stolon_core::model::Role;

use crate::runtime::clock;
use crate::runtime::http::Health;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
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
    (registry, metrics)
}

impl Metrics {
    /// Sets everything from what the keeper knows.
    pub(super) fn update(&self, keeper: &Keeper, health: &Health) {
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
        health.set_ready(match (document, observation) {
            (None, _) => Some("the cluster data were not read yet".to_owned()),
            (Some(_), None) => Some("the instance does not answer queries".to_owned()),
            (Some(_), Some(_)) => None,
        });
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
