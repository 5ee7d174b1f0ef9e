//! The processes of a dev cluster, found by what they work on: ours, and what a `dev` or a keeper
//! that was killed left behind.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stolon_daemons::runtime::clock;

/// How long daemons, and then PostgreSQL, may take to stop before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Time between two looks at what still runs.
const PAUSE: Duration = Duration::from_millis(50);
/// What a keeper starts.
const POSTGRES_PROGRAMS: [&str; 6] = [
    "postgres",
    "initdb",
    "pg_basebackup",
    "pg_controldata",
    "pg_ctl",
    "pg_rewind",
];

/// A process; the handle never comes to mean another one.
struct Process {
    handle: OwnedFd,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One of this program's daemons.
    Daemon,
    /// A postmaster, or a program that makes its data.
    Postgres,
    /// A child of a postmaster: it ends with that, or is killed.
    Backend,
}

/// Lets everything go on that somebody froze: frozen it would not stop.
pub(super) fn thaw(folder: &Path) {
    signal(&find(folder), Signal::CONT, |_| true);
}

/// Ends all processes of the cluster in `folder`, telling how many there were: daemons first, which
/// stop their PostgreSQL; then PostgreSQL that has no keeper; what does not stop is killed.
pub(super) fn end(folder: &Path) -> usize {
    let found = find(folder);
    let count = found
        .iter()
        .filter(|process| process.kind != Kind::Backend)
        .count();
    if found.is_empty() {
        return 0;
    }
    signal(&found, Signal::CONT, |_| true);
    signal(&found, Signal::TERM, |kind| kind == Kind::Daemon);
    wait_until(|| !find(folder).iter().any(|p| p.kind == Kind::Daemon));
    signal(&find(folder), Signal::KILL, |kind| kind == Kind::Daemon);
    // postgres(1): SIGINT is the fast shutdown.
    signal(&find(folder), Signal::INT, |kind| kind == Kind::Postgres);
    wait_until(|| find(folder).is_empty());
    signal(&find(folder), Signal::KILL, |_| true);
    wait_until(|| find(folder).is_empty());
    count
}

fn signal(processes: &[Process], signal: Signal, concerns: impl Fn(Kind) -> bool) {
    for process in processes.iter().filter(|process| concerns(process.kind)) {
        // One that has ended meanwhile is what is wanted.
        let _ = pidfd_send_signal(&process.handle, signal);
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    let end = clock::now().after(STOP_LIMIT);
    while !holds() && clock::now() < end {
        std::thread::sleep(PAUSE);
    }
}

fn find(folder: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter_map(|pid| {
            kind(pid, folder)?;
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Looked at again: the pid may have passed to another process before there was a handle.
            let kind = kind(pid, folder)?;
            Some(Process { handle, kind })
        })
        .collect()
}

/// What a process is to the cluster in `folder`; nothing, mostly.
fn kind(pid: i32, folder: &Path) -> Option<Kind> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let command = std::fs::read(proc.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).into_owned();
    let mut words = command.split('\0');
    let first = words.next()?;
    let store = format!(
        "--store-endpoints={}",
        super::layout::store_file(folder).display()
    );
    if matches!(first, "stolon-keeper" | "stolon-sentinel" | "stolon-proxy") {
        return words.any(|word| word == store).then_some(Kind::Daemon);
    }
    let program = std::fs::read_link(proc.join("exe")).ok()?;
    let program = program.file_name()?.to_string_lossy().into_owned();
    // Its file may have been replaced by a newer one.
    let program = program.trim_end_matches(" (deleted)");
    if !POSTGRES_PROGRAMS.contains(&program) {
        return None;
    }
    let works_in = std::fs::read_link(proc.join("cwd")).unwrap_or_default();
    let is_named = words.any(|word| Path::new(word).starts_with(folder));
    match (works_in.starts_with(folder), is_named) {
        (_, true) => Some(Kind::Postgres),
        (true, false) => Some(Kind::Backend),
        (false, false) => None,
    }
}
