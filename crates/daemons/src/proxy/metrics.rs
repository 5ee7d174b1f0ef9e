//! The proxy's metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stolon_core::proxy::{Proxy, Route};

use crate::runtime::clock;

/// The gauges and counters.
#[derive(Debug, Default, Clone)]
pub(super) struct Metrics {
    open: Gauge,
    check_age: Gauge<f64, AtomicU64>,
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) closed: Counter,
}

/// The registry of a proxy's metrics, and the handles to set them.
pub(super) fn registry(cluster_name: &str) -> (Registry, Metrics) {
    let mut registry = Registry::default();
    crate::runtime::http::register_identity(&mut registry, cluster_name, "proxy");
    let metrics = Metrics::default();
    let m = metrics.clone();
    registry.register(
        "stolon_proxy_open",
        "Whether clients are let through",
        m.open,
    );
    registry.register(
        "stolon_proxy_last_good_check_age_seconds",
        "Age of the last good check of the cluster data",
        m.check_age,
    );
    registry.register(
        "stolon_proxy_connections",
        "Connections carried now",
        m.connections,
    );
    registry.register(
        "stolon_proxy_accepted",
        "Clients that connected",
        m.accepted,
    );
    registry.register(
        "stolon_proxy_refused",
        "Clients for whom there was no primary",
        m.refused,
    );
    registry.register(
        "stolon_proxy_forced_closed",
        "Connections closed because they were not allowed any more",
        m.closed,
    );
    (registry, metrics)
}

impl Metrics {
    pub(super) fn update(&self, proxy: &Proxy) {
        self.open
            .set(i64::from(matches!(proxy.route(), Route::To { .. })));
        if let Some(good) = proxy.good_at() {
            self.check_age.set(clock::now().since(good).as_secs_f64());
        }
    }
}
