use std::io::Write;
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::sqlite::file;

const DEADLINE: Duration = Duration::from_secs(20);
/// As good as never: what a test sees after a first change, the kernel told.
const NEVER: Duration = Duration::from_hours(1);
/// Looks on its own account at once or never.
const TOLD_ONLY: Pace = Pace {
    poll: NEVER,
    apart: Duration::from_micros(10),
    again: Duration::from_millis(1),
    patience: DEADLINE,
    settle: NEVER,
    slow: NEVER,
};

/// A database with a table, what watches it, and a connection of somebody else.
struct Watched {
    folder: TempDir,
    other: Connection,
    changes: watch::Receiver<u64>,
    end: PipeWriter,
}

impl Watched {
    /// Watches by the path that `named` makes of the folder and the database.
    fn by(pace: Pace, named: impl FnOnce(&Path, &Path) -> PathBuf) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("store.db");
        let other = file::connect(&path, DEADLINE).expect("a connection");
        file::prepare(&other).expect("tables");
        let own = file::connect(&path, DEADLINE).expect("a connection");
        let (sender, changes) = watch::channel(0);
        let named = named(folder.path(), &path);
        let end = super::watch(own, &named, sender, pace).expect("a thread");
        Self {
            folder,
            other,
            changes,
            end,
        }
    }

    fn new() -> Self {
        Self::by(TOLD_ONLY, |_, path| path.to_owned())
    }

    fn write(&self) {
        self.other
            .execute("UPDATE counter SET revision = revision + 1", [])
            .expect("a write");
    }

    async fn told(&mut self) {
        tokio::time::timeout(DEADLINE, self.changes.changed())
            .await
            .expect("told before the deadline")
            .expect("the thread watches");
    }

    async fn each_write_is_told(&mut self) {
        for _ in 0..50 {
            self.write();
            self.told().await;
        }
    }

    async fn the_thread_ends(mut self) {
        drop(self.end);
        let ended = async { while self.changes.changed().await.is_ok() {} };
        tokio::time::timeout(DEADLINE, ended)
            .await
            .expect("the thread ends before the deadline");
    }
}

#[tokio::test]
async fn each_change_by_another_connection_is_told_by_the_kernel() {
    let mut watched = Watched::new();
    watched.each_write_is_told().await;
    watched.the_thread_ends().await;
}

#[tokio::test]
async fn a_file_named_by_a_link_is_watched_where_it_lies() {
    let mut watched = Watched::by(TOLD_ONLY, |folder, path| {
        let link = folder.join("link.db");
        std::os::unix::fs::symlink(path, &link).expect("a link");
        link
    });
    watched.each_write_is_told().await;
}

#[tokio::test]
async fn the_log_is_watched_after_it_was_emptied_and_begun_anew() {
    let mut watched = Watched::new();
    watched.each_write_is_told().await;
    for _ in 0..3 {
        let busy: i64 = watched
            .other
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .expect("a checkpoint");
        assert_eq!(busy, 0, "the log is emptied");
        watched.each_write_is_told().await;
    }
}

#[tokio::test]
async fn changes_are_told_also_where_the_kernel_cannot_tell_of_them() {
    let pace = Pace::default();
    let mut watched = Watched::by(pace, |folder, _| folder.join("no such file"));
    watched.each_write_is_told().await;
    watched.the_thread_ends().await;
}

#[test]
fn the_kernel_tells_of_commits_and_not_of_reads_or_checkpoints() {
    let watched = Watched::new();
    watched.write();
    let log = log_of(&watched.folder.path().join("store.db"));
    let writes = Writes::of(&log).expect("inotify");
    assert!(!writes.drain().expect("a queue"), "nothing happened yet");

    let reader = file::connect(&watched.folder.path().join("store.db"), DEADLINE).expect("open");
    let _: i64 = reader
        .query_row("SELECT revision FROM counter", [], |row| row.get(0))
        .expect("a read");
    assert!(!writes.drain().expect("a queue"), "a read was told");

    let (_, frames, moved): (i64, i64, i64) = reader
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .expect("a checkpoint");
    assert!(frames > 0 && frames == moved, "{moved} of {frames} frames");
    assert!(!writes.drain().expect("a queue"), "a checkpoint was told");

    watched.write();
    assert!(writes.drain().expect("a queue"), "a commit was not told");
    assert!(!writes.drain().expect("a queue"), "all is taken at once");
}

