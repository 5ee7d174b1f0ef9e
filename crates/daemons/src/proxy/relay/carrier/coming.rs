//! How clients come to a carrier: accepted, given to whoever has fewer, and let through.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use stolon_core::time::Instant;

use super::super::arrival::Arrival;
use super::super::desk::Order;
use super::super::gate::{Accepted, Gate};
use super::super::session::Side;
use super::{Carrier, Client};

impl Carrier {
    /// Accepts one client: the kernel tells of the next one in the next round. By a young gate all.
    pub(super) fn accept(&mut self, number: usize, now: Instant) {
        let Some(gate) = self.gates.get(number) else {
            return;
        };
        loop {
            let accepted = gate.accept(now);
            if let Accepted::Failed(until) = accepted {
                return self.gates.rest(number, until, &self.events);
            }
            let is_last = matches!(accepted, Accepted::Nobody) || !gate.is_young();
            self.welcome_accepted(accepted, &gate, now);
            if is_last {
                return;
            }
        }
    }

    /// Lets somebody through, if there is somebody, from here or from a thread that has fewer.
    pub(super) fn welcome_accepted(&mut self, accepted: Accepted, gate: &Arc<Gate>, now: Instant) {
        let Accepted::Client(client, from) = accepted else {
            return;
        };
        if let Some(freer) = gate.shared.carriers.freer_than(&self.desk) {
            freer.takes_one();
            freer.order(Order::Welcome(client, from, gate.clone()));
        } else {
            self.desk.takes_one();
            self.welcome(client, from, gate, now);
        }
    }

    /// Lets a client through, who counts as this thread's already.
    pub(super) fn welcome(
        &mut self,
        client: TcpStream,
        from: SocketAddr,
        gate: &Gate,
        now: Instant,
    ) {
        let Some(arrival) = Arrival::begin(client, from, gate, now) else {
            return self.desk.leaves_one();
        };
        let until = arrival.until();
        let number = self.seat(Client::Arriving(Box::new(arrival)));
        self.arriving.push_back((until, number));
        if let Some(Some(Client::Arriving(arrival))) = self.clients.get(number)
            && let Err(error) = self
                .events
                .watch(arrival.server.as_fd(), number, Side::Server)
        {
            tracing::warn!(%error, "cannot connect for a client");
            self.leave_arriving(number, Arrival::turns_round);
        }
    }

    /// Goes on with a client when its server's socket has news. An event may be of the one who had the
    /// number before: what it says is looked for at the socket.
    pub(super) fn arrive(&mut self, number: usize, side: Side, flags: EventFlags, now: Instant) {
        let Some(place) = self.clients.get_mut(number) else {
            return;
        };
        let Some(Client::Arriving(arrival)) = place.as_ref() else {
            return;
        };
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            if let Some(error) = arrival.error() {
                self.leave_arriving(number, |arrival| arrival.failed(error));
            }
            return;
        }
        if side == Side::Client || !flags.contains(EventFlags::OUT) {
            return;
        }
        let Some(Client::Arriving(arrival)) = place.take() else {
            return;
        };
        if let Some(session) = arrival.connected(now) {
            let client = session.client.clone();
            if let Some(place) = self.clients.get_mut(number) {
                *place = Some(Client::Carried(Box::new(session)));
            }
            self.carry(number, &client, Ok(()), now);
            // It may have been told of more than being ready.
            self.hear(number, Side::Server, flags, now);
        } else {
            self.ended.push(number);
            self.desk.leaves_one();
        }
    }

    /// Leaves somebody to a task who does not get through from here.
    pub(super) fn leave_arriving(&mut self, number: usize, leave: impl FnOnce(Arrival)) {
        if let Some(Client::Arriving(arrival)) = self.take(number) {
            leave(*arrival);
        }
    }
}
