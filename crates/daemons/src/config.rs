//! What all daemons are told.

use std::net::SocketAddr;

use crate::runtime::logging::LogConfig;

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

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
