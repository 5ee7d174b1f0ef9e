//! How a proxy ends: it accepts nobody any more, lets sessions go on for as long as it was told, then
//! takes nothing more from clients and gives the statements under way a moment. All that time it goes
//! on with its checks, and closes earlier when it must (I1, I6).

use std::time::Duration;

use stolon_core::time::Instant;

/// How long statements that are under way may take to end once nothing more is taken from clients.
const GRACE: Duration = Duration::from_secs(5);

/// How far the end of a proxy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It serves.
    Serving,
    /// It accepts nobody; sessions go on until the moment at the latest.
    Draining(Instant),
    /// It takes nothing more from clients, and is gone at the moment at the latest.
    Ending(Instant),
    /// Nothing is waited for any more.
    Over,
}

impl Stage {
    /// The next stage after what was asked for: sessions may go on for so long, and for no longer than
    /// they might before.
    pub(super) fn asked(self, now: Instant, drain: Duration) -> Self {
        match self {
            Self::Serving if !drain.is_zero() => Self::Draining(now.after(drain)),
            Self::Draining(until) if !drain.is_zero() => {
                Self::Draining(until.min(now.after(drain)))
            }
            Self::Serving | Self::Draining(_) => Self::Ending(now.after(GRACE)),
            Self::Ending(_) | Self::Over => self,
        }
    }

    /// The next stage when its time is over.
    pub(super) fn timed(self, now: Instant) -> Self {
        match self {
            Self::Draining(until) if until <= now => Self::Ending(now.after(GRACE)),
            Self::Ending(until) if until <= now => Self::Over,
            Self::Serving | Self::Draining(_) | Self::Ending(_) | Self::Over => self,
        }
    }

    /// When its time is over; none: it has no end of its own.
    pub(super) const fn until(self) -> Option<Instant> {
        match self {
            Self::Draining(until) | Self::Ending(until) => Some(until),
            Self::Serving | Self::Over => None,
        }
    }

    /// Whether clients may come.
    pub(super) fn serves(self) -> bool {
        self == Self::Serving
    }
}

#[cfg(test)]
mod tests {
    use super::{GRACE, Stage};
    use std::time::Duration;
    use stolon_core::time::Instant;

    const NOW: Instant = Instant::from_boot(Duration::from_secs(100));
    const DRAIN: Duration = Duration::from_mins(10);

    #[test]
    fn sessions_go_on_until_the_deadline_and_statements_have_a_moment_more() {
        let draining = Stage::Serving.asked(NOW, DRAIN);
        assert_eq!(draining, Stage::Draining(NOW.after(DRAIN)));
        assert_eq!(draining.timed(NOW), draining);
        let end = NOW.after(DRAIN);
        let ending = draining.timed(end);
        assert_eq!(ending, Stage::Ending(end.after(GRACE)));
        assert_eq!(ending.timed(end.after(GRACE)), Stage::Over);
    }

    #[test]
    fn without_time_to_drain_only_statements_are_waited_for() {
        let ending = Stage::Ending(NOW.after(GRACE));
        assert_eq!(Stage::Serving.asked(NOW, Duration::ZERO), ending);
        let draining = Stage::Serving.asked(NOW, DRAIN);
        assert_eq!(draining.asked(NOW, Duration::ZERO), ending);
        // Who asks for a third time does not get more time for it.
        assert_eq!(ending.asked(NOW.after(GRACE / 2), DRAIN), ending);
    }

    #[test]
    fn who_drains_already_gets_no_more_time() {
        let draining = Stage::Serving.asked(NOW, DRAIN);
        assert_eq!(draining.asked(NOW.after(GRACE), DRAIN), draining);
        let sooner = Stage::Draining(NOW.after(DRAIN / 2));
        assert_eq!(draining.asked(NOW, DRAIN / 2), sooner);
    }
}