/// Works on a thread of its own, so that a look that never comes is missed at the deadline.
fn before_the_deadline<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result
        .recv_timeout(DEADLINE)
        .expect("an end before the deadline")
}

/// A file that is written to at the first look, and whose version is what the list says, look by
/// look. Ends when all are looked at, and returns how often a change was told.
fn told_of(versions: Vec<i64>) -> usize {
    let pace = Pace {
        poll: Duration::from_millis(2),
        apart: Duration::from_millis(1),
        patience: NEVER,
        settle: Duration::from_millis(2),
        slow: NEVER,
        ..Pace::default()
    };
    before_the_deadline(move || {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let writes = Writes::of(file.path()).expect("inotify");
        let (ended, end) = std::io::pipe().expect("a pipe");
        let mut end = Some(end);
        let mut versions = versions.into_iter().peekable();
        let mut frame = Some(b"frame");
        let version = || {
            if let Some(frame) = frame.take() {
                file.write_all(frame).expect("a write");
            }
            let version = versions.next();
            if versions.peek().is_none() {
                end.take();
            }
            version
        };
        let mut told = 0;
        let stopped = be_told(
            &writes,
            &ended,
            pace,
            &mut Looks::new(Some(1), version, || told += 1),
        );
        assert!(matches!(stopped, Stopped::Ended), "{stopped:?}");
        told
    })
}

#[test]
fn a_commit_that_is_visible_only_after_its_write_was_told_is_found() {
    let mut versions = vec![1; 50];
    versions.push(2);
    assert_eq!(told_of(versions), 1);
}

#[test]
fn a_second_commit_whose_write_was_told_with_the_first_is_found() {
    assert_eq!(told_of(vec![1, 1, 2, 2, 2, 3]), 2);
}

/// What comes of looks at a file of which the kernel tells nothing, with a change at every look.
fn unheard(pace: Pace) -> Stopped {
    before_the_deadline(move || {
        let silent = tempfile::NamedTempFile::new().expect("a file");
        let writes = Writes::of(silent.path()).expect("inotify");
        let (ended, end) = std::io::pipe().expect("a pipe");
        let mut end = Some(end);
        let mut looks = 0;
        let version = || {
            looks += 1;
            if looks == 20 {
                end.take();
            }
            Some(looks)
        };
        be_told(
            &writes,
            &ended,
            pace,
            &mut Looks::new(Some(0), version, || ()),
        )
    })
}

#[test]
fn changes_of_which_the_kernel_told_nothing_end_the_waiting_to_be_told() {
    let patience = Duration::ZERO;
    let stopped = unheard(Pace {
        patience,
        ..TOLD_ONLY
    });
    assert!(matches!(stopped, Stopped::Untold), "{stopped:?}");
}

#[test]
fn changes_soon_after_a_write_do_not_end_the_waiting_to_be_told() {
    let patience = NEVER;
    let stopped = unheard(Pace {
        patience,
        ..TOLD_ONLY
    });
    assert!(matches!(stopped, Stopped::Ended), "{stopped:?}");
}

#[test]
fn a_change_that_came_with_an_error_is_told_after_it() {
    let mut versions = [None, Some(2), Some(2), None, Some(2)].into_iter();
    let mut looks = Looks::new(Some(1), || versions.next().flatten(), || ());
    let found = [(); 5].map(|()| looks.look());
    let expect = [
        Found::Unreadable,
        Found::Changed,
        Found::Same,
        Found::Unreadable,
        Found::Same,
    ];
    assert_eq!(found, expect);
}

#[test]
fn a_file_that_is_gone_ends_the_waiting_to_be_told() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let writes = Writes::of(file.path()).expect("inotify");
    file.close().expect("removed");
    assert_eq!(writes.drain(), Err(Errno::NOENT));
}
