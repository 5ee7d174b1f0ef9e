//! What all daemons are told, and why they refuse to run.

use std::net::SocketAddr;

use crate::proxy::tls;
use crate::runtime::logging::LogConfig;
use crate::runtime::{http, passed};

/// What all daemons are told.
#[derive(Debug, Clone)]
pub struct CommonConfig {
    /// The cluster.
    pub cluster_name: String,
    /// Its store.
    pub store: stolon_store::Config,
    /// Where `/metrics`, `/livez` and `/readyz` are served; nowhere when not given.
    pub metrics_listen_address: Option<SocketAddr>,
    /// How to log.
    pub log: LogConfig,
}

/// Why a sentinel or a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] stolon_store::Error),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] http::Error),
    /// The sockets that the process was started with.
    #[error(transparent)]
    Passed(#[from] passed::Error),
    /// The certificates that clients are shown.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The threads that carry clients.
    #[error("cannot start to carry clients: {0}")]
    Relay(#[source] std::io::Error),
}

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
