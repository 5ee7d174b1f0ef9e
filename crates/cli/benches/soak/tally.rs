//! What the clients of a soak were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What one writer was told of its rows, which it numbers from 1 on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// The last row whose fate is known, or known to be unknown.
    pub(crate) last: u64,
    /// Rows whose commit was neither acknowledged nor refused before it began.
    pub(crate) unknown: BTreeSet<u64>,
}

/// What all clients did.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) queries: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) copied: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    accounts: Vec<Mutex<Account>>,
    writes: Mutex<Writes>,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// When something was acknowledged last, and the longest time before another one was.
#[derive(Debug)]
struct Writes {
    last: Instant,
    gap: Duration,
}

impl Tally {
    pub(crate) fn new(writers: usize) -> Self {
        Self {
            acknowledged: AtomicU64::default(),
            queries: AtomicU64::default(),
            connections: AtomicU64::default(),
            copied: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            accounts: (0..writers).map(|_| Mutex::default()).collect(),
            writes: Mutex::new(Writes {
                last: Instant::now(),
                gap: Duration::ZERO,
            }),
            errors: Mutex::default(),
        }
    }

    /// A row was acknowledged.
    pub(crate) fn acknowledge(&self, writer: usize, row: u64) {
        self.account(writer).last = row;
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut all = self.writes.lock().expect("the writes");
        all.gap = all.gap.max(all.last.elapsed());
        all.last = Instant::now();
    }

    /// Nobody knows what became of a row.
    pub(crate) fn lose_sight(&self, writer: usize, row: u64) {
        let mut account = self.account(writer);
        account.unknown.insert(row);
        account.last = row;
    }

    pub(crate) fn accounts(&self) -> Vec<Account> {
        let all = 0..self.accounts.len();
        all.map(|writer| self.account(writer).clone()).collect()
    }

    fn account(&self, writer: usize) -> std::sync::MutexGuard<'_, Account> {
        self.accounts[writer].lock().expect("an account")
    }

    /// The longest time without a write since this was asked last, the present one included.
    pub(crate) fn gap(&self) -> Duration {
        let mut writes = self.writes.lock().expect("the writes");
        let gap = std::mem::take(&mut writes.gap);
        gap.max(writes.last.elapsed())
    }

    pub(crate) fn fail(&self, what: &str, kind: &str) {
        let mut errors = self.errors.lock().expect("the errors");
        *errors.entry(format!("{what}: {kind}")).or_default() += 1;
    }

    /// The errors by kind.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().expect("the errors").clone()
    }
}

/// Numbers by name, on one line: those that are more than they were before.
pub(crate) fn more(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> String {
    let mut told = String::new();
    for (name, count) in now {
        let since = count - before.get(name).copied().unwrap_or(0);
        if since > 0 {
            let separator = if told.is_empty() { "" } else { "; " };
            let written = write!(told, "{separator}{name} {since}");
            written.expect("a string takes everything");
        }
    }
    told
}
