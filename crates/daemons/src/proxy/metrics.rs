//! The proxy's metrics.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use stolon_core::proxy::{Proxy, Route};

use crate::runtime::clock;

/// The gauges and counters.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    open: Gauge,
    check_age: Gauge<f64, AtomicU64>,
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) accept_failures: Counter,
    pub(super) refused: Counter,
    pub(super) closed: Counter,
    pub(super) not_introduced: Counter,
    pub(super) handshakes_failed: Counter,
    held: Gauge,
    hold_time: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            open: Gauge::default(),
            check_age: Gauge::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            accept_failures: Counter::default(),
            refused: Counter::default(),
            closed: Counter::default(),
            not_introduced: Counter::default(),
            handshakes_failed: Counter::default(),
            held: Gauge::default(),
            // 10 ms to 20 s.
            hold_time: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
        }
    }
}

/// A client that is held, as long as this lives.
#[derive(Debug)]
pub(super) struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
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
        "stolon_proxy_accept_failures",
        "Attempts to accept a client that failed",
        m.accept_failures,
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
    registry.register(
        "stolon_proxy_not_introduced",
        "Connections closed because they did not begin with a header of the PROXY protocol",
        m.not_introduced,
    );
    registry.register(
        "stolon_proxy_tls_handshakes_failed",
        "Clients that asked for TLS and did not get as far as a session",
        m.handshakes_failed,
    );
    registry.register(
        "stolon_proxy_held",
        "Clients that wait for a primary now",
        m.held,
    );
    registry.register(
        "stolon_proxy_hold_seconds",
        "How long clients waited for a primary that were then let through",
        m.hold_time,
    );
    (registry, metrics)
}

impl Metrics {
    /// Counts a client that is held.
    pub(super) fn hold(&self) -> Held {
        self.held.inc();
        Held(self.held.clone())
    }

    /// How many clients are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> i64 {
        self.held.get()
    }

    /// Counts a client that was held so long and is let through.
    pub(super) fn let_through(&self, waited: Duration) {
        self.hold_time.observe(waited.as_secs_f64());
    }

    pub(super) fn update(&self, proxy: &Proxy) {
        self.open
            .set(i64::from(matches!(proxy.route(), Route::To { .. })));
        if let Some(good) = proxy.good_at() {
            self.check_age.set(clock::now().since(good).as_secs_f64());
        }
    }
}
