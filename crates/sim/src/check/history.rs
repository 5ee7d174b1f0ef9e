//! What clients did and were told: every row, whether it was committed, acknowledged, seen.

use std::collections::BTreeMap;

use crate::world::World;
use crate::world::client::{Entry, Operation};

/// A row.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Where its commit ends in the log of the server that committed it.
    pub end: u64,
    /// Whether its commit waited for synchronous standbys; none: no server let it go yet.
    pub committed: Option<bool>,
    /// Whether a client was told that it is committed.
    pub acknowledged: bool,
    /// Whether a client saw it.
    pub seen: bool,
    /// Whether an instance was opened without it, as asynchronous replication allows. An answer that
    /// lay in a kernel until then promises nothing any more.
    pub lost: bool,
}

impl Row {
    /// Whether a client may rely on it.
    pub fn counts(&self) -> bool {
        let was_told = self.acknowledged || self.seen;
        was_told && (!self.lost || self.committed == Some(true))
    }
}

/// All rows.
#[derive(Debug, Default)]
pub struct History {
    next: u64,
    pub(crate) rows: BTreeMap<u64, Row>,
    /// Writes that were refused.
    pub failed: u64,
    /// Writes of which nobody knows.
    pub unknown: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged or seen, and gone, as the mode in force allows.
    pub lost: u64,
}

impl History {
    /// A client begins to write a row.
    pub(crate) fn begin(&mut self) -> Operation {
        self.next += 1;
        self.rows.insert(self.next, Row::default());
        Operation::Write(self.next)
    }

    /// A server writes the commit of a row. Who sees it before it is let go, after a crash, relies on it
    /// like on any other.
    pub(crate) fn written(&mut self, txn: u64, end: u64) {
        self.rows.entry(txn).or_default().end = end;
    }

    /// A server lets a commit go.
    pub(crate) fn committed(&mut self, txn: u64, end: u64, synchronous: bool) {
        let row = self.rows.entry(txn).or_default();
        row.end = end;
        row.committed = Some(synchronous);
    }

    /// The operator gave up that commits wait: from now on the rules of asynchronous replication hold.
    pub(crate) fn end_promises(&mut self) {
        for row in self.rows.values_mut() {
            row.committed = row.committed.map(|_| false);
        }
    }

    /// The rows that must be in whatever is opened as primary.
    pub(crate) fn promised(&self) -> impl Iterator<Item = (u64, &Row)> {
        let rows = self.rows.iter().map(|(txn, row)| (*txn, row));
        rows.filter(|(_, row)| row.counts() && row.committed == Some(true))
    }
}

impl World {
    /// A client is told that its row is committed.
    pub(crate) fn write_acknowledged(
        &mut self,
        c: usize,
        txn: u64,
        synchronous: bool,
        route: Option<(Option<usize>, usize)>,
    ) {
        self.history.acknowledged += 1;
        let is_direct = self.clients[c].entry == Entry::Direct;
        let row = self.history.rows.entry(txn).or_default();
        // Who goes round the proxies has no promise of asynchronous replication.
        row.acknowledged = !is_direct || synchronous;
        if synchronous {
            self.note("synchronous-commit");
        }
        if let Some((Some(p), target)) = route {
            self.record.wrote_through(self.now, p, target);
        }
    }

    /// A client saw rows.
    pub(crate) fn rows_seen(
        &mut self,
        c: usize,
        rows: &[u64],
        route: Option<(Option<usize>, usize)>,
    ) {
        let entry = self.clients[c].entry;
        if entry == Entry::Reading && route.is_some() {
            // What is read from a standby may vanish with it: nothing else is promised.
            self.note("read-from-standby");
        }
        if entry != Entry::Primary || route.is_none() {
            return;
        }
        for txn in rows {
            if let Some(row) = self.history.rows.get_mut(txn) {
                row.seen = true;
            }
        }
    }
}
