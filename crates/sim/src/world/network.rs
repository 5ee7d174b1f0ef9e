//! The network between hosts, per pair and direction: delay, loss, cuts.
//!
//! What is sent over a connection is not lost: while the way is cut it lies in the sender's kernel,
//! and arrives after the cut ends, unless the connection was reset before. A request to the store may
//! be lost, or lie there likewise and be carried out long after its sender gave it up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{Actor, What};
use super::{Time, World};
use crate::chance::Chance;

/// How something is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As part of a connection: in order, and not lost.
    Stream,
    /// As a request or an answer of its own.
    Call,
}

#[derive(Debug)]
struct Link {
    chance: Chance,
    /// How many faults cut it at present.
    cuts: u32,
    /// Packets lost of a thousand.
    loss: u64,
    /// Delay in milliseconds: least and most.
    delay: (u64, u64),
    /// When the last part of a connection arrives.
    last: Time,
    /// What waits for the end of the cut.
    parked: Vec<What>,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    links: BTreeMap<(usize, usize), Link>,
}

impl Network {
    /// A network in which all is well.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            links: BTreeMap::new(),
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let seed = self.seed;
        self.links.entry((from, to)).or_insert_with(|| Link {
            chance: Chance::of(seed, "link", (from * 1000 + to) as u64),
            cuts: 0,
            loss: 0,
            delay: if from == to { (0, 0) } else { (0, 2) },
            last: Time::ZERO,
            parked: Vec::new(),
        })
    }

    /// Whether nothing passes.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links
            .get(&(from, to))
            .is_some_and(|link| link.cuts > 0)
    }

    /// When something sent now arrives; none: it does not, and was kept or lost.
    fn send(
        &mut self,
        now: Time,
        ends: (usize, usize),
        way: Way,
        what: What,
    ) -> Option<(Time, What)> {
        let link = self.link(ends.0, ends.1);
        let delay = link.chance.millis(link.delay.0, link.delay.1) + Duration::from_micros(50);
        let is_lost = link.chance.happens(link.loss);
        if link.cuts > 0 {
            // A request that finds no connection is never sent; one that finds a broken one may lie
            // in the kernel.
            let is_kept = way == Way::Stream || link.chance.happens(300);
            if is_kept {
                link.parked.push(what);
            }
            return None;
        }
        match way {
            Way::Call if is_lost => None,
            Way::Call => Some((now + delay, what)),
            Way::Stream => {
                let again = if is_lost {
                    link.chance.millis(200, 1600)
                } else {
                    Duration::ZERO
                };
                link.last = link.last.max(now + delay + again);
                Some((link.last, what))
            }
        }
    }

    /// Forgets what waits on a link, as far as `of` says.
    pub(crate) fn drop_parked(&mut self, from: usize, to: usize, of: impl Fn(&What) -> bool) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.parked.retain(|what| !of(what));
        }
    }

    /// Forgets all that waits at a host: it lost power.
    pub(crate) fn drop_all_parked(&mut self, host: usize) {
        for ((from, _), link) in &mut self.links {
            if *from == host {
                link.parked.clear();
            }
        }
    }
}

impl World {
    /// Sends something from one actor's host to another's.
    pub(crate) fn send(&mut self, from: Actor, to: Actor, way: Way, what: What) {
        let ends = (self.host_of(from), self.host_of(to));
        if let Some((at, what)) = self.network.send(self.now, ends, way, what) {
            self.queue.put(at, what);
        }
    }

    /// Cuts one direction between two hosts.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.network.link(from, to).cuts += 1;
        }
    }

    /// Takes one cut back; what waited arrives.
    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let now = self.now;
        let link = self.network.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
        if link.cuts > 0 {
            return;
        }
        let parked = std::mem::take(&mut link.parked);
        let mut at = link.last.max(now + link.chance.millis(1, 1500));
        for what in parked {
            self.queue.put(at, what);
            at += Duration::from_micros(10);
        }
        self.network.link(from, to).last = at;
    }

    /// Makes a link slow and lossy, or well again.
    pub(crate) fn trouble(&mut self, from: usize, to: usize, delay: (u64, u64), loss: u64) {
        if from != to {
            let link = self.network.link(from, to);
            (link.delay, link.loss) = (delay, loss);
        }
    }
}
