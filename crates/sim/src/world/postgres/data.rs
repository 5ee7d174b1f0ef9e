//! Data at rest: a write-ahead log, timelines, and the folders they lie in.

use std::collections::BTreeMap;

use stolon_core::keeper::decide::Wanted;
use stolon_core::keeper::facts::Content;
use stolon_core::model::DbUid;

/// Where every log begins.
pub(crate) const BEGINNING: u64 = 0x100_0000;

/// One record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// No two records of a world have the same.
    pub(crate) id: u64,
    /// Where it ends.
    pub(crate) end: u64,
    /// The timeline it was written on.
    pub(crate) timeline: u64,
    /// The row that it commits; 0: none.
    pub(crate) txn: u64,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ending {
    /// It did not: it runs, or crashed.
    #[default]
    Crash,
    /// Cleanly, as a primary.
    Shutdown,
    /// Cleanly, in recovery.
    InRecovery,
}

/// A database cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    /// The system identifier.
    pub(crate) system: String,
    /// The timeline it is on.
    pub(crate) timeline: u64,
    /// The last one that its next promotion must not begin.
    pub(crate) passed_over: u64,
    /// Timelines that ended, and where.
    pub(crate) history: Vec<(u64, u64)>,
    /// The log.
    pub(crate) wal: Vec<Record>,
    /// How many records are on disk.
    pub(crate) flushed: usize,
    /// How much of a record that was not received whole is on disk after that.
    pub(crate) half: u64,
    /// How its last server ended.
    pub(crate) ending: Ending,
    /// How far recovery had come when that was last written down.
    pub(crate) min_recovery: u64,
    /// Replication slots, and from where on each keeps the log.
    pub(crate) slots: BTreeMap<String, u64>,
    /// Where the oldest log that is still there begins.
    pub(crate) oldest_wal: u64,
    /// What a standby's parameters must not be below.
    pub(crate) least: BTreeMap<String, u64>,
}

impl Data {
    /// Where the first so many records end.
    pub(crate) fn end_of(&self, records: usize) -> u64 {
        let last = records.checked_sub(1).and_then(|index| self.wal.get(index));
        last.map_or(BEGINNING, |record| record.end)
    }

    /// Where what is on disk ends.
    pub(crate) fn flush_lsn(&self) -> u64 {
        self.end_of(self.flushed)
    }

    /// Whether the first `records` of this log end with the record of that id.
    pub(crate) fn leads_to(&self, records: usize, last: u64) -> bool {
        let index = records.checked_sub(1);
        index.is_none_or(|index| self.wal.get(index).is_some_and(|record| record.id == last))
    }

    /// The id of the last of the first `records`; 0: there is none.
    pub(crate) fn last_of(&self, records: usize) -> u64 {
        let last = records.checked_sub(1).and_then(|index| self.wal.get(index));
        last.map_or(0, |record| record.id)
    }
}

/// A folder that holds data, or is to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder {
    /// What is seen in it.
    pub(crate) content: Content,
    /// The db it says it holds.
    pub(crate) identity: Option<DbUid>,
    /// The data, while they are whole.
    pub(crate) data: Option<Data>,
    /// The configuration written there.
    pub(crate) config: Option<Wanted>,
    /// Whether it is set to start as a standby.
    pub(crate) signal: bool,
    /// It was in place, and was moved away to make room.
    pub(crate) put_aside: bool,
    /// There was no room beside them for what is to take their place.
    pub(crate) no_room: bool,
}
