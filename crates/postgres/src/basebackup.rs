//! Copying a running instance.

use std::path::Path;
use std::time::Duration;

use crate::conninfo::ConnInfo;
use crate::outside::Outside;
use crate::watched::{self, Watch};
use crate::{Error, Installation, data_dir, process};

/// How much of the end of what the program says is kept for its error.
pub(crate) const KEPT_OUTPUT: usize = 4096;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// KiB copied.
    pub done_kib: u64,
    /// KiB in all, as the source estimated at the beginning.
    pub total_kib: u64,
}

impl Progress {
    /// Percent copied; the estimate may be too low, and a copy is never more than whole.
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.done_kib) * 100 / u128::from(self.total_kib.max(1));
        u64::try_from(percent).unwrap_or(100).min(100)
    }
}

/// Copies the instance at `source` into `target`, which is emptied first.
///
/// The copy is on disk when this returns. WAL is streamed beside it through `slot`, so that nothing
/// the copy needs is removed at the source. A copy that does not get on for `patience` is ended
/// (scenario B8). Dropping the future ends the program.
pub async fn run(
    installation: &Installation,
    target: &Path,
    source: &ConnInfo,
    slot: &str,
    patience: Duration,
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    let password_file = target.with_extension("pgpass");
    data_dir::replace_file(&password_file, source.password_line().as_bytes())?;
    let mut command = installation.command("pg_basebackup");
    command
        .env("PGPASSFILE", &password_file)
        .arg("-d")
        .arg(source.to_text_without_password())
        .args(["--slot", slot]);
    let outcome = copy(command, target, patience, progress).await;
    data_dir::remove_file(&password_file)?;
    outcome
}

/// The same from a server outside the cluster, through a slot that goes with the connection: the one that
/// its operators made may be in use still.
///
/// # Errors
///
/// As above.
pub async fn run_outside(
    installation: &Installation,
    target: &Path,
    source: &Outside,
    patience: Duration,
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    let mut command = installation.command("pg_basebackup");
    source.give_password(&mut command);
    command.arg("-d").arg(source.to_text(&[]));
    copy(command, target, patience, progress).await
}

async fn copy(
    mut command: tokio::process::Command,
    target: &Path,
    patience: Duration,
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    process::kill_makers(target).await?;
    data_dir::remove_all(target)?;
    command.arg("-D").arg(target).args([
        "-X",
        "stream",
        "--checkpoint=fast",
        "--progress",
        "--no-password",
    ]);
    let watch = Watch {
        program: "pg_basebackup",
        awaited: "progress of pg_basebackup",
        patience,
        aloud: false,
    };
    watched::run(command, watch, progress).await?;
    data_dir::clear_identity(target)
}

/// The end of what the program said.
#[derive(Debug, Default)]
pub(crate) struct Said(String);

impl Said {
    /// Takes in the next bytes; how far the copy is, when what is kept tells.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Option<Progress> {
        self.0.push_str(&String::from_utf8_lossy(bytes));
        // Progress overwrites its line: the last complete piece counts.
        let found = self.0.rsplit(['\r', '\n']).find_map(parse_progress);
        let surplus = self.0.len().saturating_sub(KEPT_OUTPUT);
        if let Some(cut) = (surplus..self.0.len()).find(|at| self.0.is_char_boundary(*at)) {
            self.0.drain(..cut);
        }
        found
    }

    /// What was said besides progress.
    pub(crate) fn complaint(&self) -> String {
        let lines = self.0.split(['\r', '\n']);
        let complaint = lines.filter(|line| parse_progress(line).is_none());
        complaint.collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

/// Reads `12345/67890 kB (18%), 0/1 tablespace`.
pub(crate) fn parse_progress(line: &str) -> Option<Progress> {
    let (numbers, _) = line.trim().split_once(" kB")?;
    let (done, total) = numbers.split_once('/')?;
    Some(Progress {
        done_kib: done.trim().parse().ok()?,
        total_kib: total.trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Progress, parse_progress};

    #[test]
    fn progress_is_read() {
        let found = parse_progress(" 3072/23162 kB (13%), 0/1 tablespace");
        assert_eq!(
            found,
            Some(Progress {
                done_kib: 3072,
                total_kib: 23162
            })
        );
        assert_eq!(parse_progress("pg_basebackup: error: no"), None);
    }
}
