//! `stolonctl dev` as a user has it: it comes up, is broken as it says, is stopped and started again.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// No step takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_mins(2);

/// A folder for a cluster, which the user of the database processes can enter.
fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new()
        .prefix("stolon-dev-")
        .tempdir_in("/tmp")
        .expect("a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("opened");
    folder
}

/// A `stolonctl dev` with what it says.
struct Dev {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    /// How much of that was said before the last command was run.
    done: usize,
}

impl Dev {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stolon"));
        let child = command
            .args(["ctl", "dev", "--keepers", "2", "--data-dir"])
            .arg(data)
            // The caller's own variables are nothing to the daemons.
            .env("STKEEPER_PG_PORT", "1")
            .env("STPROXY_PORT", "no port")
            .env("STSENTINEL_STORE_BACKEND", "etcdv3")
            .env("STOLONCTL_STORE_BACKEND", "etcdv3")
            .env("PGPORT", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("started");
        let lines = read(child.stdout.take().expect("a pipe"));
        Self {
            child,
            lines,
            said: Vec::new(),
            done: 0,
        }
    }

    /// Waits for a line that holds the words, and gives it.
    #[track_caller]
    fn says(&mut self, words: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no {words:?} in:\n{}", self.said.join("\n"))
                }
            }
        }
    }

    /// Runs the command that it prints for the present primary and that begins with `words`, in a
    /// shell. What was printed before the last such command is about an earlier primary.
    #[track_caller]
    fn do_as_told(&mut self, words: &str) {
        self.said.extend(self.lines.try_iter());
        let command = loop {
            let new = &self.said[self.done..];
            let last = new
                .iter()
                .rposition(|line| line.contains("The primary runs under"));
            let told = last.and_then(|last| {
                let mut lines = new[last..].iter();
                lines.find(|line| line.trim().starts_with(words)).cloned()
            });
            match told {
                Some(command) => break command,
                None => self.says(""),
            };
        };
        self.done = self.said.len();
        let status = Command::new("/bin/sh")
            .args(["-c", command.trim()])
            .status();
        assert!(status.expect("a shell").success(), "{command}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill_process(pid.expect("a pid"), signal).expect("it runs");
    }

    /// Stops it with Ctrl-C.
    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.says("stopped; started again it goes on");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn read(stdout: ChildStdout) -> Receiver<String> {
    let (lines, received) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// A statement by the `psql` command that was printed.
fn psql(command: &str, statement: &str) -> Option<String> {
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("{command} -X -q -t -A -c \"$0\""), statement])
        .env("PGCONNECT_TIMEOUT", "5")
        .output()
        .expect("a shell");
    let text = String::from_utf8(output.stdout).expect("text");
    output.status.success().then(|| text.trim().to_owned())
}

/// Repeats a statement until it succeeds.
#[track_caller]
fn psql_until_done(command: &str, statement: &str) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(text) = psql(command, statement) {
            return text;
        }
        assert!(Instant::now() < end, "{statement} never succeeded");
    }
}

/// Processes that work on a folder.
fn at_work(folder: &Path) -> Vec<String> {
    let marker = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let about = |path: PathBuf| {
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_in = std::fs::read_link(path.join("cwd")).unwrap_or_default();
        let is_at_work = command.contains(&marker) || works_in.starts_with(folder);
        is_at_work.then(|| format!("{}: {command}", path.display()))
    };
    entries.filter_map(|entry| about(entry.path())).collect()
}

#[test]
fn a_cluster_is_broken_as_told_and_goes_on_after_a_stop() {
    let folder = folder();
    let data = folder.path().join("data with a blank");
    let mut dev = Dev::start(&data);
    let first = dev.says("a new cluster of 2 keepers");
    let ports = first.split_once(": the proxy").expect("ports").1.to_owned();
    let connect = dev.says("psql -h 127.0.0.1").trim().to_owned();
    psql_until_done(&connect, "create table t (n int)");
    psql_until_done(&connect, "insert into t values (1)");
    if geteuid().is_root() {
        let owner = psql_until_done(&connect, "select pg_read_file('/proc/self/status')");
        assert!(!owner.contains("Uid:\t0"), "{owner}");
    }

    dev.do_as_told("kill -9 $(head");
    let back = dev.says("client: writes again, after ");
    assert!(back.contains(" s without"), "{back}");
    psql_until_done(&connect, "insert into t values (2)");

    refuse_a_second(&data, dev.child.id());

    let status = dev.stop();
    assert!(status.success(), "{status}");
    assert_eq!(at_work(folder.path()), Vec::<String>::new());

    let mut dev = Dev::start(&data);
    let again = dev.says("going on with the cluster of 2 keepers");
    assert!(
        again.ends_with(&ports),
        "{again} has other ports than {first}"
    );
    assert_eq!(dev.says("psql -h 127.0.0.1").trim(), connect);
    assert_eq!(psql_until_done(&connect, "select count(*) from t"), "2");
    assert!(dev.stop().success());
    assert_eq!(at_work(folder.path()), Vec::<String>::new());
}

