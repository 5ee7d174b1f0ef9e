//! PostgreSQL's programs on this machine.

use std::path::{Path, PathBuf};

use stolon_core::model::PostgresVersion;
use tokio::process::Command;

use crate::Error;

/// The oldest major version that is supported: 12 moved recovery settings into the configuration.
pub const OLDEST_MAJOR: i64 = 12;

/// A user that programs run as instead of the present one; for tests and `stolonctl dev`, which may
/// run as root, as PostgreSQL's programs must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A set of PostgreSQL's programs of one version.
#[derive(Debug, Clone)]
pub struct Installation {
    programs: PathBuf,
    version: PostgresVersion,
    credentials: Option<Credentials>,
}

impl Installation {
    /// Finds the programs: in `folder` when given, else in `PATH`, else where Debian puts them,
    /// the highest version first.
    pub fn find(folder: Option<&Path>) -> Result<Self, Error> {
        let folders = if let Some(folder) = folder {
            vec![folder.to_owned()]
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .chain(debian_folders())
                .collect()
        };
        let complete = |folder: &&PathBuf| {
            ["postgres", "initdb", "pg_basebackup", "pg_controldata"]
                .iter()
                .all(|program| folder.join(program).is_file())
        };
        let Some(programs) = folders.iter().find(complete) else {
            return Err(Error::Installation(format!(
                "PostgreSQL's programs (postgres, initdb, pg_basebackup, pg_controldata) are not \
                 all in {}: install postgresql, or name the folder with --pg-bin-path",
                folder.map_or("PATH or /usr/lib/postgresql".to_owned(), |f| f
                    .display()
                    .to_string())
            )));
        };
        let version = ask_version(&programs.join("postgres"))?;
        if version.major < OLDEST_MAJOR {
            return Err(Error::Installation(format!(
                "PostgreSQL {}.{} in {} is too old: version {OLDEST_MAJOR} or newer is needed",
                version.major,
                version.minor,
                programs.display()
            )));
        }
        Ok(Self {
            programs: programs.clone(),
            version,
            credentials: None,
        })
    }

    /// The same programs, run as another user.
    #[must_use]
    pub fn run_as(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The version of the programs.
    pub const fn version(&self) -> PostgresVersion {
        self.version
    }

    /// Whether one of the programs is there that not every package has.
    pub fn has(&self, program: &str) -> bool {
        self.programs.join(program).is_file()
    }

    /// A command for one of the programs, without the variables that would lead it elsewhere.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .env("LC_MESSAGES", "C")
            .env_remove("LC_ALL")
            .stdin(std::process::Stdio::null());
        if let Some(Credentials { uid, gid }) = self.credentials {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn debian_folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let major = entry.file_name().to_string_lossy().parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

fn ask_version(postgres: &Path) -> Result<PostgresVersion, Error> {
    let output = std::process::Command::new(postgres)
        .arg("--version")
        .output()
        .map_err(Error::file("run", postgres))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| Error::Malformed {
        what: "postgres --version",
        text: text.into_owned(),
    })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1`, `… 17devel`.
pub(crate) fn parse_version(text: &str) -> Option<PostgresVersion> {
    let number = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = |text: &str| -> Option<i64> {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    Some(PostgresVersion {
        major: digits(major)?,
        minor: digits(minor).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read() {
        let cases = [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
                Some((15, 18)),
            ),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 17devel", Some((17, 0))),
            ("postgres (PostgreSQL) 9.6.24", Some((9, 6))),
            ("nothing", None),
        ];
        for (text, expected) in cases {
            let version = parse_version(text).map(|version| (version.major, version.minor));
            assert_eq!(version, expected, "{text}");
        }
    }
}
