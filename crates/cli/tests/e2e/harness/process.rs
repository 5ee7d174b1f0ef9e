//! Processes that end with their owner.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::within;

/// The user that database processes run as when the tests run as root.
pub(crate) const DATABASE_USER: &str = "postgres";

/// What a process runs in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// A network namespace; none: this one.
    pub(crate) network: Option<String>,
    /// Whether it is the first process of a process namespace of its own, as in a container.
    pub(crate) first_process: bool,
}

/// A command that runs as the unprivileged user, and that the kernel ends together with the thread
/// that starts it.
pub(crate) fn command(program: &Path, surroundings: &Surroundings) -> Command {
    let mut words: Vec<String> = Vec::new();
    if let Some(namespace) = &surroundings.network {
        words.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
    }
    if surroundings.first_process {
        let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
        words.extend(unshare.map(str::to_owned));
    }
    words.extend(["setpriv", "--pdeathsig=KILL"].map(str::to_owned));
    if rustix::process::geteuid().is_root() {
        words.push(format!("--reuid={DATABASE_USER}"));
        words.push(format!("--regid={DATABASE_USER}"));
        words.push("--init-groups".to_owned());
    }
    let mut command = Command::new(words.remove(0));
    command.args(words).arg(program);
    // What the caller's environment says must not be taken for flags.
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// One of PostgreSQL's programs, of the newest version in `PATH` or where Debian puts them, as the
/// keepers find it.
pub(crate) fn postgres_program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let entries = std::fs::read_dir("/usr/lib/postgresql");
    let mut versions: Vec<(u32, PathBuf)> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_string_lossy().parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let folders = std::env::split_paths(&path).chain(versions.into_iter().map(|(_, f)| f));
    let mut found = folders
        .filter(|folder| folder.join("postgres").is_file() && folder.join(name).is_file())
        .map(|folder| folder.join(name));
    found.next().expect("PostgreSQL's programs")
}

/// Hands a path to the user of the database processes.
pub(crate) fn give(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(DATABASE_USER))
        .expect("a user postgres, whom root's tests run servers as");
    let number = |index: usize| line.split(':').nth(index)?.parse().ok();
    std::os::unix::fs::chown(path, number(2), number(3)).expect("a new owner");
}

/// One process with its log.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it; both its outputs are appended to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = open(log);
        let err = out.try_clone().expect("a log");
        let child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Asks it to stop and waits for it.
    pub(crate) fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} stops", self.name);
        within(limit, &what, || self.child.try_wait().expect("a child"))
    }

    fn end(&mut self) {
        // Gone already is as good.
        let killed = self.child.kill();
        let waited = self.child.wait();
        drop((killed, waited));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(log: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()))
}

/// Sends a signal to a process that may be gone.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A process's parent.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Whether it has ended and nobody has reaped it.
pub(crate) fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|words| words.first().is_some_and(|state| state == "Z"))
}

/// The processes whose parent it is.
pub(crate) fn children(of: i32) -> Vec<i32> {
    let all = pids();
    all.filter(|pid| parent(*pid) == Some(of)).collect()
}

/// proc(5), `/proc/pid/stat`, from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

/// The processes whose working directory is `folder`: every process of the PostgreSQL that has its
/// data there.
pub(crate) fn working_in(folder: &Path) -> Vec<i32> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    pids()
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at == folder))
        .collect()
}
