//! Where the clients of each port may go now, and who is on the way there.
//!
//! Every connection belongs to a permit: one target with its deadline. What takes a permit away ends
//! its connections in the same step, so that nothing reaches a server that may not be reached (I1).

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stolon_core::proxy::Target;
use stolon_core::time::Instant;

use super::abort;
use super::permit::Permit;
use crate::proxy::greeting::Refusal;
use crate::proxy::metrics::{self, Metrics};

/// Which port a client came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// The one that leads to the primary.
    Primary,
    /// The one that leads to standbys.
    Reading,
}

impl Door {
    /// Why a client was not let through, or does not go on, although there was a way.
    pub(super) const fn changed(self) -> &'static str {
        match self {
            Self::Primary => "the primary has just changed",
            Self::Reading => "this standby may not be read from any more",
        }
    }

    /// What is said to a client that is not let through.
    pub(super) const fn refusal(self, why: String) -> Refusal {
        match self {
            Self::Primary => Refusal::NoPrimary(why),
            Self::Reading => Refusal::NoStandby(why),
        }
    }

    /// What it is called in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Primary => metrics::PRIMARY,
            Self::Reading => metrics::READING,
        }
    }

    /// What is behind it, in words.
    pub(super) const fn leads_to(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Reading => "standby",
        }
    }
}

/// Both doors.
pub(super) struct Doors {
    state: Mutex<State>,
    metrics: Metrics,
}

struct State {
    primary: Ways,
    reading: Ways,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

/// The ways behind one door.
struct Ways {
    permits: Vec<Arc<Permit>>,
    why_none: String,
    /// Whose turn it is among those with equally many sessions.
    turn: usize,
}

/// A session.
pub(super) struct Connection {
    #[cfg(test)]
    pub(super) client: Arc<TcpStream>,
    pub(super) server: Arc<TcpStream>,
    pub(super) permit: Arc<Permit>,
}

impl Connection {
    pub(super) fn new(
        #[cfg_attr(
            not(test),
            expect(unused_variables, reason = "tests look at both sockets")
        )]
        client: &Arc<TcpStream>,
        server: &Arc<TcpStream>,
        permit: &Arc<Permit>,
    ) -> Self {
        Self {
            #[cfg(test)]
            client: client.clone(),
            server: server.clone(),
            permit: permit.clone(),
        }
    }
}

impl Ways {
    fn none() -> Self {
        Self {
            permits: Vec::new(),
            why_none: "the cluster data were not read yet".to_owned(),
            turn: 0,
        }
    }
}

impl State {
    const fn ways(&mut self, door: Door) -> &mut Ways {
        match door {
            Door::Primary => &mut self.primary,
            Door::Reading => &mut self.reading,
        }
    }

    fn revoke(&mut self, permit: &Arc<Permit>, why: &str, counted: impl Fn()) {
        permit.revoke(why);
        self.connections.retain(|_, connection| {
            let stays = !Arc::ptr_eq(&connection.permit, permit);
            if !stays {
                abort(&connection.server);
                counted();
            }
            stays
        });
    }
}

impl Doors {
    /// Nobody may go anywhere yet.
    pub(super) fn new(metrics: Metrics) -> Self {
        let state = State {
            primary: Ways::none(),
            reading: Ways::none(),
            connections: BTreeMap::new(),
            next: 0,
        };
        Self {
            state: Mutex::new(state),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the clients of a door go to these targets and to no other one. When this returns every
    /// connection to another place is gone, and every one whose permit had run out: a permit is prolonged
    /// only while it holds, so that nothing outlives a time in which nobody knew of it (I1). True when
    /// there is a way that there was not before.
    pub(super) fn open(&self, door: Door, targets: Vec<(Target, Instant)>) -> bool {
        let mut state = self.lock();
        let before = std::mem::take(&mut state.ways(door).permits);
        let lasts = |permit: &Arc<Permit>| {
            let until = targets.iter().find(|(target, _)| *target == permit.target);
            until.map(|(_, until)| *until).filter(|_| permit.holds())
        };
        let mut permits = Vec::new();
        for permit in before {
            if let Some(until) = lasts(&permit) {
                permit.prolong(until);
                permits.push(permit);
            } else {
                state.revoke(&permit, door.changed(), || {
                    self.metrics.closed("route-changed");
                });
            }
        }
        let known = permits.len();
        for (target, until) in targets {
            if !permits.iter().any(|permit| permit.target == target) {
                permits.push(Arc::new(Permit::new(target, until, door)));
            }
        }
        let is_more = permits.len() > known;
        state.ways(door).permits = permits;
        is_more
    }

    /// Ends every session of a door: when this returns nothing of it reaches a server any more. Those
    /// who carry them hear of it from the sockets, and tell the clients. `cause` is what metrics call it.
    pub(super) fn close(&self, door: Door, (why, cause): (&str, &'static str)) {
        let mut state = self.lock();
        why.clone_into(&mut state.ways(door).why_none);
        for permit in std::mem::take(&mut state.ways(door).permits) {
            state.revoke(&permit, why, || self.metrics.closed(cause));
        }
    }

    /// The permits in force, the one with the fewest sessions first, or why there is none.
    pub(super) fn permits(&self, door: Door) -> Result<Vec<Arc<Permit>>, String> {
        let mut state = self.lock();
        let ways = state.ways(door);
        let holding = ways.permits.iter().filter(|permit| permit.holds());
        let mut holding: Vec<Arc<Permit>> = holding.cloned().collect();
        if holding.is_empty() {
            let ended = ways.permits.first().map(|permit| permit.why_ended());
            return Err(ended.unwrap_or(&ways.why_none).to_owned());
        }
        // Those who come at the same moment are not all sent to the same one.
        ways.turn = ways.turn.wrapping_add(1);
        let first = ways.turn % holding.len();
        holding.rotate_left(first);
        // What it is sorted by changes meanwhile.
        holding.sort_by_cached_key(|permit| permit.load());
        Ok(holding)
    }

    /// Whether a permit is still in force.
    pub(super) fn is_in_force(&self, permit: &Arc<Permit>) -> bool {
        let mut state = self.lock();
        let permits = &state.ways(permit.door).permits;
        permit.holds() && permits.iter().any(|other| Arc::ptr_eq(other, permit))
    }

    /// Enters a connection, unless its permit has ended meanwhile.
    pub(super) fn enter(&self, connection: Connection) -> Option<u64> {
        let mut state = self.lock();
        let permit = &connection.permit;
        let door = permit.door;
        let permits = &state.ways(door).permits;
        if !permit.holds() || !permits.iter().any(|other| Arc::ptr_eq(other, permit)) {
            return None;
        }
        permit.sessions.fetch_add(1, Ordering::Relaxed);
        let id = state.next;
        state.next += 1;
        state.connections.insert(id, connection);
        Some(id)
    }

    /// A connection is over: whether it was here until now, and not ended from here.
    pub(super) fn leave(&self, id: u64, permit: &Permit) -> bool {
        permit.sessions.fetch_sub(1, Ordering::Relaxed);
        self.lock().connections.remove(&id).is_some()
    }

    /// How many connections are carried.
    pub(super) fn connections(&self) -> usize {
        self.lock().connections.len()
    }

    /// Both sockets of a connection.
    #[cfg(test)]
    pub(super) fn first_pair(&self) -> Option<[Arc<TcpStream>; 2]> {
        let state = self.lock();
        let first = state.connections.values().next();
        first.map(|connection| [connection.client.clone(), connection.server.clone()])
    }
}
