//! Taking data back into the history of a running primary that they left: `pg_rewind`.
//!
//! It changes the data where they are, and data it was killed in are none any more. What this module
//! adds is what it does not do itself: it has data recover that were killed, keeps the WAL that older
//! versions remove although the next start needs it, and looks at what came of it (ADR 12).

mod outcome;
mod source;
mod wal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use stolon_core::model::TimelineId;

use crate::basebackup::Progress;
use crate::config_files;
use crate::conninfo::ConnInfo;
use crate::controldata::{self, ClusterState};
use crate::outside::{self, Outside};
use crate::watched::{self, Watch};
use crate::{Error, Installation, data_dir, process};

#[cfg(any(test, fuzzing))]
pub(crate) use outcome::parse_start;
pub use source::Source;

/// The first major version that can leave the recovery to us, and can fetch WAL from an archive.
const HAS_OPTIONS: i64 = 13;
/// The database that every server has.
const DATABASE: [(&str, &str); 1] = [("dbname", "postgres")];
/// So much WAL is kept while data recover: their end would remove what the rewind has to read.
const KEEP_ALL: (&str, &str) = ("wal_keep_size=2000000", "wal_keep_segments=100000");

/// What is to be rewound, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Rewind<'a> {
    /// The data; no server runs on them.
    pub target: &'a Path,
    /// How the primary is reached.
    pub source: Reach<'a>,
    /// The timeline the primary is on.
    pub timeline: TimelineId,
    /// Whether the data must recover from a crash before.
    pub recover_first: bool,
    /// What fetches WAL that they lack, where there is an archive.
    pub restore_command: Option<&'a str>,
    /// A program that says and does nothing for so long is ended.
    pub patience: Duration,
}

/// How a primary is reached by somebody who may read its files.
#[derive(Debug, Clone, Copy)]
pub enum Reach<'a> {
    /// A member of the cluster, by its superuser.
    Member(&'a ConnInfo),
    /// A server outside, as its operators say.
    Outside(&'a Outside),
}

/// Rewinds the data. They are on disk when this returns, without `standby.signal` and with the
/// configuration of the source.
///
/// # Errors
///
/// When a program fails or stands still, or what came of it is no earlier state of the source that
/// can go on from the WAL there is. Whatever the error: the data are to be taken for destroyed.
pub async fn run(
    installation: &Installation,
    rewind: Rewind<'_>,
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    let target = rewind.target;
    process::kill_makers(target).await?;
    data_dir::remove_stale_pid_file(target)?;
    config_files::allow_alter_system(target)?;
    if rewind.recover_first {
        recover(installation, target, rewind.patience).await?;
    }
    // One that is found afterwards is to be of the rewind.
    data_dir::remove_file(&target.join(outcome::LABEL))?;
    if let Some(command) = rewind.restore_command {
        config_files::add_parameter(target, "restore_command", command)?;
    }
    let kept = wal::keep(target)?;
    let rewound = match undo(installation, &rewind, &[], progress).await {
        Ok(()) => outcome::check(installation, &rewind, &kept).await,
        Err(error) => Err(error),
    };
    data_dir::remove_all(&kept_wal(target))?;
    rewound?;
    data_dir::clear_identity(target)
}

/// Has `pg_rewind` say whether it can rewind data that were shut down cleanly, which keep all they hold
/// but what `ALTER SYSTEM` wrote.
///
/// # Errors
///
/// When it cannot, or does not say.
pub async fn try_out(
    installation: &Installation,
    rewind: Rewind<'_>,
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    process::kill_makers(rewind.target).await?;
    config_files::allow_alter_system(rewind.target)?;
    if let Some(command) = rewind.restore_command {
        config_files::add_parameter(rewind.target, "restore_command", command)?;
    }
    undo(installation, &rewind, &["--dry-run"], progress).await
}

/// Does something small at a server outside that it may forbid: a checkpoint, or a little WAL.
///
/// # Errors
///
/// When it cannot be done within `limit`.
pub async fn request(
    installation: &Installation,
    server: &Outside,
    request: Request,
    limit: Duration,
) -> Result<(), Error> {
    let sql = match request {
        Request::Checkpoint => "CHECKPOINT",
        Request::Stir => "SELECT pg_logical_emit_message(true, 'stolon', '')",
    };
    outside::ask(installation, server, &DATABASE, &[sql], limit).await?;
    Ok(())
}

/// What a server outside is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Write a checkpoint.
    Checkpoint,
    /// Write a little WAL that means nothing.
    Stir,
}

/// Where the WAL of data is kept that are rewound; left there by a rewind that was broken off.
pub fn kept_wal(target: &Path) -> PathBuf {
    target.with_extension("wal")
}

async fn undo(
    installation: &Installation,
    rewind: &Rewind<'_>,
    more: &[&str],
    progress: impl FnMut(Progress) + Send,
) -> Result<(), Error> {
    let password_file = rewind.target.with_extension("pgpass");
    let mut command = installation.command("pg_rewind");
    let source = match rewind.source {
        Reach::Member(member) => {
            data_dir::replace_file(&password_file, member.password_line().as_bytes())?;
            command.env("PGPASSFILE", &password_file);
            format!("{} dbname=postgres", member.to_text_without_password())
        }
        Reach::Outside(server) => {
            server.give_password(&mut command);
            server.to_text(&DATABASE)
        }
    };
    command
        .arg("-D")
        .arg(rewind.target)
        .arg(format!("--source-server={source}"))
        .arg("--progress")
        .args(more);
    if installation.version().major >= HAS_OPTIONS {
        command.arg("--no-ensure-shutdown");
        if rewind.restore_command.is_some() {
            command.arg("--restore-target-wal");
        }
    }
    let watch = Watch {
        program: "pg_rewind",
        awaited: "progress of pg_rewind",
        patience: rewind.patience,
        aloud: true,
    };
    let outcome = watched::run(command, watch, progress).await;
    data_dir::remove_file(&password_file)?;
    outcome
}

/// Has data that were killed come to the end of their WAL, as `pg_rewind` itself does from version 13
/// on. Nobody can connect meanwhile. The files are flushed at the end of the rewind.
async fn recover(
    installation: &Installation,
    target: &Path,
    patience: Duration,
) -> Result<(), Error> {
    tracing::info!("the data were not shut down: having them recover before they are rewound");
    let keep_all = if installation.version().major >= HAS_OPTIONS {
        KEEP_ALL.0
    } else {
        KEEP_ALL.1
    };
    let mut command = installation.command("postgres");
    command
        .args(["--single", "-F", "-D"])
        .arg(target)
        .args(["-c", keep_all, "-c", "log_destination=stderr"])
        .arg("template1");
    let watch = Watch {
        program: "postgres --single",
        awaited: "progress of the recovery before the rewind",
        patience,
        aloud: true,
    };
    watched::run(command, watch, |_| {}).await?;
    let control = controldata::read(installation, target).await?;
    if control.state == ClusterState::ShutDown {
        return Ok(());
    }
    Err(Error::Rewound(format!(
        "the data did not recover before the rewind: they are {:?}",
        control.state
    )))
}
