//! Until when a proxy may forward, so that the sentinel can know it (I1, I6; contract, section 7).
//!
//! The sentinel sees publications only. It takes a proxy for closed when the last one is older than
//! the proxyTimeout it announced, and some more. So a proxy's leave counts with the timeout that was
//! announced, not with the one in force; and a leave that ended comes back only by a read that was
//! sent after a publication was stored: before that the sentinel need not wait for this proxy, and
//! what was read may be what it has just changed.

use std::time::Duration;

use crate::time::Instant;

/// How long after its last good check a proxy that announced this timeout may yet forward, by
/// anybody's clock (contract, section 7).
pub(crate) fn forwards_for(timeout: Duration) -> Duration {
    let twentieth = timeout / 20;
    timeout
        .saturating_add(twentieth)
        .saturating_add(Duration::from_millis(500))
}

/// A publication on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Publication {
    /// When the read that it rests on was sent.
    pub(super) read_at: Instant,
    /// When it was sent itself.
    pub(super) sent_at: Instant,
    /// The proxyTimeout it announces.
    pub(super) timeout: Duration,
}

/// How long an unanswered publication may yet be stored, by a store or a network that was frozen.
/// Only the timeout counts for so long, and only where it was shorter than the present one.
const DOUBT: Duration = Duration::from_hours(1);

/// Leave to forward.
#[derive(Debug, Default)]
pub(super) struct Leave {
    /// When the read of the last good check was sent.
    good_at: Option<Instant>,
    until: Option<Instant>,
    /// A check that counts as soon as a read sent after this moment is answered.
    unconfirmed: Option<Unconfirmed>,
    /// A timeout that an unanswered publication may yet announce, and for how long that may be.
    doubt: Option<(Duration, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Unconfirmed {
    stored_by: Instant,
    read_at: Instant,
    until: Instant,
}

impl Leave {
    /// Until when it lasts; none: there is no leave.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// When the read of the last good check was sent.
    pub(super) const fn good_at(&self) -> Option<Instant> {
        self.good_at
    }

    /// Ends it when its time has come. To be called before anything that could prolong it.
    pub(super) fn lapse(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
    }

    /// Ends it whatever it rests on (I5).
    pub(super) fn end(&mut self) {
        self.until = None;
        self.unconfirmed = None;
    }

    /// Makes it end by `latest` at the latest. A publication that announces a shorter timeout may be
    /// sent only after that: the sentinel may count with it from then on, answered or not.
    pub(super) fn shorten(&mut self, latest: Instant) {
        self.until = self.until.map(|until| until.min(latest));
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.until = unconfirmed.until.min(latest);
        }
    }

    /// A publication is stored, which makes the check good. True when a read has to confirm it.
    pub(super) fn announced(&mut self, now: Instant, publication: Publication) -> bool {
        let mut timeout = publication.timeout;
        if let Some((doubtful, _)) = self.doubt.filter(|(_, end)| now < *end) {
            timeout = timeout.min(doubtful);
        }
        let read_at = publication.read_at;
        let until = read_at.after(timeout);
        if self.until.is_some() {
            self.until = Some(until);
            self.good_at = Some(read_at);
            return false;
        }
        let still_waiting = self.unconfirmed.filter(|earlier| now < earlier.until);
        self.unconfirmed = Some(Unconfirmed {
            stored_by: still_waiting.map_or(now, |earlier| earlier.stored_by),
            read_at,
            until,
        });
        true
    }

    /// A publication was not answered: it may be stored now, later, or never.
    pub(super) fn unanswered(&mut self, publication: Publication) {
        let end = publication.sent_at.after(DOUBT);
        let (timeout, end) = match self.doubt {
            Some((timeout, until)) if publication.sent_at < until => {
                (timeout.min(publication.timeout), until.max(end))
            }
            Some(_) | None => (publication.timeout, end),
        };
        self.doubt = Some((timeout, end));
    }

    /// The document was read, by a read sent at `sent_at`.
    pub(super) fn read(&mut self, now: Instant, sent_at: Instant) {
        let confirmed = self
            .unconfirmed
            .filter(|check| check.stored_by <= sent_at && now < check.until);
        if let Some(check) = confirmed {
            self.unconfirmed = None;
            self.until = Some(check.until);
            self.good_at = Some(check.read_at);
        }
    }
}
