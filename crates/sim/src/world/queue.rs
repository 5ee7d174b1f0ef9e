//! The one queue of events, ordered by time and then by the order in which they were put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Time;
use super::event::What;

#[derive(Debug)]
struct Entry {
    at: Time,
    sequence: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What is to happen.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Queue {
    /// Puts something in.
    pub(crate) fn put(&mut self, at: Time, what: What) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry {
            at,
            sequence: self.sequence,
            what,
        }));
    }

    /// Takes what is next out, when that is not after `end`.
    pub(crate) fn take(&mut self, end: Time) -> Option<(Time, What)> {
        let next = self.heap.peek()?;
        if next.0.at > end {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }
}
