//! How often a store that does not take the sentinel's documents is asked again.

use std::time::Duration;

use crate::time::Instant;

/// The pause after the first write that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Writes in a row that were refused or had no answer.
#[derive(Debug, Default)]
pub(super) struct WriteFailures {
    count: u32,
    retry_at: Option<Instant>,
}

impl WriteFailures {
    /// A store that refuses every write, as one that is full, refuses at once: it is asked ever more
    /// rarely, at last once in the `longest` pause.
    pub(super) fn add(&mut self, now: Instant, longest: Duration) {
        let factor = 1_u32.checked_shl(self.count).unwrap_or(u32::MAX);
        self.count = self.count.saturating_add(1);
        self.retry_at = Some(now.after(FIRST_PAUSE.saturating_mul(factor).min(longest)));
    }

    /// When to decide again; none: now.
    pub(super) fn retry_at(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|retry| now < *retry)
    }
}
