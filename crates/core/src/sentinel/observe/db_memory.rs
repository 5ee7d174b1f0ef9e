//! What is remembered of a db from look to look.

use std::time::Duration;

use crate::model::{Generation, Lsn};

/// Moments are those of the observed clock.
#[derive(Debug, Default)]
pub(super) struct DbMemory {
    pub(super) good_at: Option<Duration>,
    pub(super) converging: Option<(Generation, Duration)>,
    pub(super) astray: Option<Duration>,
    pub(super) stranded: Option<Duration>,
    /// Its last position, and the furthest it ever had.
    pub(super) position: Lsn,
    pub(super) furthest: Lsn,
}

impl DbMemory {
    /// How long it has been unhealthy, astray, stranded.
    pub(super) fn ages(&self, now: Duration) -> [Option<Duration>; 3] {
        let since = |moment: Option<Duration>| moment.map(|moment| now.saturating_sub(moment));
        [
            since(self.good_at),
            since(self.astray),
            since(self.stranded),
        ]
    }

    /// The time that just passed counts neither as bad health nor as slow convergence.
    pub(super) fn hold(&mut self, passed: Duration) {
        let good_at = self.good_at.as_mut();
        let since = self.converging.as_mut().map(|(_, since)| since);
        for moment in good_at.into_iter().chain(since) {
            *moment = moment.saturating_add(passed);
        }
    }
}
