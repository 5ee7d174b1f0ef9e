//! Asking the server outside that a standby cluster follows, while it does not stream from it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stolon_core::keeper::facts::{Observation, Outside as Facts};
use stolon_core::time::Instant;
use stolon_postgres::Installation;
use stolon_postgres::outside::{self, Outside};

use crate::runtime::clock;

/// The server, and what it said last. Nothing waits for its answer: it may be out of reach for long.
#[derive(Debug, Default)]
pub(super) struct SourceOutside {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    server: Option<Outside>,
    is_asking: bool,
    answer: Option<(Instant, Facts)>,
}

impl SourceOutside {
    /// Notes which server it is; none: a db of the cluster is followed, or nobody.
    pub(super) fn follow(&self, server: Option<Outside>) {
        let mut state = lock(&self.state);
        if state.server != server {
            state.server = server;
            state.answer = None;
        }
    }

    /// What it said, where it was asked within `age` and an instance that does not stream wants to know.
    pub(super) fn heard(&self, seen: &Observation, age: Duration) -> Option<Facts> {
        let mut state = lock(&self.state);
        if !seen.in_recovery || seen.streams_from.is_some() {
            state.answer = None;
        }
        let now = clock::now();
        let answer = state.answer.as_ref();
        let answer = answer.filter(|(asked, _)| now.since(*asked) <= age);
        answer.map(|(_, facts)| facts.clone())
    }

    /// Asks it, behind the back of who asks for that. How far the instance had replayed is known before,
    /// so that it cannot seem to be ahead of an older answer.
    pub(super) fn ask(&self, installation: &Installation, seen: &Observation, limit: Duration) {
        let mut state = lock(&self.state);
        let Some(server) = state.server.clone() else {
            return;
        };
        if state.is_asking || !seen.in_recovery || seen.streams_from.is_some() {
            return;
        }
        state.is_asking = true;
        drop(state);
        let (state, installation) = (self.state.clone(), installation.clone());
        let (asked_at, replayed_before) = (clock::now(), seen.replay_lsn);
        tokio::spawn(async move {
            let said = outside::look(&installation, &server, limit).await;
            let mut state = lock(&state);
            state.is_asking = false;
            // It may be another one by now.
            if state.server.as_ref() != Some(&server) {
                return;
            }
            state.answer = match said {
                Ok(said) => Some((asked_at, facts(said, replayed_before))),
                Err(error) => {
                    tracing::debug!(%error, "the server outside does not tell its history");
                    None
                }
            };
        });
    }
}

fn facts(said: outside::State, replayed_before: stolon_core::model::Lsn) -> Facts {
    Facts {
        replayed_before,
        system_id: said.system_id,
        is_writable: said.is_writable,
        timeline: said.timeline,
        flush_lsn: said.flush_lsn,
        history: said.history,
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
