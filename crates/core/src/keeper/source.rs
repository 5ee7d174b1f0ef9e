//! What a keeper remembers of the server outside that the first instance of a standby cluster follows, and
//! of data that are not there.

use super::Keeper;
use super::facts::{Content, Observation};
use crate::time::Instant;

/// What is remembered between two decisions.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// Since when the server outside tells of another history.
    parted_since: Option<Instant>,
    /// Which server that is, as `primary_conninfo`.
    parted_from: Option<String>,
    /// Since when there are no data.
    gone_since: Option<Instant>,
}

impl Keeper {
    /// Notes since when every answer of the server outside tells of a history that ours has left. No
    /// answer tells nothing, and ends that too.
    pub(super) fn note_parting(&mut self, now: Instant, observation: &Observation) {
        let has_parted = super::decide::parted(observation).is_some();
        let since = self.source.parted_since.unwrap_or(now);
        self.source.parted_since = has_parted.then_some(since);
        let applied = self.facts.applied.as_ref();
        let conninfo = applied.and_then(super::decide::conninfo);
        self.source.parted_from = conninfo.filter(|_| has_parted).cloned();
        let spec = self.spec();
        let wait = spec
            .fail_interval
            .max(spec.sleep_interval.saturating_mul(2));
        self.facts.has_parted = has_parted && now.since(since) >= wait;
    }

    /// What one server outside said of its history says nothing of another one's.
    pub(super) fn mind_source(&mut self, conninfo: Option<&String>) {
        if self.source.parted_from.as_ref() != conninfo {
            self.facts.has_parted = false;
            self.source.parted_since = None;
        }
    }

    /// Notes since when there are no data. After failInterval another member is elected where one can be,
    /// and what says so is read within another.
    pub(super) fn note_absence(&mut self, now: Instant) {
        let are_gone = self.facts.disk.content != Content::Cluster;
        let since = self.source.gone_since.unwrap_or(now);
        self.source.gone_since = are_gone.then_some(since);
        let wait = self.spec().fail_interval.saturating_mul(2);
        self.facts.are_gone_for_long = are_gone && now.since(since) >= wait;
    }
}
