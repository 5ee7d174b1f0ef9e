//! Leave to forward.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use stolon_core::proxy::Target;
use stolon_core::time::Instant;
use tokio::sync::Notify;

use crate::runtime::clock;

/// How long a target that could not be reached is tried last.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Leave to forward to one target, until a moment that may be put off while it is not over.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) target: Target,
    /// Nanoseconds on the boot clock.
    until: AtomicU64,
    revoked: AtomicBool,
    /// Wakes who waits for the revocation.
    revocation: Notify,
    /// For those only for whom there is no other.
    spare: AtomicBool,
    /// How many clients it carries, or is about to.
    carried: AtomicUsize,
    /// When it could not be reached last; nanoseconds on the boot clock, 0: never.
    failed_at: AtomicU64,
}

impl Permit {
    pub(super) fn new(target: Target, until: Instant, is_spare: bool) -> Self {
        Self {
            target,
            until: AtomicU64::new(nanoseconds(until)),
            revoked: AtomicBool::new(false),
            revocation: Notify::new(),
            spare: AtomicBool::new(is_spare),
            carried: AtomicUsize::new(0),
            failed_at: AtomicU64::new(0),
        }
    }

    pub(super) fn prolong(&self, until: Instant, is_spare: bool) {
        self.until.store(nanoseconds(until), Ordering::Release);
        self.spare.store(is_spare, Ordering::Relaxed);
    }

    pub(super) fn is_spare(&self) -> bool {
        self.spare.load(Ordering::Relaxed)
    }

    pub(super) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    pub(super) fn carries_more(&self) {
        self.carried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn carries_less(&self) {
        self.carried.fetch_sub(1, Ordering::Relaxed);
    }

    /// The target could not be reached.
    pub(super) fn failed(&self) {
        let now = nanoseconds(clock::now());
        self.failed_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn has_failed_lately(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        let end = failed_at.saturating_add(duration(FAILED_FOR));
        failed_at > 0 && nanoseconds(clock::now()) < end
    }

    pub(super) fn holds(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        !self.revoked.load(Ordering::Acquire) && nanoseconds(clock::now()) < until
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.revocation.notify_waiters();
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Waits until it is revoked.
    pub(super) async fn revoked(&self) {
        let revocation = self.revocation.notified();
        if !self.is_revoked() {
            revocation.await;
        }
    }
}

fn nanoseconds(moment: Instant) -> u64 {
    duration(moment.since_boot())
}

fn duration(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
