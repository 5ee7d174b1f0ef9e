//! `/metrics`, `/livez` and `/readyz` of a daemon.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use stolon_core::time::Instant;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::clock;

/// A daemon whose loop has not turned for this long when it should have is not alive.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// What a daemon says of its health. Clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<Report>>,
}

#[derive(Debug)]
struct Report {
    /// When the loop turned, or is to turn, at the latest.
    turns: Instant,
    not_ready: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        let not_ready = Some("starting".to_owned());
        Self {
            state: Arc::new(Mutex::new(Report {
                turns: clock::now(),
                not_ready,
            })),
        }
    }
}

impl Health {
    /// Notes that the daemon's loop turns.
    pub fn turn(&self) {
        self.lock().turns = clock::now();
    }

    /// Notes that the loop turns at this time, if not before: what waits for long is no less alive, and
    /// a liveness probe must not kill it.
    pub fn rests_until(&self, at: Option<Instant>) {
        let mut report = self.lock();
        report.turns = at.map_or(report.turns, |at| report.turns.max(at));
    }

    /// Notes that it is ready, or why not.
    pub fn set_ready(&self, not_ready: Option<String>) {
        self.lock().not_ready = not_ready;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Result<(), String> {
        let stuck = clock::now().since(self.lock().turns);
        if stuck < STUCK_AFTER {
            Ok(())
        } else {
            Err(format!("stuck for {stuck:?}"))
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.alive()?;
        self.lock().not_ready.clone().map_or(Ok(()), Err)
    }
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    health: Health,
}

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {source}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves at `address`, if any, as long as the process lives.
pub async fn serve(
    address: Option<SocketAddr>,
    registry: Registry,
    health: Health,
) -> Result<(), Error> {
    if let Some(listener) = listen(address).await? {
        drop(serve_from(listener, registry, health));
    }
    Ok(())
}

/// Listens at `address`, if any.
pub async fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error { address, source })?;
    Ok(Some(listener))
}

/// Serves who comes to a socket, as long as the process lives or until that is aborted.
pub fn serve_from(listener: TcpListener, registry: Registry, health: Health) -> JoinHandle<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/livez",
            get(|State(shared): State<Shared>| async move { answer(shared.health.alive()) }),
        )
        .route(
            "/readyz",
            get(|State(shared): State<Shared>| async move { answer(shared.health.ready()) }),
        )
        .with_state(Shared {
            registry: Arc::new(registry),
            health,
        });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics server ended");
        }
    })
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = prometheus_client::encoding::text::encode_registry(&mut text, &shared.registry);
    text.push_str(&process_metrics());
    text.push_str("# EOF\n");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

/// The usual metrics of a process, from proc(5).
fn process_metrics() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let number = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    // The clock ticks of proc(5) are hundredths of a second on every Linux of today.
    let cpu = (number(11) + number(12)) / 100.0;
    let memory = number(21) * 4096.0;
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let started = boot_seconds() + number(19) / 100.0;
    format!(
        "# TYPE process_cpu_seconds counter\nprocess_cpu_seconds_total {cpu}\n\
         # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {memory}\n\
         # TYPE process_open_fds gauge\nprocess_open_fds {files}\n\
         # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {started}\n"
    )
}

fn boot_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok())
        .unwrap_or(0.0)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, prometheus_client::encoding::EncodeLabelSet)]
struct Identity {
    cluster_name: String,
    component: &'static str,
}

/// Registers `stolon_cluster_identifier`, by which dashboards find the processes of a cluster.
pub fn register_identity(registry: &mut Registry, cluster_name: &str, component: &'static str) {
    use prometheus_client::metrics::{family::Family, gauge::Gauge};
    let identity = Family::<Identity, Gauge>::default();
    let label = Identity {
        cluster_name: cluster_name.to_owned(),
        component,
    };
    identity.get_or_create(&label).set(1);
    let help = "The cluster this process belongs to, always 1";
    registry.register("stolon_cluster_identifier", help, identity);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stolon_core::time::Instant;

    use super::{Health, STUCK_AFTER, clock};

    /// Health as it is this long after a turn.
    fn turned_ago(ago: Duration) -> Option<Health> {
        let health = Health::default();
        let turned = clock::now().since_boot().checked_sub(ago)?;
        health.lock().turns = Instant::from_boot(turned);
        Some(health)
    }

    #[test]
    fn a_loop_is_stuck_when_it_does_not_turn_at_the_time_it_said() {
        // A machine that was started a moment ago has no time that is long past.
        let Some(health) = turned_ago(STUCK_AFTER * 2) else {
            return;
        };
        health.rests_until(None);
        assert!(health.alive().is_err());
        health.rests_until(Some(clock::now().after(Duration::from_mins(10))));
        assert_eq!(health.alive(), Ok(()));
        health.turn();
        assert_eq!(health.alive(), Ok(()));
    }
}
