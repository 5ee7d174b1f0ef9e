//! What a sentinel is told.

use stolon_core::model::ClusterSpec;

use crate::config::CommonConfig;

/// What a sentinel is told; checked, nothing left open.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all daemons are told.
    pub common: CommonConfig,
    /// The spec to initialise with when the store holds no cluster.
    pub initial_spec: Option<ClusterSpec>,
    /// Automatic failovers within ten minutes after which the next one waits.
    pub most_failovers: usize,
}
