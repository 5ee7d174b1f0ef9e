//! The clocks.

use std::time::Duration;

use stolon_core::time::{Instant, Timestamp};

/// Now, on the boot clock.
pub fn now() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Instant::from_boot(Duration::new(
        seconds,
        u32::try_from(now.tv_nsec).unwrap_or(0),
    ))
}

/// Now, on the wall clock, for what is stored.
pub fn wall() -> Timestamp {
    Timestamp::from_utc(jiff::Timestamp::now())
}

/// Waits until a moment of the boot clock; for ever when there is none.
pub async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep(moment.since(now())).await,
        None => std::future::pending().await,
    }
}
