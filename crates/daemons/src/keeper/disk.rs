//! Whether the disk under the data takes what is written (scenario B10).
//!
//! An instance whose file system hangs answers questions all the same, out of memory, while every commit
//! waits: only writing shows it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stolon_core::time::Instant;
use stolon_postgres::Error;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::runtime::clock;

/// The file that is written, in the keeper's folder.
const FILE: &str = "disk-probe";

/// Writes a little, one write at a time.
#[derive(Debug)]
pub(super) struct DiskProbe {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Attempt>,
    /// What the last write that ended came to, until one succeeds: the number of the error.
    failed: Option<i32>,
}

/// A write that is on its way.
#[derive(Debug)]
struct Attempt {
    began: Instant,
    end: oneshot::Receiver<io::Result<()>>,
    is_told: bool,
}

impl DiskProbe {
    /// A probe of the file system of a folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            file: folder.join(FILE),
            state: Mutex::default(),
        }
    }

    /// Learns what came of the last write, and begins the next. A busy disk may take its time: looking
    /// at the instance does not wait for it, and only a write that is not done within `limit` counts. One
    /// that failed counts until another has succeeded.
    ///
    /// # Errors
    ///
    /// When the file system hangs, is read-only, or fails. A full one is none: PostgreSQL goes on with it
    /// for as long as it can, and that is told elsewhere.
    pub(super) fn check(&self, limit: Duration) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { running, failed } = &mut *state;
        if let Some(attempt) = running.as_mut() {
            match attempt.end.try_recv() {
                Err(TryRecvError::Empty) => self.wait(attempt, limit)?,
                Ok(ended) => {
                    *running = None;
                    self.note(failed, ended.err().filter(is_of_the_disk));
                }
                Err(TryRecvError::Closed) => *running = None,
            }
        }
        if running.is_none() {
            match self.begin() {
                Ok(attempt) => *running = Some(attempt),
                // No thread to write with: that says nothing about the disk.
                Err(error) => tracing::debug!(%error, "cannot look whether the disk takes writes"),
            }
        }
        failed.map_or(Ok(()), |number| {
            Err(self.failed(io::Error::from_raw_os_error(number)))
        })
    }

    /// Keeps what a write came to, and tells of a change.
    fn note(&self, failed: &mut Option<i32>, error: Option<io::Error>) {
        let number = error.as_ref().and_then(io::Error::raw_os_error);
        match (error, &failed) {
            (Some(error), None) => {
                let error = self.failed(error);
                tracing::error!(%error, "the disk under the data takes nothing");
            }
            (None, Some(_)) => tracing::info!("the disk under the data takes writes again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        *failed = number;
    }

    fn wait(&self, attempt: &mut Attempt, limit: Duration) -> Result<(), Error> {
        let waited = clock::now().since(attempt.began);
        if waited < limit {
            return Ok(());
        }
        let text = format!("not done for {}s: the disk hangs", waited.as_secs());
        let error = self.failed(io::Error::new(io::ErrorKind::TimedOut, text));
        if !std::mem::replace(&mut attempt.is_told, true) {
            tracing::error!(%error, "the disk under the data takes nothing");
        }
        Err(error)
    }

    /// In a thread of its own: one that hangs in the kernel cannot be ended, and must not keep the
    /// program from ending.
    fn begin(&self) -> io::Result<Attempt> {
        let (tell, end) = oneshot::channel();
        let file = self.file.clone();
        std::thread::Builder::new()
            .name(FILE.to_owned())
            .spawn(move || {
                // Nobody listens any more when the keeper stops.
                let _ = tell.send(write(&file));
            })?;
        Ok(Attempt {
            began: clock::now(),
            end,
            is_told: false,
        })
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File {
            what: "write to",
            path: self.file.clone(),
            source,
        }
    }
}

fn write(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(false)
        .open(file)?;
    file.write_all(b"stolon\n")?;
    file.sync_data()
}

/// Whether the disk is at fault, and not its owner: permissions, limits, room.
fn is_of_the_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let failed = [Errno::ROFS, Errno::IO].map(|errno| Some(errno.raw_os_error()));
    failed.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::DiskProbe;

    /// Checks until one comes out so.
    async fn check_until(probe: &DiskProbe, limit: Duration, wanted: fn(&str) -> bool) {
        for _ in 0..1000 {
            let said = probe.check(limit).err().map(|error| error.to_string());
            if wanted(&said.unwrap_or_default()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came out so");
    }

    #[tokio::test]
    async fn a_write_that_hangs_is_noticed_and_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("disk-probe");
        let probe = DiskProbe::new(folder.path());
        // Opening a pipe that nobody reads does not end, as a write to a disk that hangs.
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).expect("a pipe");
        probe.check(Duration::MAX).expect("it has only begun");
        let limit = Duration::from_millis(50);
        check_until(&probe, limit, |said| said.contains("the disk hangs")).await;
        let reader = std::fs::File::open(&file).expect("a reader");
        check_until(&probe, limit, str::is_empty).await;
        drop(reader);
    }

    #[tokio::test]
    async fn a_disk_that_failed_is_failed_until_a_write_succeeds() {
        let folder = tempfile::tempdir().expect("a folder");
        let probe = DiskProbe::new(folder.path());
        let read_only = || std::io::Error::from_raw_os_error(libc::EROFS);
        let (tell, end) = tokio::sync::oneshot::channel();
        let hang = |end| super::Attempt {
            began: super::clock::now(),
            end,
            is_told: false,
        };
        probe.state.lock().expect("its state").running = Some(hang(end));
        tell.send(Err(read_only())).expect("somebody listens");
        // The next write goes on all the while.
        let error = probe
            .check(Duration::MAX)
            .expect_err("read-only")
            .to_string();
        assert!(error.contains("disk-probe"), "{error}");
        let (tell, end) = tokio::sync::oneshot::channel();
        probe.state.lock().expect("its state").running = Some(hang(end));
        for _ in 0..5 {
            probe
                .check(Duration::MAX)
                .expect_err("no write has succeeded since");
        }
        tell.send(Ok(())).expect("somebody listens");
        probe.check(Duration::MAX).expect("it takes writes again");
    }
}
