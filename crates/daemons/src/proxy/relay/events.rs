//! What a carrier hears of: news of sockets, its desk's bell, and a clock.

use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::session::Side;
use stolon_core::time::Instant;

/// How many events are taken from the kernel at a time.
const MOST: usize = 256;
/// A moment that is nearer is waited for, one that is farther is left to the clock.
const NEAR: Duration = Duration::from_millis(10);

/// The sources of events of one thread.
pub(super) struct Events {
    epoll: OwnedFd,
    clock: OwnedFd,
    /// When the clock rings.
    rings: Option<Instant>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Client(usize, Side),
    Gate(usize),
    Desk,
    Clock,
}

impl Events {
    /// Hears of the desk's bell, and of nothing else yet.
    pub(super) fn new(bell: &OwnedFd) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let clock = timerfd_create(TimerfdClockId::Boottime, flags)?;
        for (source, about) in [(bell, About::Desk), (&clock, About::Clock)] {
            epoll::add(&epoll, source, about.data(), EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            clock,
            rings: None,
        })
    }

    /// Waits for events, until the moment at the longest; none: for as long as it takes.
    ///
    /// A limit makes each wait dearer, by a timer of the kernel's that is set and taken down again. So
    /// the clock is set for a moment that is not near, and stays so until it rings, too early mostly.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>, now: Instant, until: Option<Instant>) {
        events.clear();
        events.reserve(MOST);
        let limit = match until {
            Some(until) if until.since(now) > NEAR && self.ring_by(until) => None,
            Some(until) => Timespec::try_from(until.since(now)).ok(),
            None => None,
        };
        match epoll::wait(&self.epoll, spare_capacity(events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => unreachable!("an epoll of this process cannot be waited for: {error}"),
        }
    }

    /// Hears of a client's socket, or its server's: of what it holds already too, and then of each
    /// change (epoll(7), edge-triggered). Closing it ends that.
    pub(super) fn watch(
        &self,
        socket: BorrowedFd<'_>,
        number: usize,
        side: Side,
    ) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(
            &self.epoll,
            socket,
            About::Client(number, side).data(),
            flags,
        )
    }

    /// Hears of those who come by a gate: where carriers share it, one of them hears of each client and
    /// not all (`EPOLLEXCLUSIVE`, `epoll_ctl`(2)).
    pub(super) fn heed(
        &self,
        gate: &TcpListener,
        number: usize,
        is_shared: bool,
    ) -> Result<(), Errno> {
        let exclusive = if is_shared {
            EventFlags::EXCLUSIVE
        } else {
            EventFlags::empty()
        };
        let flags = EventFlags::IN | exclusive;
        epoll::add(&self.epoll, gate, About::Gate(number).data(), flags)
    }

    /// Hears no more of a gate, if it did.
    pub(super) fn ignore(&self, gate: &TcpListener) {
        let _ = epoll::delete(&self.epoll, gate);
    }

    /// Sets the clock to ring by a moment; false when that cannot be done.
    fn ring_by(&mut self, moment: Instant) -> bool {
        if self.rings.is_some_and(|rings| rings <= moment) {
            return true;
        }
        let Ok(since_boot) = Timespec::try_from(moment.since_boot()) else {
            return false;
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: since_boot,
        };
        let set = timerfd_settime(&self.clock, TimerfdTimerFlags::ABSTIME, &once);
        self.rings = set.is_ok().then_some(moment);
        set.is_ok()
    }

    /// The clock has rung.
    pub(super) fn rang(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.clock, &mut count);
        self.rings = None;
    }
}

impl About {
    /// The number of a client or gate, with two bits for what it is of.
    fn data(self) -> EventData {
        let (number, what) = match self {
            Self::Client(number, Side::Client) => (number, 0),
            Self::Client(number, Side::Server) => (number, 1),
            Self::Gate(number) => (number, 2),
            Self::Desk => (0, 3),
            Self::Clock => (1, 3),
        };
        EventData::new_u64(u64::try_from(number).unwrap_or_default() << 2 | what)
    }

    /// What an event's data say.
    pub(super) fn of(data: EventData) -> Self {
        let number = usize::try_from(data.u64() >> 2).unwrap_or(usize::MAX);
        match data.u64() & 3 {
            0 => Self::Client(number, Side::Client),
            1 => Self::Client(number, Side::Server),
            2 => Self::Gate(number),
            _ if number == 0 => Self::Desk,
            _ => Self::Clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{About, Events, Side};
    use crate::runtime::clock;

    #[test]
    fn a_moment_comes_when_a_farther_one_was_waited_for_before() {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            wait_for_nearer_moments();
            let _ = done.send(());
        });
        let limit = Duration::from_secs(30);
        is_done.recv_timeout(limit).expect("moments come");
    }

    fn wait_for_nearer_moments() {
        let bell = rustix::event::eventfd(1, rustix::event::EventfdFlags::NONBLOCK);
        let bell = bell.expect("a bell");
        let mut events = Events::new(&bell).expect("an epoll");
        let mut heard = Vec::new();
        let now = clock::now();
        // The bell has rung already.
        events.wait(&mut heard, now, Some(now.after(Duration::from_mins(1))));
        rustix::io::read(&bell, &mut [0; 8]).expect("a bell that rang");
        let mut waits = 0;
        for pause in [30, 3, 30].map(Duration::from_millis) {
            let moment = clock::now().after(pause);
            while clock::now() < moment {
                events.wait(&mut heard, clock::now(), Some(moment));
                if !heard.is_empty() {
                    events.rang();
                }
                waits += 1;
                assert!(waits < 20, "it does not wait");
            }
        }
    }

    #[test]
    fn an_event_says_what_it_is_about() {
        for about in [
            About::Client(0, Side::Client),
            About::Client(0, Side::Server),
            About::Client(77, Side::Server),
            About::Gate(0),
            About::Gate(5),
            About::Desk,
            About::Clock,
        ] {
            assert_eq!(About::of(about.data()), about);
        }
    }
}
