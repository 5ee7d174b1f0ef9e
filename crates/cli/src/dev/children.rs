//! The daemons of a dev cluster, as processes of this program.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::layout::{Layout, SUPERUSER};

/// How long a daemon may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// How long a daemon that ended is left before it is started again.
const REVIVE_AFTER: Duration = Duration::from_secs(2);

const SPEC: &str = r#""initMode": "new", "sleepInterval": "1s", "failInterval": "4s",
    "proxyCheckInterval": "1s", "proxyTimeout": "3s""#;

/// The daemons.
pub(super) struct Children<'a> {
    layout: &'a Layout,
    program: PathBuf,
    running: Vec<Daemon>,
}

struct Daemon {
    name: String,
    words: Vec<String>,
    child: Option<Child>,
    ended: Option<Instant>,
}

impl<'a> Children<'a> {
    pub(super) fn new(layout: &'a Layout) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let children = Self {
            layout,
            program,
            running: Vec::new(),
        };
        children.end_leftovers();
        Ok(children)
    }

    /// Ends daemons of this folder that an earlier `dev` left behind when it was killed.
    fn end_leftovers(&self) {
        let marker = self.layout.folder.display().to_string();
        let end = Instant::now() + STOP_LIMIT;
        let mut told = false;
        loop {
            let found = self.own_processes(&marker);
            if found.is_empty() || Instant::now() > end {
                return;
            }
            if !told {
                println!("stopping {} daemons of an earlier run", found.len());
                for pid in &found {
                    let _ = kill_process(*pid, Signal::TERM);
                }
                told = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Daemons of this program whose command line names this folder.
    fn own_processes(&self, marker: &str) -> Vec<Pid> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let own = std::process::id();
        entries
            .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
            .filter(|pid| *pid != own)
            .filter(|pid| {
                let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                exe == self.program && String::from_utf8_lossy(&words).contains(marker)
            })
            .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .collect()
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        // The terminal's interrupt is for this process, which stops them in order.
        command.process_group(0);
        if let Some((uid, gid)) = self.layout.runs_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes the cluster, unless there is one.
    pub(super) fn initialise(&self, synchronous: bool) -> Result<(), String> {
        let mut words = vec!["ctl".to_owned()];
        words.extend(self.layout.store_flags());
        let mut read = words.clone();
        read.extend(["clusterdata", "read"].map(str::to_owned));
        let there = self
            .command(&read)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if there.map_err(|error| error.to_string())?.success() {
            println!("continuing with the data of an earlier run");
            return Ok(());
        }
        let spec = format!("{{{SPEC}, \"synchronousReplication\": {synchronous}}}");
        words.extend(["init".to_owned(), "-y".to_owned(), spec]);
        let output = self
            .command(&words)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "cannot initialise: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    pub(super) fn start_all(&mut self, keepers: usize) -> Result<(), String> {
        let store = self.layout.store_flags();
        let with = |role: &str, own: Vec<String>| -> Vec<String> {
            [vec![role.to_owned()], store.clone(), own].concat()
        };
        self.start("sentinel", with("sentinel", vec![]))?;
        for number in 1..=keepers {
            let name = format!("keeper{number}");
            let own = self.keeper_flags(&name, number);
            self.start(&name, with("keeper", own))?;
        }
        let port = format!("--port={}", self.layout.ports.proxy);
        self.start("proxy", with("proxy", vec![port]))
    }

    fn keeper_flags(&self, name: &str, number: usize) -> Vec<String> {
        let folder = &self.layout.folder;
        let port = self
            .layout
            .ports
            .keepers
            .get(number - 1)
            .copied()
            .unwrap_or_default();
        let file = |name: &str| folder.join(name).display().to_string();
        vec![
            format!("--uid={name}"),
            format!("--data-dir={}", file(name)),
            "--pg-listen-address=127.0.0.1".to_owned(),
            format!("--pg-port={port}"),
            format!("--pg-su-username={SUPERUSER}"),
            format!("--pg-su-passwordfile={}", file("superuser.password")),
            "--pg-repl-username=replication".to_owned(),
            format!("--pg-repl-passwordfile={}", file("replication.password")),
        ]
    }

    fn start(&mut self, name: &str, words: Vec<String>) -> Result<(), String> {
        let child = Some(self.spawn(name, &words)?);
        self.running.push(Daemon {
            name: name.to_owned(),
            words,
            child,
            ended: None,
        });
        Ok(())
    }

    fn spawn(&self, name: &str, words: &[String]) -> Result<Child, String> {
        let path = self.layout.folder.join("log").join(format!("{name}.log"));
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        let again = log.try_clone().map_err(failed)?;
        self.command(words)
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(failed)
    }

    /// Starts again, after a pause, what ended by itself.
    pub(super) fn revive(&mut self) {
        let mut daemons = std::mem::take(&mut self.running);
        for daemon in &mut daemons {
            if let Some(child) = daemon.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                println!(
                    "{} ended ({status}); starting it again in {REVIVE_AFTER:?}",
                    daemon.name
                );
                daemon.child = None;
                daemon.ended = Some(Instant::now());
            }
            let due = daemon
                .ended
                .is_some_and(|ended| ended.elapsed() >= REVIVE_AFTER);
            if due && daemon.child.is_none() {
                match self.spawn(&daemon.name, &daemon.words) {
                    Ok(child) => daemon.child = Some(child),
                    Err(error) => println!("{error}"),
                }
                daemon.ended = None;
            }
        }
        self.running = daemons;
    }

    /// Stops the proxy, the sentinel, then the keepers with their databases.
    pub(super) fn stop_all(&mut self) {
        let mut daemons = std::mem::take(&mut self.running);
        daemons.sort_by_key(|daemon| match daemon.name.as_str() {
            "proxy" => 0,
            "sentinel" => 1,
            _ => 2,
        });
        let pid = |child: &Child| Pid::from_raw(i32::try_from(child.id()).ok()?);
        for rank in 0..3 {
            let of_rank = |daemon: &Daemon| match daemon.name.as_str() {
                "proxy" => rank == 0,
                "sentinel" => rank == 1,
                _ => rank == 2,
            };
            for daemon in daemons.iter().filter(|daemon| of_rank(daemon)) {
                if let Some(pid) = daemon.child.as_ref().and_then(pid) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            let end = Instant::now() + STOP_LIMIT;
            for daemon in daemons.iter_mut().filter(|daemon| of_rank(daemon)) {
                wait(daemon, end);
            }
        }
    }
}

impl Drop for Children<'_> {
    fn drop(&mut self) {
        self.stop_all();
    }
}

fn wait(daemon: &mut Daemon, end: Instant) {
    let Some(child) = daemon.child.as_mut() else {
        return;
    };
    while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        if Instant::now() > end {
            println!("{} does not stop: killing it", daemon.name);
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
