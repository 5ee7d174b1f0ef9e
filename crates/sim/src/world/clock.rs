//! Hosts' clocks: each with its own rate and beginning, and a wall clock that jumps.

use std::time::Duration;

use stolon_core::time::{Instant, Timestamp};

use super::Time;
use crate::chance::Chance;

/// The Unix time, in seconds, at which worlds begin: some day.
const EPOCH: i64 = 1_790_000_000;
/// Clocks differ in rate by so many millionths either way: two of them by less than the five per
/// cent that I1 rests on.
const MOST_DRIFT: u64 = 24_000;

/// A host's clock.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// The boot clock at the beginning of the world.
    began: Duration,
    /// Millionths of a second that the boot clock moves in a millionth of the world's seconds.
    rate: u64,
    /// How far the wall clock is ahead, in milliseconds.
    wall_ahead: i64,
}

impl Clock {
    /// A clock that differs by chance.
    pub(crate) fn new(mut chance: Chance) -> Self {
        Self {
            began: chance.millis(10_000, 100_000_000),
            rate: 1_000_000 - MOST_DRIFT + chance.below(2 * MOST_DRIFT),
            wall_ahead: i64::try_from(chance.below(4000)).unwrap_or(0) - 2000,
        }
    }

    fn scaled(time: Duration, by: u64, over: u64) -> Duration {
        let nanos = time.as_nanos() * u128::from(by) / u128::from(over);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The boot clock at a moment of the world.
    pub(crate) fn local(&self, now: Time) -> Instant {
        Instant::from_boot(self.began + Self::scaled(now, self.rate, 1_000_000))
    }

    /// The first moment of the world at which the boot clock is not before `local`.
    pub(crate) fn world(&self, local: Instant) -> Time {
        let since = local.since_boot().saturating_sub(self.began);
        Self::scaled(since, 1_000_000, self.rate) + Duration::from_nanos(2)
    }

    /// How long of the world's time passes in a time of this clock.
    pub(crate) fn span(&self, local: Duration) -> Duration {
        Self::scaled(local, 1_000_000, self.rate)
    }

    /// The wall clock at a moment of the world.
    pub(crate) fn wall(&self, now: Time) -> Timestamp {
        let millis = i64::try_from(now.as_millis()).unwrap_or(0) + self.wall_ahead;
        let moment = jiff::Timestamp::from_millisecond(EPOCH * 1000 + millis);
        Timestamp::from_utc(moment.expect("a moment within a few years of the epoch"))
    }

    /// The wall clock jumps by so many milliseconds.
    pub(crate) fn jump(&mut self, millis: i64) {
        self.wall_ahead += millis;
    }
}
