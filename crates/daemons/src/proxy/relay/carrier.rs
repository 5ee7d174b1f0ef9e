//! The threads that carry sessions, one for every two processors: each with an epoll of its own, one buffer,
//! and the sessions that were given to it, from their first byte to their last. Nothing in them waits
//! for anything but news of sockets. ([ADR 16](../../../../../docs/adr/0016-the-relay.md))

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use stolon_core::time::Instant;

use super::carry;
use super::session::{Fate, News, Session, Side};
use crate::runtime::clock;

/// More threads than this carry nothing more.
const MOST_CARRIERS: usize = 16;
/// How many events are taken from the kernel at a time.
const EVENTS: usize = 256;
/// How many sessions are looked at in a row for peers that are gone.
const LOOKS: usize = 256;
/// The longest time between two looks at the same session.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Tells the event that wakes a thread from those of sessions.
const WOKEN: u64 = u64::MAX;

/// All of the threads.
#[derive(Debug)]
pub(super) struct Carriers {
    desks: Vec<Arc<Desk>>,
}

/// Where one thread is given sessions and orders.
#[derive(Debug)]
struct Desk {
    inbox: Mutex<Vec<Session>>,
    wake: OwnedFd,
    /// Sessions that it has, or will have.
    load: AtomicUsize,
    draining: AtomicBool,
    ended: AtomicBool,
}

impl Carriers {
    /// Starts the threads. A peer may be silent for `patience` while something waits for it.
    ///
    /// # Errors
    ///
    /// When the system gives no thread, or no descriptor for it.
    pub(super) fn start(patience: Duration) -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let carriers = (processors / 2).clamp(1, MOST_CARRIERS);
        let desks = (0..carriers).map(|number| {
            let desk = Desk {
                inbox: Mutex::default(),
                wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                load: AtomicUsize::new(0),
                draining: AtomicBool::new(false),
                ended: AtomicBool::new(false),
            };
            let desk = Arc::new(desk);
            let carrier = Carrier::new(desk.clone(), patience)?;
            std::thread::Builder::new()
                .name(format!("carrier-{number}"))
                .spawn(|| carrier.run())?;
            Ok(desk)
        });
        let desks = desks.collect::<std::io::Result<_>>()?;
        Ok(Self { desks })
    }

    /// Gives a session to the thread that has the fewest. Its sockets must not block.
    pub(super) fn carry(&self, session: Session) {
        let load = |desk: &&Arc<Desk>| desk.load.load(Ordering::Relaxed);
        // There is at least one processor.
        let Some(desk) = self.desks.iter().min_by_key(load) else {
            return;
        };
        desk.load.fetch_add(1, Ordering::Relaxed);
        let mut inbox = desk.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.push(session);
        let is_first = inbox.len() == 1;
        drop(inbox);
        if is_first {
            desk.wake();
        }
    }

    /// Nothing more is taken from clients, those to come included.
    pub(super) fn drain(&self) {
        for desk in &self.desks {
            desk.draining.store(true, Ordering::Release);
            desk.wake();
        }
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        for desk in &self.desks {
            desk.ended.store(true, Ordering::Release);
            desk.wake();
        }
    }
}

