//! What a proxy has read, and whether that is older than what it read before (I5).

use super::forwards_for;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{ClusterData, ClusterSpec, ClusterUid, EffectiveSpec, Generation};
use crate::time::Instant;

/// A document that was read.
#[derive(Debug)]
pub(super) struct Seen {
    /// When its read was sent.
    pub(super) sent_at: Instant,
    pub(super) revision: u64,
    pub(super) data: Option<Arc<ClusterData>>,
}

/// What there was when there last were cluster data.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) revision: u64,
    cluster: Option<ClusterUid>,
    generation: Generation,
    /// The proxyTimeout.
    timeout: Duration,
}

impl Last {
    pub(super) fn of(seen: &Seen) -> Option<Self> {
        let data = seen.data.as_ref()?;
        Some(Self {
            revision: seen.revision,
            cluster: data.cluster.as_ref().map(|cluster| cluster.uid.clone()),
            generation: data.proxy.generation,
            timeout: spec(Some(data)).proxy_timeout,
        })
    }
}

impl Seen {
    /// Why this document is older than one seen before, or of another history (I5). `was_there`:
    /// there were cluster data when they were read last.
    pub(super) fn falls_behind(&self, last: &Last, was_there: bool) -> Option<&'static str> {
        let Some(now) = Last::of(self) else {
            return was_there.then_some("the cluster data are gone");
        };
        if now.cluster != last.cluster {
            Some("the cluster data are those of another cluster")
        } else if now.revision < last.revision {
            Some("the store went back to an older revision")
        } else if now.generation < last.generation {
            Some("the cluster data went back to an older generation")
        } else {
            None
        }
    }

    /// For how long other proxies may forward by newer cluster data than these, where these may send
    /// clients elsewhere: no sentinel has seen to it that those are closed.
    pub(super) fn goes_back_by(&self, last: &Last) -> Option<Duration> {
        let now = Last::of(self)?;
        let goes_back = now.cluster != last.cluster || now.generation < last.generation;
        // One of the Go program may forward for so long; its timer starts at the end of a check.
        let timeout = now.timeout.max(last.timeout);
        goes_back.then(|| forwards_for(timeout).max(timeout.saturating_mul(2)))
    }
}

pub(super) fn spec(data: Option<&ClusterData>) -> EffectiveSpec {
    let spec = data.and_then(|data| data.cluster.as_ref()?.spec.as_ref());
    spec.map_or_else(
        || ClusterSpec::default().effective(),
        ClusterSpec::effective,
    )
}