/// A second one on the same folder names the first.
fn refuse_a_second(data: &Path, pid: u32) {
    let mut second = Command::new(env!("CARGO_BIN_EXE_stolon"));
    let output = second
        .args(["ctl", "dev", "--data-dir"])
        .arg(data)
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "stolonctl dev runs in",
        &format!("as process {pid}"),
        "--data-dir",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[test]
fn a_lost_or_frozen_primary_is_replaced_and_what_is_left_behind_is_ended() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut dev = Dev::start(&data);
    let connect = dev.says("psql -h 127.0.0.1").trim().to_owned();
    psql_until_done(&connect, "create table t (n int)");
    dev.do_as_told("kill -9 $(cat");
    dev.says("sentinel: electing a new primary (keeper ");
    dev.says("client: writes again, after ");
    psql_until_done(&connect, "insert into t values (1)");
    dev.do_as_told("P=$(head");
    dev.says("sentinel: electing a new primary (keeper ");
    psql_until_done(&connect, "insert into t values (2)");

    // Killed itself, with a primary that stands still.
    dev.signal(Signal::KILL);
    dev.child.wait().expect("it ends");
    assert_ne!(at_work(&data), Vec::<String>::new());
    let mut dev = Dev::start(&data);
    dev.says("ended what an earlier run left behind");
    dev.says("psql -h 127.0.0.1");
    assert_eq!(psql_until_done(&connect, "select count(*) from t"), "2");

    // The keeper is gone at the moment of the stop: its PostgreSQL is stopped all the same.
    let keeper = std::fs::read_to_string(data.join("pid/keeper1")).expect("a pid");
    let pid = Pid::from_raw(keeper.trim().parse().expect("a number"));
    kill_process(pid.expect("a pid"), Signal::KILL).expect("killed");
    dev.says("keeper1: its keeper was killed");
    assert!(dev.stop().success());
    assert_eq!(at_work(folder.path()), Vec::<String>::new());
}

#[test]
fn a_command_is_run_with_the_cluster_up_and_its_exit_status_kept() {
    let folder = folder();
    let data = folder.path().join("data");
    let command = "test \"$(psql -XAtqc 'select not pg_is_in_recovery()')\" = t && exit 7";
    let output = Command::new(env!("CARGO_BIN_EXE_stolon"))
        .args([
            "ctl",
            "dev",
            "--keepers",
            "1",
            "--exec",
            command,
            "--data-dir",
        ])
        .arg(&data)
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(at_work(folder.path()), Vec::<String>::new());
}

#[test]
fn a_folder_that_the_other_user_cannot_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    if !geteuid().is_root() {
        return;
    }
    let folder = folder();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(folder.path(), closed).expect("closed");
    let data = folder.path().join("data");
    let output = Command::new(env!("CARGO_BIN_EXE_stolon"))
        .args(["ctl", "dev", "--data-dir"])
        .arg(&data)
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "user postgres",
        "cannot go into",
        "give a --data-dir that others may enter",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(!data.exists());
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_made() {
    let folder = folder();
    let data = folder.path().join("data");
    for keepers in ["0", "10", "many"] {
        let output = Command::new(env!("CARGO_BIN_EXE_stolon"))
            .args(["ctl", "dev", "--keepers", keepers, "--data-dir"])
            .arg(&data)
            .output()
            .expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let said = format!("{keepers:?} for \"--keepers\" flag: it must be a number from 1 to 9");
        assert!(text.contains(&said), "{text}");
        assert!(!data.exists());
    }
}
