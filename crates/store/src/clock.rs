//! The only place in this crate that reads a clock.

use std::time::Duration;

/// Time since the machine started, suspended time included (`CLOCK_BOOTTIME`).
pub(crate) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The time of day, which records for others carry and nothing is judged by.
#[cfg(feature = "kubernetes")]
pub(crate) fn wall_time() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
