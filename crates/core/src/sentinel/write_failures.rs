//! How often a store that does not take the sentinel's documents is asked again.

use std::time::Duration;

use super::WriteOutcome;
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
    pub(super) fn note(&mut self, outcome: WriteOutcome, now: Instant, longest: Duration) {
        if matches!(outcome, WriteOutcome::Stored | WriteOutcome::Conflict) {
            *self = Self::default();
            return;
        }
        let factor = 1_u32.checked_shl(self.count).unwrap_or(u32::MAX);
        self.count = self.count.saturating_add(1);
        self.retry_at = Some(now.after(FIRST_PAUSE.saturating_mul(factor).min(longest)));
    }

    /// Whether nothing is to be written yet.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|retry| now < retry)
    }

    /// When to look again: in time for the next try, and after `pause` at the latest.
    pub(super) fn look_at(&self, now: Instant, pause: Duration) -> Instant {
        let retry = self.retry_at.filter(|_| self.holds(now));
        let after = now.after(pause);
        retry.map_or(after, |retry| retry.min(after))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::model::ClusterSpec;
    use crate::sentinel::{
        DEFAULT_MOST_FAILOVERS, Effect, Event, Look, Sentinel, Settings, WriteOutcome,
    };
    use crate::time::{Instant, Timestamp};

    /// A store without a cluster, in which the sentinel is to make one, and which takes no writes.
    #[test]
    fn a_store_that_refuses_the_first_document_is_asked_rarely() {
        let settings = Settings {
            uid: "s".into(),
            version: String::new(),
            initial_spec: Some(ClusterSpec::default()),
            most_failovers: DEFAULT_MOST_FAILOVERS,
        };
        let (mut sentinel, mut writes) = (Sentinel::new(settings), 0);
        let (mut now, end) = (Duration::from_secs(1), Duration::from_secs(61));
        let mut event = Event::Wake;
        while now < end {
            let mut wake_at = end;
            let mut next = None;
            for effect in sentinel.handle(Instant::from_boot(now), event) {
                match effect {
                    Effect::Look => {
                        next = Some(Event::Looked(Box::new(Look {
                            sentinels: Vec::new(),
                            requests: Vec::new(),
                            sent_at: Instant::from_boot(now),
                            wall: Timestamp::ZERO,
                            entropy: 1,
                            revision: None,
                            data: None,
                            keepers: Vec::new(),
                            proxies: Vec::new(),
                        })));
                    }
                    Effect::Write { .. } => {
                        writes += 1;
                        next = Some(Event::Wrote(WriteOutcome::Refused));
                    }
                    Effect::WakeAt(at) => wake_at = at.since_boot(),
                    _ => {}
                }
            }
            now = if next.is_some() {
                now + Duration::from_millis(1)
            } else {
                wake_at
            };
            event = next.unwrap_or(Event::Wake);
        }
        // Twenty milliseconds apart at first, then ever more, then a sleepInterval of five seconds.
        assert!((12..=30).contains(&writes), "{writes} writes in a minute");
    }
}
