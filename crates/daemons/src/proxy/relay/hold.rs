//! Holding clients for whom there is no primary, and letting them through once there is one.
//!
//! Nothing is read from a client that is held: when it is let through, its server gets every byte
//! from the first, and when it is not, it can still be refused as if it had just come.

use std::time::Duration;

use stolon_core::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::greeting;
use super::super::metrics::{Held, Metrics};
use super::doors::Door;
use super::serve::{Admitted, admit};
use super::{Shared, peer};
use crate::runtime::clock;

/// Clients are let through one after the other, so long apart: a primary that has just begun gets a
/// burst of sessions that it can fork, not all at once.
const PACE: Duration = Duration::from_millis(2);
/// How often one of those who wait tries whether the primary can be reached: it may be on its way
/// without any news in the store, as after a crash that its keeper mends in place.
const PROBE: Duration = Duration::from_millis(50);
/// A try that was begun may take so long, also at the end of the time that a client is held.
const LEAST_TRY: Duration = Duration::from_secs(1);
/// How much longer a client is held whose turn is to come when its time is over: there may be a primary,
/// and many before it.
const IN_TURN: Duration = Duration::from_secs(5);
/// How often it is looked whether a client has given up.
const LOOK: Duration = Duration::from_millis(500);

/// Holds a client that was not admitted, because of `why`, until it is, or its time is over.
pub(super) async fn hold(
    client: &TcpStream,
    shared: &Shared,
    door: Door,
    mut why: String,
) -> Result<Admitted, Left> {
    let Some(mut wait) = shared.waiting(door).enter(&shared.metrics) else {
        return Err(Left::Refused(why));
    };
    loop {
        wait.next(client, &shared.last, &why).await?;
        match timeout(wait.left().max(LEAST_TRY), admit(shared, door)).await {
            Ok(Ok(admitted)) => {
                wait.ended();
                return Ok(admitted);
            }
            Ok(Err(error)) => why = error,
            Err(_) => {}
        }
    }
}

/// Where clients wait.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    timeout: Duration,
    seats: Semaphore,
    /// Wakes all: something changed that may let them through.
    news: watch::Sender<u64>,
    /// Who holds it tries for all.
    prober: Mutex<()>,
    /// Who holds it is next.
    turn: Mutex<()>,
}

/// A client that is held.
struct Wait<'a> {
    room: &'a WaitingRoom,
    metrics: &'a Metrics,
    _seat: SemaphorePermit<'a>,
    _held: Held,
    began: Instant,
    news: watch::Receiver<u64>,
    is_probe: bool,
}

/// Why a client was not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is to be told so.
    Refused(String),
    /// It has given up, or there is nothing to tell it.
    Gone,
}

impl WaitingRoom {
    /// Holds so many clients, each so long at the most; with no time nobody is held.
    pub(super) fn new(timeout: Duration, seats: usize) -> Self {
        let seats = if timeout.is_zero() { 0 } else { seats };
        Self {
            timeout,
            seats: Semaphore::new(seats.min(Semaphore::MAX_PERMITS)),
            news: watch::Sender::new(0),
            prober: Mutex::new(()),
            turn: Mutex::new(()),
        }
    }

    /// Something changed that may let clients through.
    pub(super) fn tell(&self) {
        self.news
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Takes a client in; none: nobody is held, or all seats are taken.
    fn enter<'a>(&'a self, metrics: &'a Metrics) -> Option<Wait<'a>> {
        let seat = self.seats.try_acquire().ok()?;
        Some(Wait {
            room: self,
            metrics,
            _seat: seat,
            _held: metrics.hold(),
            began: clock::now(),
            news: self.news.subscribe(),
            is_probe: false,
        })
    }

    /// What is awaited, unless the client is held no longer before: within the limit, of which it is
    /// told `why` it waited.
    async fn while_held<T>(
        &self,
        client: &TcpStream,
        stopping: &CancellationToken,
        (limit, why): (Duration, &str),
        awaited: impl Future<Output = T>,
    ) -> Result<T, Left> {
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Left::Refused("the proxy is stopping".to_owned())),
            () = given_up(client) => Err(Left::Gone),
            () = sleep(limit) => Err(Left::Refused(format!("{why} (waited {:?})", self.timeout))),
            awaited = awaited => Ok(awaited),
        }
    }

    /// Returns when it is this client's turn to try for all.
    async fn probe(&self) {
        let _prober = self.prober.lock().await;
        sleep(PROBE).await;
    }
}

impl Wait<'_> {
    /// Waits until it is worth another try to let the client through, which was not admitted because
    /// of `why`; an error when it is held no longer.
    async fn next(
        &mut self,
        client: &TcpStream,
        stopping: &CancellationToken,
        why: &str,
    ) -> Result<(), Left> {
        let (room, left) = (self.room, self.left());
        let news = async {
            tokio::select! {
                biased;
                _ = self.news.changed() => false,
                () = room.probe() => true,
            }
        };
        let held = room.while_held(client, stopping, (left, why), news);
        self.is_probe = held.await?;
        // The session that a request to cancel is about has mostly ended with its primary.
        if peer::has_left(client) || greeting::is_cancel_request(client) {
            return Err(Left::Gone);
        }
        let turn = async {
            let _turn = room.turn.lock().await;
            sleep(PACE).await;
        };
        let limit = left.saturating_add(IN_TURN);
        room.while_held(client, stopping, (limit, why), turn).await
    }

    /// How much longer the client is held.
    fn left(&self) -> Duration {
        self.room.timeout.saturating_sub(self.waited())
    }

    fn waited(&self) -> Duration {
        clock::now().since(self.began)
    }

    /// The client is let through: where it was the one to try, the others are to follow.
    fn ended(self) {
        self.metrics.let_through(self.waited());
        if self.is_probe {
            self.room.tell();
        }
    }
}

/// Returns when a client has closed its end.
async fn given_up(client: &TcpStream) {
    loop {
        sleep(LOOK).await;
        if peer::has_left(client) {
            return;
        }
    }
}
