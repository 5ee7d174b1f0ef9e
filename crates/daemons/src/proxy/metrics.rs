//! The proxy's metrics.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use stolon_core::proxy::{Proxy, Route};

use super::greeting::Refusal;
use crate::runtime::clock;

/// Which of a proxy's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// For clients of the primary.
    Primary,
    /// For clients that only read.
    ReadOnly,
}

impl Port {
    /// What its clients go to.
    pub(super) const fn name_of_target(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::ReadOnly => "instance",
        }
    }

    /// That a client can go nowhere, and why.
    pub(super) const fn nowhere(self, why: String) -> Refusal {
        match self {
            Self::Primary => Refusal::NoPrimary(why),
            Self::ReadOnly => Refusal::NoStandby(why),
        }
    }
}

/// The label of what is told of each port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPort {
    port: &'static str,
}

/// The gauges and counters of one port.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) closed: Counter,
    held: Gauge,
    hold_time: Histogram,
}

/// Those of a whole proxy.
#[derive(Debug, Clone)]
pub(super) struct OfProxy {
    open: Gauge,
    check_age: Gauge<f64, AtomicU64>,
    readers: Gauge,
    connections: Family<OfPort, Gauge>,
    accepted: Family<OfPort, Counter>,
    refused: Family<OfPort, Counter>,
    closed: Family<OfPort, Counter>,
    held: Family<OfPort, Gauge>,
    hold_time: Family<OfPort, Histogram>,
}

impl Default for OfProxy {
    fn default() -> Self {
        Self {
            open: Gauge::default(),
            check_age: Gauge::default(),
            readers: Gauge::default(),
            connections: Family::default(),
            accepted: Family::default(),
            refused: Family::default(),
            closed: Family::default(),
            held: Family::default(),
            // 10 ms to 20 s.
            hold_time: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.01, 2.0, 12))
            }),
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
pub(super) fn registry(cluster_name: &str) -> (Registry, OfProxy) {
    let mut registry = Registry::default();
    crate::runtime::http::register_identity(&mut registry, cluster_name, "proxy");
    let metrics = OfProxy::default();
    let m = metrics.clone();
    registry.register(
        "stolon_proxy_open",
        "Whether clients are let through to the primary",
        m.open,
    );
    registry.register(
        "stolon_proxy_last_good_check_age_seconds",
        "Age of the last good check of the cluster data",
        m.check_age,
    );
    registry.register(
        "stolon_proxy_read_only_standbys",
        "Standbys that clients are spread over that only read",
        m.readers,
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
        "Clients that could go nowhere",
        m.refused,
    );
    registry.register(
        "stolon_proxy_forced_closed",
        "Connections closed because they were not allowed any more",
        m.closed,
    );
    registry.register("stolon_proxy_held", "Clients that wait now", m.held);
    registry.register(
        "stolon_proxy_hold_seconds",
        "How long clients waited that were then let through",
        m.hold_time,
    );
    (registry, metrics)
}

impl OfProxy {
    /// Those of one of its ports.
    pub(super) fn of(&self, port: Port) -> (Port, Metrics) {
        let label = OfPort {
            port: match port {
                Port::Primary => "primary",
                Port::ReadOnly => "read-only",
            },
        };
        let metrics = Metrics {
            connections: self.connections.get_or_create_owned(&label),
            accepted: self.accepted.get_or_create_owned(&label),
            refused: self.refused.get_or_create_owned(&label),
            closed: self.closed.get_or_create_owned(&label),
            held: self.held.get_or_create_owned(&label),
            hold_time: self.hold_time.get_or_create_owned(&label),
        };
        (port, metrics)
    }

    pub(super) fn update(&self, proxy: &Proxy) {
        self.open
            .set(i64::from(matches!(proxy.route(), Route::To { .. })));
        if let Some(good) = proxy.good_at() {
            self.check_age.set(clock::now().since(good).as_secs_f64());
        }
        if let Some(passages) = proxy.passages() {
            let standbys = passages.to.iter().filter(|passage| !passage.is_spare);
            self.readers
                .set(i64::try_from(standbys.count()).unwrap_or(i64::MAX));
        }
    }
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
}
