//! Making a new database cluster.

use std::path::Path;

use crate::{Error, Installation, data_dir, process};

/// What a new cluster is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The superuser.
    pub superuser: String,
    /// Their password, when they have one.
    pub password: Option<String>,
    /// Whether the password is stored for SCRAM also where the version's default is md5.
    pub scram: bool,
    /// `--locale`, when not the environment's.
    pub locale: String,
    /// `--encoding`, when not the locale's.
    pub encoding: String,
    /// `--data-checksums`.
    pub data_checksums: bool,
}

/// Makes a cluster in `target`, which is emptied first. Nothing is left of a failed attempt.
pub async fn run(
    installation: &Installation,
    target: &Path,
    options: &Options,
) -> Result<(), Error> {
    process::kill_makers(target).await?;
    data_dir::discard(target)?;
    let password_file = target.with_extension("pwfile");
    let mut command = installation.command("initdb");
    command
        .arg("-D")
        .arg(target)
        .arg("-U")
        .arg(&options.superuser);
    if let Some(password) = &options.password {
        data_dir::replace_file(&password_file, format!("{password}\n").as_bytes())?;
        command.arg("--pwfile").arg(&password_file);
    }
    if options.scram {
        // Versions before 14 store it for md5 without it; the access rules are written anew.
        command.arg("--auth=scram-sha-256");
    }
    if !options.locale.is_empty() {
        command.arg("--locale").arg(&options.locale);
    }
    if !options.encoding.is_empty() {
        command.arg("--encoding").arg(&options.encoding);
    }
    if options.data_checksums {
        command.arg("--data-checksums");
    }
    // Whoever gives the work up takes the program with it.
    let output = command.kill_on_drop(true).output().await;
    data_dir::remove_file(&password_file)?;
    let output = output.map_err(Error::file("run initdb on", target))?;
    if output.status.success() {
        return Ok(());
    }
    data_dir::discard(target)?;
    Err(Error::Program {
        program: "initdb".to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
