//! What a proxy has read, and whether that is older than what it read before (I5).

use crate::model::ClusterData;
use crate::time::Instant;

/// A document that was read.
#[derive(Debug)]
pub(super) struct Seen {
    /// When its read was sent.
    pub(super) sent_at: Instant,
    pub(super) revision: u64,
    pub(super) data: Option<Box<ClusterData>>,
}

impl Seen {
    /// Why this document is older than one seen before, or of another history (I5).
    pub(super) fn falls_behind(&self, known: &Self) -> Option<&'static str> {
        let (Some(data), Some(before)) = (&self.data, &known.data) else {
            let vanished = self.data.is_none() && known.data.is_some();
            return vanished.then_some("the cluster data are gone");
        };
        let uid = |data: &ClusterData| data.cluster.as_ref().map(|cluster| cluster.uid.clone());
        if uid(data) != uid(before) {
            Some("the cluster data are those of another cluster")
        } else if self.revision < known.revision {
            Some("the store went back to an older revision")
        } else if data.proxy.generation < before.proxy.generation {
            Some("the cluster data went back to an older generation")
        } else {
            None
        }
    }
}
