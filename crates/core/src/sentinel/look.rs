//! What a sentinel reads of the store.

use std::sync::Arc;

use crate::model::request::Request;
use crate::model::{ClusterData, KeeperInfo, ProxyInfo, SentinelInfo};
use crate::time::{Instant, Timestamp};

/// Everything a sentinel reads of the store, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// When the first read of this look was sent.
    pub sent_at: Instant,
    /// The wall clock, for the stamps of what is written.
    pub wall: Timestamp,
    /// Chance, for new names.
    pub entropy: u64,
    /// The revision of the key that holds the cluster data; none: there is no such key.
    pub revision: Option<u64>,
    /// The cluster data.
    pub data: Option<Arc<ClusterData>>,
    /// What keepers published.
    pub keepers: Vec<KeeperInfo>,
    /// What proxies published.
    pub proxies: Vec<ProxyInfo>,
    /// What sentinels published.
    pub sentinels: Vec<SentinelInfo>,
    /// What operators ask for.
    pub requests: Vec<Request>,
}
