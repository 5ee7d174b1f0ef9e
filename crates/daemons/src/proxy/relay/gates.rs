//! The gates that one carrier accepts by.

use std::sync::Arc;

use stolon_core::time::Instant;

use super::events::Events;
use super::gate::Gate;

/// By the number that their events carry.
#[derive(Default)]
pub(super) struct Gates(Vec<Option<Way>>);

struct Way {
    gate: Arc<Gate>,
    /// Accepting failed; it is tried again then.
    rests_until: Option<Instant>,
}

impl Gates {
    /// Hears of those who come by one more gate.
    pub(super) fn open(&mut self, gate: Arc<Gate>, events: &Events) {
        let free = self.0.iter().position(Option::is_none);
        let number = free.unwrap_or(self.0.len());
        heed(&gate, number, events);
        let way = Some(Way {
            gate,
            rests_until: None,
        });
        match self.0.get_mut(number) {
            Some(place) => *place = way,
            None => self.0.push(way),
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<Arc<Gate>> {
        let way = self.0.get(number)?.as_ref()?;
        Some(way.gate.clone())
    }

    /// Hears of nobody who comes by a gate for a while.
    pub(super) fn rest(&mut self, number: usize, until: Instant, events: &Events) {
        if let Some(Some(way)) = self.0.get_mut(number) {
            way.rests_until = Some(until);
            events.ignore(&way.gate.listener);
        }
    }

    /// When the first of those that rest is to go on.
    pub(super) fn rest_until(&self) -> Option<Instant> {
        let ways = self.0.iter().flatten();
        ways.filter_map(|way| way.rests_until).min()
    }

    /// Goes on with those that have rested.
    pub(super) fn go_on(&mut self, now: Instant, events: &Events) {
        for (number, way) in self.0.iter_mut().enumerate() {
            if let Some(way) = way
                && way.rests_until.take_if(|until| *until <= now).is_some()
            {
                heed(&way.gate, number, events);
            }
        }
    }

    /// Lets go of those that are closed.
    pub(super) fn let_go(&mut self, events: &Events) {
        for way in &mut self.0 {
            if let Some(way) = way.take_if(|way| way.gate.is_closed()) {
                events.ignore(&way.gate.listener);
            }
        }
    }
}

fn heed(gate: &Gate, number: usize, events: &Events) {
    if let Err(error) = events.heed(&gate.listener, number) {
        tracing::error!(%error, "a carrier accepts no clients");
    }
}
