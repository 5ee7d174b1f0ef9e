//! One of the threads that let clients through and carry their sessions: with an epoll of its own, one
//! buffer, and the clients that it accepted or was given, to their last byte. Nothing in it waits for
//! anything but news of sockets. ([ADR 16](../../../../../docs/adr/0016-the-relay.md))

mod coming;

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use stolon_core::time::Instant;

use super::arrival::Arrival;
use super::carry;
use super::desk::{Desk, Order};
use super::events::{About, Events};
use super::gates::Gates;
use super::session::{Fate, News, Session, Side};
use crate::runtime::clock;

/// How many sessions are looked at in a row for peers that are gone.
const LOOKS: usize = 256;
/// The longest time between two looks at the same session.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One thread.
pub(super) struct Carrier {
    desk: Arc<Desk>,
    events: Events,
    buffer: Vec<u8>,
    /// By the number that their events carry, which is free again when they have ended.
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    /// Ended in this round: events of theirs may still be at hand.
    ended: Vec<usize>,
    /// They have more to do.
    again: Vec<usize>,
    /// They hear that they were ended, in the order of their time.
    parting: VecDeque<(Instant, usize)>,
    /// They have so long to reach their servers, in the order of their time; some have by now.
    arriving: VecDeque<(Instant, usize)>,
    /// They carry much, and are looked at when nothing was heard of them for a moment.
    bulky: Vec<usize>,
    /// When one of these may be due; none: there are none.
    bulky_due: Option<Instant>,
    gates: Gates,
    is_draining: bool,
    patience: Duration,
    /// When the next round of looks begins, and how far this one has come.
    look_at: Instant,
    looked: Option<usize>,
}

/// A process without one of these threads would leave clients unanswered for ever: rather it ends, and
/// whoever manages it starts it anew.
struct Whole;

impl Drop for Whole {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Somebody whom this thread takes care of.
enum Client {
    Arriving(Box<Arrival>),
    Carried(Box<Session>),
}

impl Carrier {
    pub(super) fn new(desk: Arc<Desk>, patience: Duration) -> std::io::Result<Self> {
        let events = Events::new(desk.bell())?;
        Ok(Self {
            desk,
            events,
            buffer: vec![0; carry::MOST],
            clients: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            again: Vec::new(),
            parting: VecDeque::new(),
            arriving: VecDeque::new(),
            bulky: Vec::new(),
            bulky_due: None,
            gates: Gates::default(),
            is_draining: false,
            patience,
            look_at: clock::now(),
            looked: None,
        })
    }

    pub(super) fn run(mut self) {
        let _whole = Whole;
        let mut events = Vec::new();
        while !self.desk.is_over() {
            let before = clock::now();
            let until = self.until(before);
            self.events.wait(&mut events, before, until);
            let now = clock::now();
            for number in std::mem::take(&mut self.again) {
                self.with(number, |session, buffer| {
                    session.is_queued = false;
                    session.goes_on(now, buffer)
                });
            }
            for event in &events {
                match About::of(event.data) {
                    About::Client(number, side) => self.hear(number, side, event.flags, now),
                    About::Gate(number) => self.accept(number, now),
                    About::Desk => self.read_desk(now),
                    About::Clock => self.events.rang(),
                }
            }
            self.look_for_more(now);
            self.look(now);
            self.part(now);
            self.gates.go_on(now, &self.events);
            self.free.append(&mut self.ended);
        }
    }

    /// Until when there is nothing to do without news.
    fn until(&self, now: Instant) -> Option<Instant> {
        if !self.again.is_empty() || self.looked.is_some() {
            return Some(now);
        }
        let is_empty = self.free.len() == self.clients.len();
        self.gates
            .rest_until()
            .into_iter()
            .chain(self.bulky_due)
            .chain(self.parting.front().map(|(until, _)| *until))
            .chain(self.arriving.front().map(|(until, _)| *until))
            .chain((!is_empty).then_some(self.look_at))
            .min()
    }

    fn hear(&mut self, number: usize, side: Side, flags: EventFlags, now: Instant) {
        if let Some(Some(Client::Arriving(_))) = self.clients.get(number) {
            return self.arrive(number, side, flags, now);
        }
        let hangs_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let news = News {
            readable: hangs_up || flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            hangs_up,
        };
        self.with(number, |session, buffer| {
            session.hears(side, news, now, buffer)
        });
    }

    /// Lets a session do something, and does what follows for it.
    fn with(&mut self, number: usize, work: impl FnOnce(&mut Session, &mut [u8]) -> Fate) {
        let Some(Some(Client::Carried(session))) = self.clients.get_mut(number) else {
            return;
        };
        let fate = work(session, &mut self.buffer);
        if let Some(due) = session.look_due() {
            self.bulky_due = Some(self.bulky_due.map_or(due, |first| first.min(due)));
            if !std::mem::replace(&mut session.is_looked_at, true) {
                self.bulky.push(number);
            }
        }
        match fate {
            Fate::Rests => {}
            Fate::Again if session.is_queued => {}
            Fate::Again => {
                session.is_queued = true;
                self.again.push(number);
            }
            Fate::Parts(until) => self.parting.push_back((until, number)),
            Fate::Over => drop(self.take(number)),
        }
    }

