//! How others' changes of the file are noticed: the kernel tells of writes to the write-ahead log
//! (inotify(7)), and `PRAGMA data_version` says whether a commit came of them.
//!
//! A commit is written to the log, synced where it must outlive a power cut, and only then made
//! visible, in shared memory, of which nobody tells. So one look at the moment of the write comes
//! too early: the file is looked at again until the commit is seen. Checkpoints write to the
//! database alone, and readers write to no file: neither is told, and neither costs a look.

use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::clock::boot_time;

/// At most so many events are taken at once: a writer that never rests keeps nobody from looking.
const EVENTS_AT_ONCE: usize = 64;

/// So many changes after the last write that was told were not told themselves. One is that write's;
/// one may be a second writer's, told together with it; one may come of a log that begins anew, and
/// one be told in the next moment.
const UNTOLD: u32 = 4;

/// When the file is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How often where the kernel does not tell, and while a commit is awaited.
    poll: Duration,
    /// How long not after a change was found, so that a burst wakes nobody more often than this.
    apart: Duration,
    /// How soon again after a write of which no commit is seen yet; doubled each time up to `poll`.
    again: Duration,
    /// How long a commit is awaited after its write: as long as a slow disk takes to sync.
    patience: Duration,
    /// How soon again after a change was found, doubled each time up to `slow`: a second writer's
    /// frames may have been told together with the first one's, and be visible only when they are
    /// synced. It is found in less than twice the time that takes.
    settle: Duration,
    /// How often although nothing was told: what finds out that the kernel does not tell. Until then
    /// a change waits for it; two looks a second do not show in the processor time.
    slow: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(10),
            apart: Duration::from_millis(10),
            again: Duration::from_millis(1),
            patience: Duration::from_secs(1),
            settle: Duration::from_millis(10),
            slow: Duration::from_millis(500),
        }
    }
}

/// Looks for others' changes on a thread of its own, until what is returned is dropped. A change
/// after this function returned is told.
pub(super) fn watch(
    connection: Connection,
    path: &Path,
    changes: watch::Sender<u64>,
    pace: Pace,
) -> std::io::Result<PipeWriter> {
    let (ended, end) = std::io::pipe()?;
    let log = log_of(path);
    let writes = Writes::of(&log);
    // On this thread: whoever reads when the store is open must be told of what comes after.
    let seen = version(&connection);
    std::thread::Builder::new()
        .name("store-watch".to_owned())
        .spawn(move || {
            let tell = || changes.send_modify(|count| *count += 1);
            let mut looks = Looks::new(seen, || version(&connection), tell);
            notice(writes, &log, &ended, pace, &mut looks);
        })?;
    Ok(end)
}

/// What changes with every commit of another connection; nothing if the file cannot be read.
fn version(connection: &Connection) -> Option<i64> {
    // Prepared once: preparing takes longer than looking.
    let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}

/// The write-ahead log of a database; SQLite has it beside the file that a link leads to.
fn log_of(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut log = OsString::from(path);
    log.push("-wal");
    PathBuf::from(log)
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Same,
    Changed,
    Unreadable,
}

/// The looks at the file, and what they tell.
struct Looks<V, T> {
    /// The last version that could be read.
    seen: Option<i64>,
    version: V,
    tell: T,
}

impl<V: FnMut() -> Option<i64>, T: FnMut()> Looks<V, T> {
    const fn new(seen: Option<i64>, version: V, tell: T) -> Self {
        Self {
            seen,
            version,
            tell,
        }
    }

    fn look(&mut self) -> Found {
        let now = (self.version)();
        let found = match now {
            // A file that cannot be read wakes too: whoever reads next sees the error.
            None => Found::Unreadable,
            Some(_) if now == self.seen => Found::Same,
            Some(_) => Found::Changed,
        };
        if found != Found::Same {
            (self.tell)();
        }
        // What was seen before an error stays: a change that came with the error is told after it.
        self.seen = now.or(self.seen);
        found
    }
}

