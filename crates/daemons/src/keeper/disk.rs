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
    running: Mutex<Option<Attempt>>,
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
            running: Mutex::new(None),
        }
    }

    /// Learns what came of the last write, and begins the next. A busy disk may take its time: looking
    /// at the instance does not wait for it, and only a write that is not done within `limit` counts.
    ///
    /// # Errors
    ///
    /// When the file system hangs, is read-only, or fails. A full one is none: PostgreSQL goes on with it
    /// for as long as it can, and that is told elsewhere.
    pub(super) fn check(&self, limit: Duration) -> Result<(), Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attempt) = running.as_mut() {
            match attempt.end.try_recv() {
                Err(TryRecvError::Empty) => return self.wait(attempt, limit),
                Ok(Err(error)) if is_of_the_disk(&error) => {
                    *running = None;
                    return Err(self.failed(error));
                }
                Ok(_) | Err(TryRecvError::Closed) => {}
            }
        }
        *running = Some(self.begin().map_err(|error| self.failed(error))?);
        Ok(())
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
}
