//! The gates that one carrier accepts by.

use std::sync::Arc;

use stolon_core::time::Instant;

use super::events::Events;
use super::gate::{ACCEPT_RETRY, Gate};

/// By the number that their events carry.
#[derive(Default)]
pub(super) struct Gates(Vec<Option<Entry>>);

struct Entry {
    gate: Arc<Gate>,
    /// Accepting failed; it is tried again then.
    rests_until: Option<Instant>,
}

impl Gates {
    /// Hears of those who come by one more gate.
    pub(super) fn open(&mut self, gate: Arc<Gate>, now: Instant, events: &Events) {
        let free = self.0.iter().position(Option::is_none);
        let number = free.unwrap_or(self.0.len());
        let mut entry = Entry {
            gate,
            rests_until: None,
        };
        entry.heed(number, now, events);
        let entry = Some(entry);
        match self.0.get_mut(number) {
            Some(place) => *place = entry,
            None => self.0.push(entry),
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<Arc<Gate>> {
        let entry = self.0.get(number)?.as_ref()?;
        Some(entry.gate.clone())
    }

    /// Hears of nobody who comes by a gate for a while.
    pub(super) fn rest(&mut self, number: usize, until: Instant, events: &Events) {
        if let Some(Some(entry)) = self.0.get_mut(number) {
            entry.rests_until = Some(until);
            events.ignore(&entry.gate.listener);
        }
    }

    /// When the first of those that rest is to go on.
    pub(super) fn rest_until(&self) -> Option<Instant> {
        let entries = self.0.iter().flatten();
        entries.filter_map(|entry| entry.rests_until).min()
    }

    /// Goes on with those that have rested.
    pub(super) fn go_on(&mut self, now: Instant, events: &Events) {
        for (number, entry) in self.0.iter_mut().enumerate() {
            if let Some(entry) = entry
                && entry.rests_until.take_if(|until| *until <= now).is_some()
            {
                entry.heed(number, now, events);
            }
        }
    }

    /// Lets go of those that are closed, and says which they were.
    pub(super) fn let_go(&mut self, events: &Events) -> Vec<Arc<Gate>> {
        let closed = |place: &mut Option<Entry>| place.take_if(|entry| entry.gate.is_closed());
        let closed: Vec<_> = self.0.iter_mut().filter_map(closed).collect();
        let gates = closed.into_iter().map(|entry| entry.gate);
        gates
            .inspect(|gate| events.ignore(&gate.listener))
            .collect()
    }
}

impl Entry {
    fn heed(&mut self, number: usize, now: Instant, events: &Events) {
        if let Err(error) = events.heed(&self.gate.listener, number, self.gate.is_shared()) {
            tracing::error!(%error, "a carrier accepts no clients; trying again");
            self.rests_until = Some(now.after(ACCEPT_RETRY));
        }
    }
}
