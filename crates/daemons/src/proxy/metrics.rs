//! The proxy's metrics.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use stolon_core::proxy::{Proxy, ReadRoute, Route, Target};
use stolon_core::time::Instant;

use crate::runtime::clock;

/// Which of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Port {
    port: &'static str,
}

/// One of a few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// What a session ended by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    by: &'static str,
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

/// Where clients go: as many at a time as a cluster has members.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    port: &'static str,
    db: String,
    address: String,
}

/// The port that leads to the primary, and the one that leads to standbys.
pub(super) const PRIMARY: &str = "primary";
pub(super) const READING: &str = "reading";

/// The gauges and counters.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    open: Gauge,
    check_age: Gauge<f64, AtomicU64>,
    connections: Family<Port, Gauge>,
    pub(super) accepted: Counter,
    pub(super) accept_failures: Counter,
    refused: Family<Why, Counter>,
    closed: Family<Why, Counter>,
    ended: Family<By, Counter>,
    pub(super) not_introduced: Counter,
    pub(super) handshakes_failed: Counter,
    held: Gauge,
    hold_time: Histogram,
    /// How long connecting to a server took.
    pub(super) connect_time: Histogram,
    bytes: Family<To, Counter>,
    /// Bytes that were taken from clients, and from servers.
    pub(super) to_server: Counter,
    pub(super) to_client: Counter,
    targets: Family<Place, Gauge>,
    route_changes: Counter,
    route_changed_at: Gauge<f64, AtomicU64>,
    closed_for: Counter<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let bytes = Family::<To, Counter>::default();
        let to = |to| bytes.get_or_create(&To { to }).clone();
        Self {
            open: Gauge::default(),
            check_age: Gauge::default(),
            connections: Family::default(),
            accepted: Counter::default(),
            accept_failures: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            ended: Family::default(),
            not_introduced: Counter::default(),
            handshakes_failed: Counter::default(),
            held: Gauge::default(),
            // 10 ms to 20 s.
            hold_time: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            // 0.1 ms to 6.5 s.
            connect_time: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            to_server: to("server"),
            to_client: to("client"),
            bytes,
            targets: Family::default(),
            route_changes: Counter::default(),
            route_changed_at: Gauge::default(),
            closed_for: Counter::default(),
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
        "Clients that were refused: no-primary, no-standby, full, without-tls",
        m.refused,
    );
    registry.register(
        "stolon_proxy_forced_closed",
        "Sessions that were ended here: the route closed or changed, the proxy stops, a peer was lost",
        m.closed,
    );
    registry.register(
        "stolon_proxy_ended",
        "Sessions that ended otherwise, by who was first: client, server, drain, broken",
        m.ended,
    );
    register_ways(&mut registry, metrics.clone());
    (registry, metrics)
}

/// What clients were led to, what was carried there, and how those who had to wait fared.
fn register_ways(registry: &mut Registry, m: Metrics) {
    registry.register(
        "stolon_proxy_bytes",
        "Bytes carried, by the side that they go to",
        m.bytes,
    );
    registry.register(
        "stolon_proxy_target",
        "Where clients go now, always 1",
        m.targets,
    );
    registry.register(
        "stolon_proxy_route_changes",
        "How often clients were led elsewhere, or nowhere",
        m.route_changes,
    );
    registry.register(
        "stolon_proxy_route_changed_timestamp_seconds",
        "When that was last, since 1970",
        m.route_changed_at,
    );
    registry.register(
        "stolon_proxy_without_primary_seconds",
        "For how long clients had no primary to go to, in all",
        m.closed_for,
    );
    registry.register(
        "stolon_proxy_connect_seconds",
        "How long connecting to a server took",
        m.connect_time,
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
        "Clients that wait for a primary, or for a standby, now",
        m.held,
    );
    registry.register(
        "stolon_proxy_hold_seconds",
        "How long clients waited for a primary that were then let through",
        m.hold_time,
    );
}

impl Metrics {
    /// The sessions of a port.
    pub(super) fn connections(&self, port: &'static str) -> Gauge {
        self.connections.get_or_create(&Port { port }).clone()
    }

    /// Counts a client that is refused.
    pub(super) fn refused(&self, why: &'static str) {
        self.refused.get_or_create(&Why { why }).inc();
    }

    /// Counts a session that is ended here.
    pub(super) fn closed(&self, why: &'static str) {
        self.closed.get_or_create(&Why { why }).inc();
    }

    /// Counts a session that was not ended here.
    pub(super) fn ended(&self, by: &'static str) {
        self.ended.get_or_create(&By { by }).inc();
    }

    /// How many sessions have ended so.
    #[cfg(test)]
    pub(super) fn ended_by(&self, by: &'static str) -> u64 {
        self.ended.get_or_create(&By { by }).get()
    }

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

/// What was shown of a proxy's routes when it was looked at last.
#[derive(Debug)]
pub(super) struct Shown {
    metrics: Metrics,
    places: Vec<Place>,
    at: Instant,
    is_open: bool,
}

impl Shown {
    /// Nothing was shown yet.
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            places: Vec::new(),
            at: clock::now(),
            is_open: false,
        }
    }

    /// Shows where clients go now.
    pub(super) fn update(&mut self, proxy: &Proxy) {
        let (now, metrics) = (clock::now(), &self.metrics);
        if !self.is_open {
            metrics.closed_for.inc_by(now.since(self.at).as_secs_f64());
        }
        self.at = now;
        self.is_open = matches!(proxy.route(), Route::To { .. });
        metrics.open.set(i64::from(self.is_open));
        if let Some(good) = proxy.good_at() {
            metrics.check_age.set(now.since(good).as_secs_f64());
        }
        let places = places(proxy);
        if places == self.places {
            return;
        }
        metrics.targets.clear();
        for place in &places {
            metrics.targets.get_or_create(place).set(1);
        }
        self.places = places;
        metrics.route_changes.inc();
        let wall = clock::wall().moment().as_duration().as_secs_f64();
        metrics.route_changed_at.set(wall);
    }
}

fn places(proxy: &Proxy) -> Vec<Place> {
    let place = |port, target: &Target| Place {
        port,
        db: target.db.to_string(),
        address: format!("{}:{}", target.host, target.port),
    };
    let primary = match proxy.route() {
        Route::To { target, .. } => Some(place(PRIMARY, target)),
        Route::Closed(_) => None,
    };
    let standbys = match proxy.read_route() {
        Some(ReadRoute::To(targets)) => targets.as_slice(),
        Some(ReadRoute::Closed(_)) | None => &[],
    };
    let standbys = standbys.iter().map(|(target, _)| place(READING, target));
    primary.into_iter().chain(standbys).collect()
}
