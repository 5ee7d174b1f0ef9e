//! What a carrier hears of: news of sockets, its desk's bell, and a clock that ticks while it is wanted.

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

use super::bulk;
use super::session::Side;

/// How many events are taken from the kernel at a time.
const MOST: usize = 256;

/// The sources of events of one thread.
pub(super) struct Events {
    epoll: OwnedFd,
    clock: OwnedFd,
    is_ticking: bool,
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
        let clock = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        for (source, about) in [(bell, About::Desk), (&clock, About::Clock)] {
            epoll::add(&epoll, source, about.data(), EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            clock,
            is_ticking: false,
        })
    }

    /// Waits for events, so long; none: for as long as it takes.
    pub(super) fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) {
        events.clear();
        events.reserve(MOST);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
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

    /// Has the clock tick, or stops it.
    pub(super) fn run_clock(&mut self, runs: bool) {
        if std::mem::replace(&mut self.is_ticking, runs) == runs {
            return;
        }
        let tick = if runs { bulk::TICK } else { Duration::ZERO };
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: tick.subsec_nanos().into(),
        };
        let times = Itimerspec {
            it_interval: tick,
            it_value: tick,
        };
        if let Err(error) = timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &times) {
            tracing::error!(%error, "a clock cannot be set");
        }
    }

    /// The clock has ticked: one that is not read does not tick again.
    pub(super) fn ticked(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.clock, &mut count);
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
    use super::{About, Side};

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
