//! A running postmaster: started or adopted, watched, stopped, and gone with all its children.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::watch;

use crate::{Error, Installation, data_dir};

/// How long the children of a killed postmaster may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);
const KILL_PAUSE: Duration = Duration::from_millis(5);

/// How to stop (PostgreSQL manual, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Roll back what is open, write a checkpoint, end.
    Fast,
    /// End at once; the next start recovers.
    Immediate,
}

/// A postmaster of one data directory.
#[derive(Debug)]
pub struct Postmaster {
    pid: Pid,
    pgdata: PathBuf,
    gone: watch::Receiver<bool>,
}

/// A longer line is handed on in pieces.
const LONGEST_LINE: u64 = 64 * 1024;

/// Makes this process the one that orphans below it fall to, so that the backends of a dead
/// postmaster can be found and reaped (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper() -> Result<(), Error> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| {
        Error::file("become the reaper of orphans of", Path::new("/proc/self"))(error.into())
    })
}

impl Postmaster {
    /// Starts a postmaster. What it says goes to `output`, a line at a time, without ever waiting
    /// for whoever reads it.
    pub fn start(
        installation: &Installation,
        pgdata: &Path,
        settings: &[(String, String)],
        output: impl Fn(String) + Send + 'static,
    ) -> Result<Self, Error> {
        let mut command = installation.command("postgres");
        command.arg("-D").arg(pgdata);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A process group of its own: the terminal's interrupt is for the keeper, which stops it.
        command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(Error::file("start postgres on", pgdata))?;
        let raw = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = raw
            .and_then(Pid::from_raw)
            .ok_or_else(|| Error::Malformed {
                what: "the pid of postgres",
                text: format!("{raw:?}"),
            })?;
        if let Some(pipe) = child.stderr.take() {
            tokio::spawn(forward(pipe, output));
        }
        let (sender, gone) = watch::channel(false);
        tokio::spawn(async move {
            let _ = child.wait().await;
            sender.send_replace(true);
        });
        Ok(Self {
            pid,
            pgdata: pgdata.to_owned(),
            gone,
        })
    }

    /// Takes over the postmaster that runs on a data directory, when there is one.
    pub fn adopt(pgdata: &Path) -> Result<Option<Self>, Error> {
        let Ok(wanted) = pgdata.canonicalize() else {
            return Ok(None);
        };
        let Some(raw) = data_dir::postmaster_pid(pgdata) else {
            return Ok(None);
        };
        if !data_dir::is_postgres_in(raw, &wanted) {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(raw) else {
            return Ok(None);
        };
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(Error::file("watch the postmaster of", pgdata)(error.into())),
        };
        // The pid may have passed to another process between the look and the handle.
        if !data_dir::is_postgres_in(raw, &wanted) {
            return Ok(None);
        }
        let gone = watch_handle(handle).map_err(Error::file("watch the postmaster of", pgdata))?;
        Ok(Some(Self {
            pid,
            pgdata: pgdata.to_owned(),
            gone,
        }))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it is gone.
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// A handle to wait for its end with.
    pub fn end(&self) -> watch::Receiver<bool> {
        self.gone.clone()
    }

    /// Asks it to read its configuration again.
    pub fn reload(&self) -> Result<(), Error> {
        self.signal(Signal::HUP)
    }

    /// Asks it to stop, and waits for its end; false: it did not end in time.
    pub async fn stop(&self, mode: StopMode, limit: Duration) -> Result<bool, Error> {
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        if !self.is_gone() {
            self.signal(signal)?;
        }
        let mut gone = self.gone.clone();
        Ok(tokio::time::timeout(limit, gone.wait_for(|gone| *gone))
            .await
            .is_ok())
    }

    /// Whether it is suspended (SIGSTOP): no signal but SIGKILL and SIGCONT reaches it then.
    pub fn is_frozen(&self) -> bool {
        let state = state_of(self.pid.as_raw_nonzero().get());
        state.is_some_and(|(state, _)| state == 'T' || state == 't')
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        match rustix::process::kill_process(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::file("signal the postmaster of", &self.pgdata)(
                error.into(),
            )),
        }
    }
}

