//! Leave to forward.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stolon_core::proxy::Target;
use stolon_core::time::Instant;
use tokio::sync::Notify;

use super::reach::Reach;
use crate::runtime::clock;

/// Leave to forward to one target, until a moment that may be put off while it is not over.
pub(super) struct Permit {
    pub(super) target: Target,
    pub(super) reach: Reach,
    /// Nanoseconds on the boot clock.
    until: AtomicU64,
    revoked: AtomicBool,
    /// Wakes who waits for the revocation.
    revocation: Notify,
}

impl Permit {
    pub(super) fn new(target: Target, until: Instant) -> Self {
        Self {
            reach: Reach::new(&target),
            target,
            until: AtomicU64::new(nanoseconds(until)),
            revoked: AtomicBool::new(false),
            revocation: Notify::new(),
        }
    }

    pub(super) fn prolong(&self, until: Instant) {
        self.until.store(nanoseconds(until), Ordering::Release);
    }

    pub(super) fn holds(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        !self.revoked.load(Ordering::Acquire) && nanoseconds(clock::now()) < until
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.revocation.notify_waiters();
    }

    /// Waits until it is revoked.
    pub(super) async fn revoked(&self) {
        let revocation = self.revocation.notified();
        if !self.revoked.load(Ordering::Acquire) {
            revocation.await;
        }
    }
}

fn nanoseconds(moment: Instant) -> u64 {
    u64::try_from(moment.since_boot().as_nanos()).unwrap_or(u64::MAX)
}