/// Why nobody waits to be told any more.
#[derive(Debug)]
enum Stopped {
    /// The store was dropped.
    Ended,
    /// The kernel cannot tell.
    Failed(Errno),
    /// Changes came of which the kernel told nothing.
    Untold,
}

fn notice(
    writes: Result<Writes, Errno>,
    log: &Path,
    ended: &PipeReader,
    pace: Pace,
    looks: &mut Looks<impl FnMut() -> Option<i64>, impl FnMut()>,
) {
    let stopped = match writes {
        Ok(writes) => be_told(&writes, ended, pace, looks),
        Err(error) => Stopped::Failed(error),
    };
    let cause = match stopped {
        Stopped::Ended => return,
        Stopped::Failed(error) => error.to_string(),
        Stopped::Untold => "changes came of which it told nothing".to_owned(),
    };
    tracing::warn!(
        file = %log.display(),
        cause,
        "the store's file is looked at every {} ms: the kernel does not tell of its changes (inotify)",
        pace.poll.as_millis()
    );
    loop {
        looks.look();
        if ends(ended, None, pace.poll) {
            return;
        }
    }
}

/// Looks at the file when it was written to, until the commit is seen, and else seldom.
fn be_told(
    writes: &Writes,
    ended: &PipeReader,
    pace: Pace,
    looks: &mut Looks<impl FnMut() -> Option<i64>, impl FnMut()>,
) -> Stopped {
    let mut written = boot_time();
    // How many changes were found since a write was told; at first one may be on its way.
    let mut found = 0_u32;
    let mut again = pace.again;
    loop {
        match writes.drain() {
            Ok(true) => (written, found, again) = (boot_time(), 0, pace.again),
            Ok(false) => {}
            Err(error) => return Stopped::Failed(error),
        }
        let look = looks.look();
        let quiet = boot_time().saturating_sub(written) > pace.patience;
        let over = match look {
            Found::Same => {
                let awaited = found == 0 && !quiet;
                let most = if awaited { pace.poll } else { pace.slow };
                // Deaf at first: a large commit is many writes.
                let over = ends(ended, None, pace.again)
                    || ends(ended, Some(writes), again.saturating_sub(pace.again));
                again = again.saturating_mul(2).min(most);
                over
            }
            Found::Changed | Found::Unreadable => {
                found = found.saturating_add(u32::from(look == Found::Changed));
                if quiet && found >= UNTOLD {
                    return Stopped::Untold;
                }
                again = pace.settle;
                ends(ended, None, pace.apart)
            }
        };
        if over {
            return Stopped::Ended;
        }
    }
}

/// Waits for the end, for writes if given, and no longer than the limit; whether it is the end.
fn ends(ended: &PipeReader, writes: Option<&Writes>, limit: Duration) -> bool {
    let end = ended.as_fd();
    let told = writes.map_or(end, |writes| writes.0.as_fd());
    let mut descriptors = [end, told].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let limit = Timespec::try_from(limit).ok();
    match rustix::event::poll(&mut descriptors, limit.as_ref()) {
        // Nobody writes to the pipe: it only closes.
        Ok(_) => !descriptors[0].revents().is_empty(),
        Err(Errno::INTR) => false,
        Err(_) => {
            std::thread::sleep(Pace::default().poll);
            false
        }
    }
}

/// What the kernel tells of the writes to one file.
struct Writes(OwnedFd);

impl Writes {
    /// Never opens the file: closing it would drop the locks that SQLite has on it in this process.
    fn of(file: &Path) -> Result<Self, Errno> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&queue, file, inotify::WatchFlags::MODIFY)?;
        Ok(Self(queue))
    }

    /// Takes all that was told; whether there was something.
    fn drain(&self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut told = false;
        for _ in 0..EVENTS_AT_ONCE {
            match events.next() {
                // The file is gone, and with it what the kernel would tell.
                Ok(event) if event.events().contains(inotify::ReadFlags::IGNORED) => {
                    return Err(Errno::NOENT);
                }
                Ok(_) => told = true,
                Err(Errno::AGAIN) => return Ok(told),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests;
