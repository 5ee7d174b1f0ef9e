//! The sentinel's metrics (contract, section 6).

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::runtime::clock;

/// The gauges.
#[derive(Debug, Default, Clone)]
pub(super) struct Metrics {
    last_check: Gauge<f64, AtomicU64>,
    is_leader: Gauge,
    leader_count: Gauge,
}

/// The registry of a sentinel's metrics, and the handles to set them.
pub(super) fn registry(cluster_name: &str) -> (Registry, Metrics) {
    let mut registry = Registry::default();
    crate::runtime::http::register_identity(&mut registry, cluster_name, "sentinel");
    let metrics = Metrics::default();
    registry.register(
        "stolon_sentinel_last_cluster_check_success_seconds",
        "Last time the cluster was looked at",
        metrics.last_check.clone(),
    );
    registry.register(
        "stolon_sentinel_is_leader",
        "Whether this sentinel leads",
        metrics.is_leader.clone(),
    );
    registry.register(
        "stolon_sentinel_leader_count",
        "How often this sentinel was elected",
        metrics.leader_count.clone(),
    );
    (registry, metrics)
}

impl Metrics {
    pub(super) fn note_check(&self) {
        #[allow(clippy::cast_precision_loss, reason = "seconds of the Unix epoch fit")]
        self.last_check
            .set(clock::wall().moment().as_second() as f64);
    }

    pub(super) fn note_leading(&self, leading: bool) {
        self.is_leader.set(i64::from(leading));
        if leading {
            self.leader_count.inc();
        }
    }
}
