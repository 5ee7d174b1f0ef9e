//! Documents as the daemons read them.

use std::sync::Arc;

use stolon_core::model::{ClusterData, wire};
use stolon_core::time::Instant;
use stolon_store::{Entry, Key, Store};

use crate::runtime::clock;

/// What a read of the cluster data found.
pub(crate) struct Reading {
    /// When the read was sent.
    pub(crate) sent_at: Instant,
    /// The store's revision; 0 when there are none.
    pub(crate) revision: u64,
    /// The cluster data; none: there is no cluster.
    pub(crate) data: Option<Arc<ClusterData>>,
}

/// Reads the cluster data; none, and the reason logged, when they cannot be had or understood.
pub(crate) async fn read(store: &dyn Store) -> Option<Reading> {
    let sent_at = clock::now();
    let entry = match store.get(&Key::ClusterData).await {
        Ok(entry) => entry,
        Err(error) => {
            tracing::debug!(%error, "cannot read the cluster data");
            return None;
        }
    };
    let Some(entry) = entry else {
        return Some(Reading {
            sent_at,
            revision: 0,
            data: None,
        });
    };
    match wire::read_cluster_data(&entry.value) {
        Ok(data) => Some(Reading {
            sent_at,
            revision: entry.revision.0,
            data: data.map(Arc::new),
        }),
        Err(error) => {
            tracing::error!(%error, key = %entry.key, "the cluster data cannot be understood");
            None
        }
    }
}

/// The documents that can be understood; another is named and passed over (scenario A8).
pub(crate) fn understood<T: serde::de::DeserializeOwned + wire::Document>(
    entries: Vec<Entry>,
) -> Vec<T> {
    let read = |entry: Entry| match wire::read::<T>(&entry.value) {
        Ok(document) => Some(document),
        Err(error) => {
            let value = String::from_utf8_lossy(&entry.value)
                .chars()
                .take(80)
                .collect::<String>();
            tracing::warn!(%error, key = %entry.key, value, "ignoring a value that makes no sense");
            None
        }
    };
    entries.into_iter().filter_map(read).collect()
}
