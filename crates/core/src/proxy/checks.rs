//! When a proxy reads the cluster data: on a grid of proxyCheckInterval, when the store changes,
//! and, after a failed read, again after a pause.

use std::time::Duration;

use crate::time::Instant;

/// The pause after a first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause; proxyCheckInterval where that is shorter.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The rhythm of reads; one at a time.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The last moment of the grid that has passed.
    last_turn: Option<Instant>,
    /// A check of the grid has begun, and no document was read for it yet.
    begun: bool,
    wanted: bool,
    reading: bool,
    pause: Pause,
}

impl Checks {
    /// Begins a check when it is time.
    pub(super) fn turn(&mut self, now: Instant, interval: Duration) {
        let next = self.next_turn(now, interval);
        if next > now {
            return;
        }
        // A turn that was missed by more than another interval is not made up for.
        let on_grid = now < next.after(interval);
        self.last_turn = Some(if on_grid { next } else { now });
        self.begun = true;
        self.wanted = true;
    }

    fn next_turn(&self, now: Instant, interval: Duration) -> Instant {
        self.last_turn.map_or(now, |last| last.after(interval))
    }

    /// Asks for a read that is sent from now on.
    pub(super) const fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether to send a read now.
    pub(super) fn send(&mut self, now: Instant) -> bool {
        let send = self.wanted && !self.reading && self.pause.is_over(now);
        if send {
            self.wanted = false;
            self.reading = true;
        }
        send
    }

    /// A read was answered; true when it is the first of its check.
    pub(super) const fn answered(&mut self) -> bool {
        self.reading = false;
        self.pause.reset();
        std::mem::replace(&mut self.begun, false)
    }

    /// A read failed: it is sent again, and the check begins anew.
    pub(super) fn failed(&mut self, now: Instant, interval: Duration) {
        self.reading = false;
        self.wanted = true;
        self.begun = true;
        self.pause.lengthen(now, interval);
    }

    /// When something is to be done next.
    pub(super) fn wake_at(&self, now: Instant, interval: Duration) -> Instant {
        let turn = self.next_turn(now, interval);
        let retry = self.pause.until.filter(|_| self.wanted && !self.reading);
        retry.map_or(turn, |retry| retry.min(turn))
    }
}

/// How long to leave the store alone after it failed.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Option<Instant>,
    length: Option<Duration>,
}

impl Pause {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) const fn reset(&mut self) {
        self.until = None;
        self.length = None;
    }

    pub(super) fn lengthen(&mut self, now: Instant, interval: Duration) {
        let length = self
            .length
            .map_or(FIRST_PAUSE, |last| last.saturating_mul(2))
            .min(LONGEST_PAUSE)
            .min(interval);
        self.length = Some(length);
        self.until = Some(now.after(length));
    }
}
