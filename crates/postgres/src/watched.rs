//! PostgreSQL's programs that may take hours, watched while they run.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use crate::Error;
use crate::basebackup::{Progress, Said, parse_progress};

/// A line that is handed on is cut after so many bytes.
const LONGEST_LINE: usize = 1024;

/// How a program is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// Its name, for messages.
    pub(crate) program: &'static str,
    /// What is waited for, for messages.
    pub(crate) awaited: &'static str,
    /// It is ended when it has neither said nor done anything for so long (scenario B8).
    pub(crate) patience: Duration,
    /// Whether what it says besides its progress is logged.
    pub(crate) aloud: bool,
}

/// Runs a program to its end.
///
/// # Errors
///
/// When it cannot be run, stands still, or fails; the error has the end of what it said.
pub(crate) async fn run(
    mut command: tokio::process::Command,
    watch: Watch,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    let path = Path::new(watch.program);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(Error::file("run", path))?;
    let pid = child.id();
    let mut said = Said::default();
    let mut lines = Lines::default();
    if let Some(mut pipe) = child.stderr.take() {
        let mut buffer = [0; 1024];
        let mut moved = pid.and_then(movement);
        loop {
            let heard = tokio::time::timeout(watch.patience, pipe.read(&mut buffer)).await;
            let count = match heard {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(count)) => count,
                Err(_) => {
                    let now = pid.and_then(movement);
                    if now.is_some() && now != moved {
                        moved = now;
                        continue;
                    }
                    let _ = child.kill().await;
                    return Err(Error::NoAnswer {
                        what: watch.awaited,
                        limit: watch.patience,
                    });
                }
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            if let Some(found) = said.hear(bytes) {
                progress(found);
            }
            if watch.aloud {
                lines.hear(bytes, |line| {
                    tracing::info!(program = watch.program, "{line}");
                });
            }
        }
    }
    let status = child.wait().await.map_err(Error::file("wait for", path))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: watch.program.to_owned(),
        status: status.to_string(),
        output: said.complaint(),
    })
}

/// A number that changes whenever a process has waited for something and got it: how often it gave
/// the processor up (proc(5), `voluntary_ctxt_switches`). One that flushes a large file says nothing
/// for minutes and is not stuck.
fn movement(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

/// Lines put together from pieces; progress, which overwrites its line, left out.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn hear(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        for byte in bytes {
            if !matches!(byte, b'\r' | b'\n') {
                if self.0.len() < LONGEST_LINE {
                    self.0.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.0);
            let line = line.trim();
            if !line.is_empty() && parse_progress(line).is_none() {
                tell(line);
            }
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, Watch, run};
    use std::time::Duration;

    const WATCH: Watch = Watch {
        program: "sh",
        awaited: "progress of sh",
        patience: Duration::from_secs(1),
        aloud: false,
    };

    fn shell(script: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn one_that_stands_still_is_ended_and_one_that_moves_is_not() {
        let stuck = run(shell("exec sleep 1000"), WATCH, |_| {}).await;
        let error = stuck.expect_err("it says and does nothing").to_string();
        assert!(error.contains("progress of sh"), "{error}");
        let moving = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.2; done";
        run(shell(moving), WATCH, |_| {}).await.expect("it moves");
    }

    #[tokio::test]
    async fn a_failure_has_what_was_said_and_not_how_far_it_was() {
        let script = "printf '1/2 kB (50%%) copied\\rbroken: no such thing\\n' >&2; exit 3";
        let mut seen = Vec::new();
        let failed = run(shell(script), WATCH, |progress| {
            seen.push(progress.percent());
        })
        .await;
        let error = failed.expect_err("it failed").to_string();
        assert!(error.contains("broken: no such thing"), "{error}");
        assert!(!error.contains("50%"), "{error}");
        assert_eq!(seen, [50]);
    }

    #[test]
    fn lines_are_put_together() {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        for piece in ["serv", "ers diverged\n 1/2 kB (50%) copied\r", "\ndone\n"] {
            lines.hear(piece.as_bytes(), |line| told.push(line.to_owned()));
        }
        assert_eq!(told, ["servers diverged", "done"]);
    }
}