    /// Looks at those who carry much and were not heard of for a moment.
    fn look_for_more(&mut self, now: Instant) {
        if self.bulky_due.is_none_or(|due| due > now) {
            return;
        }
        self.bulky_due = None;
        for number in std::mem::take(&mut self.bulky) {
            // One that goes on so is entered again.
            self.with(number, |session, buffer| {
                session.is_looked_at = false;
                session.look_for_more(now, buffer)
            });
        }
    }

    /// Puts somebody in a free place.
    fn seat(&mut self, client: Client) -> usize {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.clients.get_mut(number)
        {
            *place = Some(client);
            return number;
        }
        self.clients.push(Some(client));
        self.clients.len() - 1
    }

    /// Takes somebody out, who has no place here any more. Closing takes its sockets out of the epoll.
    /// Where another thread still holds them for a moment, their news may reach the next one of this
    /// number, and do no harm.
    fn take(&mut self, number: usize) -> Option<Client> {
        let client = self.clients.get_mut(number)?.take()?;
        self.ended.push(number);
        self.desk.leaves_one();
        Some(client)
    }

    /// Takes what lies on the desk, and sees what was asked of all.
    fn read_desk(&mut self, now: Instant) {
        for order in self.desk.orders() {
            match order {
                Order::Carry(session) => {
                    let client = session.client.clone();
                    let server = session.server.clone();
                    let number = self.seat(Client::Carried(session));
                    let watched = self.events.watch(server.as_fd(), number, Side::Server);
                    self.carry(number, &client, watched, now);
                }
                Order::Welcome(client, from, gate) => self.welcome(client, from, &gate, now),
                Order::Accept(gate) => self.gates.open(gate, now, &self.events),
            }
        }
        if self.desk.is_draining() && !self.is_draining {
            self.is_draining = true;
            for number in 0..self.clients.len() {
                self.with(number, |session, buffer| session.drain(now, buffer));
            }
        }
        if self.desk.looks_around() {
            self.look_around(now);
        }
    }

    /// Leaves gates that are closed, and ways that are.
    fn look_around(&mut self, now: Instant) {
        for gate in self.gates.let_go(&self.events) {
            // The kernel may have told this thread alone of somebody, and no successor.
            if !gate.shared.last.is_cancelled() {
                let accepted = gate.accept_anyway(now);
                self.welcome_accepted(accepted, &gate, now);
            }
        }
        let mut arriving = std::mem::take(&mut self.arriving);
        arriving.retain(|(_, number)| match self.clients.get(*number) {
            Some(Some(Client::Arriving(arrival))) if arrival.is_on_its_way() => true,
            Some(Some(Client::Arriving(_))) => {
                self.leave_arriving(*number, Arrival::turns_round);
                false
            }
            _ => false,
        });
        // One who came meanwhile came after all of these.
        arriving.append(&mut self.arriving);
        self.arriving = arriving;
    }

    /// Begins to carry a session whose server's socket is watched.
    fn carry(
        &mut self,
        number: usize,
        client: &TcpStream,
        watched: Result<(), Errno>,
        now: Instant,
    ) {
        if let Err(error) =
            watched.and_then(|()| self.events.watch(client.as_fd(), number, Side::Client))
        {
            tracing::warn!(%error, "cannot carry a client");
            self.with(number, |session, _| session.breaks());
        } else if self.is_draining {
            self.with(number, |session, buffer| session.drain(now, buffer));
        } else {
            // Mostly it has said something by now.
            let news = News {
                readable: true,
                ..News::default()
            };
            self.with(number, |session, buffer| {
                session.hears(Side::Client, news, now, buffer)
            });
        }
    }

    /// Looks at some sessions, when it is time, for peers that are gone.
    fn look(&mut self, now: Instant) {
        let from = match self.looked {
            Some(from) => from,
            None if self.look_at <= now => 0,
            None => return,
        };
        let to = (from + LOOKS).min(self.clients.len());
        let patience = self.patience;
        for number in from..to {
            self.with(number, |session, _| session.look(now, patience));
        }
        self.looked = (to < self.clients.len()).then_some(to);
        if from == 0 {
            self.look_at = now.after((patience / 4).min(LONGEST_PAUSE));
        }
    }

    /// Leaves those who had time enough: to hear that they were ended, or to reach their servers.
    fn part(&mut self, now: Instant) {
        while let Some((_, number)) = self.parting.pop_front_if(|(until, _)| *until <= now) {
            self.with(number, |session, _| session.is_left(now));
        }
        while let Some(&(until, number)) = self.arriving.front() {
            match self.clients.get(number) {
                Some(Some(Client::Arriving(_))) if until > now => return,
                // Another one may have the number by now.
                Some(Some(Client::Arriving(arrival))) if arrival.until() <= now => {
                    self.leave_arriving(number, Arrival::gives_up);
                }
                _ => {}
            }
            self.arriving.pop_front();
        }
    }
}
