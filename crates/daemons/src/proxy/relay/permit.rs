//! Leave to forward.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use stolon_core::proxy::Target;
use stolon_core::time::Instant;
use tokio::sync::Notify;

use super::doors::Door;
use super::reach::Reach;
use crate::runtime::clock;

/// Why a permit ended that nobody revoked.
pub(super) const RAN_OUT: &str = "no check of the cluster data succeeded lately";

/// Leave to forward to one target, until a moment that may be put off while it is not over.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) target: Target,
    pub(super) door: Door,
    pub(super) reach: Reach,
    /// How many sessions go by it, and how many are about to.
    pub(super) sessions: AtomicUsize,
    coming: Arc<AtomicUsize>,
    /// Nanoseconds on the boot clock.
    until: AtomicU64,
    revoked: AtomicBool,
    /// Why it was revoked.
    why: OnceLock<String>,
    /// Somebody tries its target until it can be reached again.
    is_tried: AtomicBool,
    /// Wakes who waits for the revocation.
    revocation: Notify,
}

impl Permit {
    pub(super) fn new(target: Target, until: Instant, door: Door) -> Self {
        Self {
            reach: Reach::new(&target, door.leads_to()),
            target,
            door,
            sessions: AtomicUsize::new(0),
            coming: Arc::default(),
            until: AtomicU64::new(nanoseconds(until)),
            revoked: AtomicBool::new(false),
            why: OnceLock::new(),
            is_tried: AtomicBool::new(false),
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

    pub(super) fn revoke(&self, why: &str) {
        self.why.get_or_init(|| why.to_owned());
        self.revoked.store(true, Ordering::Release);
        self.revocation.notify_waiters();
    }

    /// Why one that does not hold any more has ended.
    pub(super) fn why_ended(&self) -> &str {
        let ran_out = match self.door {
            Door::Primary => RAN_OUT,
            Door::Reading => "what is known of this standby is too old",
        };
        self.why.get().map_or(ran_out, String::as_str)
    }

    /// Counts somebody who is about to go by it, as long as this lives.
    pub(super) fn coming(&self) -> Coming {
        self.coming.fetch_add(1, Ordering::Relaxed);
        Coming(self.coming.clone())
    }

    /// How much it is used: one whose target could not be reached comes after all others.
    pub(super) fn load(&self) -> (bool, usize) {
        let sessions = self.sessions.load(Ordering::Relaxed);
        let coming = self.coming.load(Ordering::Relaxed);
        (self.reach.is_lost(), sessions.saturating_add(coming))
    }

    /// Whether its target is to be tried again by somebody, from now on by whoever asks.
    pub(super) fn begins_to_try(&self) -> bool {
        self.door == Door::Reading
            && self.reach.is_lost()
            && !self.is_tried.swap(true, Ordering::AcqRel)
    }

    /// Nobody tries its target again any more.
    pub(super) fn stops_to_try(&self) {
        self.is_tried.store(false, Ordering::Release);
    }

    /// Waits until it is revoked.
    pub(super) async fn revoked(&self) {
        let revocation = self.revocation.notified();
        if !self.revoked.load(Ordering::Acquire) {
            revocation.await;
        }
    }
}

/// Somebody who is about to go somewhere.
#[derive(Debug)]
pub(super) struct Coming(Arc<AtomicUsize>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanoseconds(moment: Instant) -> u64 {
    u64::try_from(moment.since_boot().as_nanos()).unwrap_or(u64::MAX)
}