/// Hands on what is said until the last writer is gone. Nothing that is said ends it: writers to a
/// closed pipe fail, and with them what PostgreSQL runs, such as an `archive_command`.
pub(crate) async fn forward(pipe: impl AsyncRead + Unpin, output: impl Fn(String)) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut piece = (&mut pipe).take(LONGEST_LINE);
        match piece.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => output(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn watch_handle(handle: OwnedFd) -> std::io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    // A pidfd becomes readable when its process ends.
    #[allow(
        deprecated,
        reason = "its replacement is unsafe; an OwnedFd meets what it asks for"
    )]
    let handle = tokio::io::unix::AsyncFd::new(handle)?;
    tokio::spawn(async move {
        let _ = handle.readable().await;
        sender.send_replace(true);
    });
    Ok(receiver)
}

/// Ends every process of a data directory and waits until none is left: an orphaned backend can
/// still commit, and holds the shared memory that the next start needs.
pub async fn kill_all(pgdata: &Path) -> Result<(), Error> {
    kill_until_none(|| data_dir::processes(pgdata)).await
}

/// Ends the programs that a killed keeper left behind while they made data in `target`: they would
/// go on writing into whatever is made there next.
pub async fn kill_makers(target: &Path) -> Result<(), Error> {
    kill_until_none(|| {
        let mut found = data_dir::makers(target);
        found.extend(data_dir::processes(target));
        found
    })
    .await
}

pub(crate) async fn kill_until_none(find: impl Fn() -> Vec<i32>) -> Result<(), Error> {
    let end = tokio::time::Instant::now() + KILL_LIMIT;
    loop {
        let pids = find();
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids.iter().copied().filter_map(Pid::from_raw) {
            // Gone already is what is wanted; not allowed shows as "still there" below.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        if tokio::time::Instant::now() > end {
            return Err(Error::NoAnswer {
                what: "the end of its processes",
                limit: KILL_LIMIT,
            });
        }
        tokio::time::sleep(KILL_PAUSE).await;
    }
}

/// Reaps the ended children of this process that nobody waits for, as the first process of a
/// container must. A child that this program waits for itself is reaped within milliseconds, so
/// whatever is still a zombie at the second look is an orphan; `seen` carries the first look.
pub fn reap_orphans(seen: &mut Vec<i32>) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let zombies: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| is_zombie_child(*pid, own))
        .collect();
    for pid in zombies.iter().filter(|pid| seen.contains(pid)) {
        if let Some(pid) = Pid::from_raw(*pid) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
    *seen = zombies;
}

fn is_zombie_child(pid: i32, parent: i32) -> bool {
    state_of(pid) == Some(('Z', parent))
}

/// A process's state and its parent: proc(5), `/proc/pid/stat`: pid (name) state ppid …
fn state_of(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat)
}

/// The name is whatever the process calls itself, cut at 15 bytes, perhaps within a letter.
pub(crate) fn parse_stat(stat: &[u8]) -> Option<(char, i32)> {
    let stat = String::from_utf8_lossy(stat);
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::forward;

    #[tokio::test]
    async fn everything_that_is_said_is_handed_on() {
        let long = "x".repeat(100_000);
        let said = [b"caf\xe9\n\n", long.as_bytes(), b"\nend"].concat();
        let lines = std::sync::Mutex::new(Vec::new());
        forward(said.as_slice(), |line| {
            lines.lock().expect("lines").push(line);
        })
        .await;
        let lines = lines.into_inner().expect("lines");
        let (first, rest) = lines.split_at(2);
        assert_eq!(first, ["caf\u{fffd}", ""]);
        assert_eq!(rest.concat(), format!("{long}end"));
    }
}
