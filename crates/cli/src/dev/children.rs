//! The daemons of a dev cluster, as processes of this program.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stolon_core::time::Instant;
use stolon_daemons::runtime::clock;

use super::layout::{Layout, SUPERUSER};
use super::remains;
use crate::args;

/// How long a daemon may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// How long a daemon that ended is left before it is started again.
const REVIVE_AFTER: Duration = Duration::from_secs(2);
/// How long a keeper that was killed is: longer than failInterval, so that a standby takes over.
const REBOOT: Duration = Duration::from_secs(10);

/// Short intervals, so that the impatient see what happens.
const SPEC: &str = r#""initMode": "new", "sleepInterval": "1s", "failInterval": "4s",
    "proxyCheckInterval": "1s", "proxyTimeout": "3s""#;

/// This very program, whatever became of its file, and also where the user that the daemons run as
/// may not go (proc(5): a process may always follow this link of its own).
const PROGRAM: &str = "/proc/self/exe";

/// The order in which daemons are stopped: keepers last, with their databases.
const STOP_ORDER: [&str; 3] = ["stolon-proxy", "stolon-sentinel", "stolon-keeper"];

/// The daemons.
pub(super) struct Children<'a> {
    layout: &'a Layout,
    running: Vec<Daemon>,
}

struct Daemon {
    name: String,
    program: &'static str,
    words: Vec<String>,
    child: Option<Child>,
    /// When it is to be started again.
    due: Option<Instant>,
}

impl<'a> Children<'a> {
    pub(super) const fn new(layout: &'a Layout) -> Self {
        Self {
            layout,
            running: Vec::new(),
        }
    }

    fn command(&self, program: &str, words: &[String]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg0(program).args(words).stdin(Stdio::null());
        for variable in args::variables_of_others() {
            command.env_remove(variable);
        }
        // The terminal's interrupt is for this process, which stops them in order.
        command.process_group(0);
        if let Some((uid, gid)) = self.layout.runs_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes the cluster, unless there is one; true: it was made.
    pub(super) fn initialise(&self, synchronous: bool) -> Result<bool, String> {
        if self.layout.store_file().exists() && self.control(&["spec"]).is_ok() {
            return Ok(false);
        }
        let spec = format!("{{{SPEC}, \"synchronousReplication\": {synchronous}}}");
        let outcome = self.control(&["init", "-y", &spec]);
        outcome.map_err(|error| format!("cannot initialise: {error}"))?;
        Ok(true)
    }

    /// Runs `stolonctl`.
    fn control(&self, own: &[&str]) -> Result<(), String> {
        let mut words = self.layout.store_flags();
        words.extend(own.iter().map(ToString::to_string));
        let output = self.command("stolonctl", &words).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    pub(super) fn start_all(&mut self, keepers: usize) -> Result<(), String> {
        self.start("sentinel", "stolon-sentinel", vec![])?;
        for number in 1..=keepers {
            let name = format!("keeper{number}");
            let own = self.keeper_flags(&name, number);
            self.start(&name, "stolon-keeper", own)?;
        }
        let port = format!("--port={}", self.layout.ports.proxy);
        self.start("proxy", "stolon-proxy", vec![port])
    }

    fn keeper_flags(&self, name: &str, number: usize) -> Vec<String> {
        let port = self.layout.ports.keepers.get(number - 1);
        let port = port.copied().unwrap_or_default();
        let file = |name: &str| self.layout.folder.join(name).display().to_string();
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

    fn start(&mut self, name: &str, program: &'static str, own: Vec<String>) -> Result<(), String> {
        let mut daemon = Daemon {
            name: name.to_owned(),
            program,
            words: [self.layout.store_flags(), own].concat(),
            child: None,
            due: None,
        };
        daemon.child = Some(self.spawn(&daemon)?);
        self.running.push(daemon);
        Ok(())
    }

    fn spawn(&self, daemon: &Daemon) -> Result<Child, String> {
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", daemon.name);
        let path = self.layout.log_file(&daemon.name);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(failed)?;
        let again = log.try_clone().map_err(failed)?;
        let mut command = self.command(daemon.program, &daemon.words);
        let child = command.stdout(log).stderr(again).spawn().map_err(failed)?;
        std::fs::write(self.pid_file(daemon), format!("{}\n", child.id())).map_err(failed)?;
        Ok(child)
    }

    fn pid_file(&self, daemon: &Daemon) -> PathBuf {
        self.layout.pid_file(&daemon.name)
    }

    /// Starts again, after a pause, what ended by itself or was killed; tells what happened.
    pub(super) fn revive(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        let mut daemons = std::mem::take(&mut self.running);
        for daemon in &mut daemons {
            if let Some(child) = daemon.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                // Nothing is to be killed any more by that number.
                let _ = std::fs::remove_file(self.pid_file(daemon));
                let (text, pause) = farewell(daemon, status);
                news.push(text);
                daemon.child = None;
                daemon.due = Some(clock::now().after(pause));
            }
            if daemon.due.is_some_and(|due| clock::now() >= due) {
                daemon.due = None;
                match self.spawn(daemon) {
                    Ok(child) => {
                        news.push(format!("{}: its process is started again", daemon.name));
                        daemon.child = Some(child);
                    }
                    Err(error) => {
                        news.push(error);
                        daemon.due = Some(clock::now().after(REBOOT));
                    }
                }
            }
        }
        self.running = daemons;
        news
    }

    /// Stops the proxy, the sentinel, then the keepers with their databases, and what else works on
    /// the folder.
    pub(super) fn stop_all(&mut self) {
        let mut daemons = std::mem::take(&mut self.running);
        remains::thaw(&self.layout.folder);
        for program in STOP_ORDER {
            let mut concerned: Vec<_> = daemons
                .iter_mut()
                .filter(|daemon| daemon.program == program)
                .collect();
            for daemon in &concerned {
                let child = daemon.child.as_ref();
                // Not waited for yet, so the number is still that of this child.
                let pid = child.and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            let end = clock::now().after(STOP_LIMIT);
            for daemon in &mut concerned {
                wait(daemon, end);
                let _ = std::fs::remove_file(self.layout.pid_file(&daemon.name));
            }
        }
        remains::end(&self.layout.folder);
    }
}

impl Drop for Children<'_> {
    fn drop(&mut self) {
        self.stop_all();
    }
}

/// What is said of a daemon that ended, and how long it stays away.
fn farewell(daemon: &Daemon, status: ExitStatus) -> (String, Duration) {
    let name = &daemon.name;
    match (status.signal(), daemon.program) {
        (Some(signal), "stolon-keeper") => {
            let text = format!(
                "{name}: its keeper was killed (signal {signal}); like a machine that boots it is \
                 back in {REBOOT:?}"
            );
            (text, REBOOT)
        }
        (Some(signal), _) => {
            let text = format!("{name}: killed (signal {signal}), back in {REVIVE_AFTER:?}");
            (text, REVIVE_AFTER)
        }
        (None, _) => {
            let text = format!(
                "{name}: ended by itself ({status}), see log/{name}.log; back in {REVIVE_AFTER:?}"
            );
            (text, REVIVE_AFTER)
        }
    }
}

fn wait(daemon: &mut Daemon, end: Instant) {
    let Some(child) = daemon.child.as_mut() else {
        return;
    };
    while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        if clock::now() > end {
            crate::output::talk(&format!("{} does not stop: killing it", daemon.name));
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
