//! Where carriers are given clients and orders.

use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::carrier::Carrier;
use super::gate::Gate;
use super::session::Session;

/// As many are started at the most where nobody says how many.
const ENOUGH: usize = 16;
/// How many more clients than the one with the fewest a carrier may have and take another one.
const SLACK: usize = 16;

/// All of the threads.
#[derive(Debug)]
pub(super) struct Carriers {
    desks: Vec<Arc<Desk>>,
}

/// What one thread is given.
#[derive(Debug)]
pub(super) struct Desk {
    orders: Mutex<Vec<Order>>,
    wake: OwnedFd,
    /// Clients that it has, or will have.
    load: AtomicUsize,
    /// Gates were closed, or routes have changed.
    looks_around: AtomicBool,
    is_draining: AtomicBool,
    is_over: AtomicBool,
}

/// Something to do.
pub(super) enum Order {
    /// Carry a session, whose sockets do not block.
    Carry(Box<Session>),
    /// Let a client through that another carrier accepted.
    Welcome(TcpStream, SocketAddr, Arc<Gate>),
    /// Accept clients, for as long as the gate is open.
    Accept(Arc<Gate>),
}

impl Carriers {
    /// Starts so many threads, or as many as fit the machine. A peer may be silent for `patience` while
    /// something waits for it.
    ///
    /// # Errors
    ///
    /// When the system gives no thread, or no descriptor for it.
    pub(super) fn start(
        threads: Option<NonZeroUsize>,
        patience: Duration,
    ) -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let fitting = (processors / 2).clamp(1, ENOUGH);
        let desks = (0..threads.map_or(fitting, usize::from)).map(|number| {
            let desk = Arc::new(Desk::new()?);
            let carrier = Carrier::new(desk.clone(), patience)?;
            std::thread::Builder::new()
                .name(format!("carrier-{number}"))
                .spawn(|| carrier.run())?;
            Ok(desk)
        });
        let desks = desks.collect::<std::io::Result<_>>()?;
        Ok(Self { desks })
    }

    /// Gives a session to the thread that has the fewest clients. Its sockets must not block.
    pub(super) fn carry(&self, session: Session) {
        if let Some(desk) = self.freest() {
            desk.takes_one();
            desk.order(Order::Carry(Box::new(session)));
        }
    }

    /// The thread that is rather to have one more client than this one is, if any.
    pub(super) fn freer_than(&self, desk: &Desk) -> Option<&Arc<Desk>> {
        let freest = self.freest()?;
        (freest.load() + SLACK < desk.load()).then_some(freest)
    }

    /// Has all accept clients by a gate.
    pub(super) fn open(&self, gate: &Arc<Gate>) {
        for desk in &self.desks {
            desk.order(Order::Accept(gate.clone()));
        }
    }

    /// Gates are closed, or routes have changed: those on their way may have to turn round.
    pub(super) fn look_around(&self) {
        for desk in &self.desks {
            desk.looks_around.store(true, Ordering::Release);
            desk.wake();
        }
    }

    /// Nothing more is taken from clients, those to come included.
    pub(super) fn drain(&self) {
        for desk in &self.desks {
            desk.is_draining.store(true, Ordering::Release);
            desk.looks_around.store(true, Ordering::Release);
            desk.wake();
        }
    }

    /// Whether there is more than one thread.
    pub(super) const fn are_several(&self) -> bool {
        self.desks.len() > 1
    }

    fn freest(&self) -> Option<&Arc<Desk>> {
        self.desks.iter().min_by_key(|desk| desk.load())
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        for desk in &self.desks {
            desk.is_over.store(true, Ordering::Release);
            desk.wake();
        }
    }
}

impl Desk {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            orders: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            load: AtomicUsize::new(0),
            looks_around: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        })
    }

    /// Gives an order; the thread is woken unless it has others that it did not take yet.
    pub(super) fn order(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.push(order);
        let is_first = orders.len() == 1;
        drop(orders);
        if is_first {
            self.wake();
        }
    }

    /// Takes what there is to do. Whatever was asked for before this is seen after it.
    pub(super) fn orders(&self) -> Vec<Order> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *orders)
    }

    /// What becomes readable when there is something to do.
    pub(super) const fn bell(&self) -> &OwnedFd {
        &self.wake
    }

    /// Whether to look at gates and at those on their way: once for each time that it was asked for.
    pub(super) fn looks_around(&self) -> bool {
        self.looks_around.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// It has one client more.
    pub(super) fn takes_one(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// It has one client less.
    pub(super) fn leaves_one(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Carry(_) => "Carry",
            Self::Welcome(..) => "Welcome",
            Self::Accept(_) => "Accept",
        })
    }
}