impl Desk {
    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// One thread.
struct Carrier {
    desk: Arc<Desk>,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    /// By the number that their events carry, which is free again when they have ended.
    sessions: Vec<Option<Box<Session>>>,
    free: Vec<usize>,
    /// Ended in this round: events of theirs may still be at hand.
    ended: Vec<usize>,
    /// They have more to do.
    again: Vec<usize>,
    /// They hear that they were ended, in the order of their time.
    parting: VecDeque<(Instant, usize)>,
    is_draining: bool,
    patience: Duration,
    /// When the next round of looks begins, and how far this one has come.
    look_at: Instant,
    looked: Option<usize>,
}

impl Carrier {
    fn new(desk: Arc<Desk>, patience: Duration) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &desk.wake,
            EventData::new_u64(WOKEN),
            EventFlags::IN,
        )?;
        Ok(Self {
            desk,
            epoll,
            buffer: vec![0; carry::MOST],
            sessions: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            again: Vec::new(),
            parting: VecDeque::new(),
            is_draining: false,
            patience,
            look_at: clock::now(),
            looked: None,
        })
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.desk.ended.load(Ordering::Acquire) {
            events.clear();
            let timeout = self.timeout(clock::now());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    unreachable!("an epoll of this process cannot be waited for: {error}")
                }
            }
            let now = clock::now();
            for number in std::mem::take(&mut self.again) {
                self.with(number, |session, buffer| {
                    session.is_queued = false;
                    session.goes_on(now, buffer)
                });
            }
            for event in &events {
                match event.data.u64() {
                    WOKEN => self.read_desk(now),
                    data => self.hear(data, event.flags, now),
                }
            }
            self.look(now);
            self.part(now);
            self.free.append(&mut self.ended);
        }
    }

    /// How long there is nothing to do without news.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let looks = self.free.len() < self.sessions.len();
        let until = match self.parting.front() {
            _ if !self.again.is_empty() || self.looked.is_some() => now,
            Some((until, _)) => (*until).min(self.look_at),
            None if looks => self.look_at,
            None => return None,
        };
        Timespec::try_from(until.since(now)).ok()
    }

    fn hear(&mut self, data: u64, flags: EventFlags, now: Instant) {
        let side = if data & 1 == 0 {
            Side::Client
        } else {
            Side::Server
        };
        let hangs_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let news = News {
            readable: hangs_up || flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            hangs_up,
        };
        let number = usize::try_from(data >> 1).unwrap_or(usize::MAX);
        self.with(number, |session, buffer| {
            session.hears(side, news, now, buffer)
        });
    }

    /// Lets a session do something, and does what follows for it.
    fn with(&mut self, number: usize, work: impl FnOnce(&mut Session, &mut [u8]) -> Fate) {
        let Some(place) = self.sessions.get_mut(number) else {
            return;
        };
        let Some(session) = place else { return };
        match work(session, &mut self.buffer) {
            Fate::Rests => {}
            Fate::Again if session.is_queued => {}
            Fate::Again => {
                session.is_queued = true;
                self.again.push(number);
            }
            Fate::Parts(until) => self.parting.push_back((until, number)),
            Fate::Over => {
                // Closing takes its sockets out of the epoll. Where another thread still holds them for
                // a moment, their news may reach the next session of this number, and do no harm.
                *place = None;
                self.ended.push(number);
                self.desk.load.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes what lies on the desk: sessions, and the order to take nothing more from clients.
    fn read_desk(&mut self, now: Instant) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.desk.wake, &mut count);
        let inbox = {
            let mut inbox = self
                .desk
                .inbox
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *inbox)
        };
        for session in inbox {
            self.begin(Box::new(session), now);
        }
        if self.desk.draining.load(Ordering::Acquire) && !self.is_draining {
            self.is_draining = true;
            for number in 0..self.sessions.len() {
                self.with(number, |session, buffer| session.drain(now, buffer));
            }
        }
    }

    fn begin(&mut self, session: Box<Session>, now: Instant) {
        let number = self.free.pop().unwrap_or(self.sessions.len());
        let data = |side: u64| {
            let number = u64::try_from(number).unwrap_or(WOKEN >> 1);
            EventData::new_u64(number << 1 | side)
        };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        // What the sockets hold already is told at once.
        let added = epoll::add(&self.epoll, session.client.as_fd(), data(0), flags)
            .and_then(|()| epoll::add(&self.epoll, session.server.as_fd(), data(1), flags));
        match self.sessions.get_mut(number) {
            Some(place) => *place = Some(session),
            None => self.sessions.push(Some(session)),
        }
        if let Err(error) = added {
            tracing::warn!(%error, "cannot carry a client");
            self.with(number, |_, _| Fate::Over);
        } else if self.is_draining {
            self.with(number, |session, buffer| session.drain(now, buffer));
        }
    }

    /// Looks at some sessions, when it is time, for peers that are gone.
    fn look(&mut self, now: Instant) {
        let from = match self.looked {
            Some(from) => from,
            None if self.look_at <= now => 0,
            None => return,
        };
        let to = (from + LOOKS).min(self.sessions.len());
        let patience = self.patience;
        for number in from..to {
            self.with(number, |session, _| session.look(now, patience));
        }
        self.looked = (to < self.sessions.len()).then_some(to);
        if from == 0 {
            self.look_at = now.after((patience / 4).min(LONGEST_PAUSE));
        }
    }

    /// Leaves those who had time enough to hear that they were ended.
    fn part(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.parting.front() {
            if until > now {
                return;
            }
            self.parting.pop_front();
            self.with(number, |session, _| session.is_left(now));
        }
    }
}
