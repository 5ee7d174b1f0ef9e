//! The configuration files of an instance, written whole and replaced atomically.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::conninfo::ConnInfo;
use crate::{Error, data_dir};

/// The configuration `initdb` made, kept beside ours (the Go program's name for it).
pub const BASE_CONFIGURATION: &str = "postgresql-base.conf";
/// A restored or initialised instance's own configuration is kept under the name above once.
pub(crate) const CONFIGURATION: &str = "postgresql.conf";
pub(crate) const AUTO_CONFIGURATION: &str = "postgresql.auto.conf";
pub(crate) const ACCESS_RULES: &str = "pg_hba.conf";
const STANDBY_SIGNAL: &str = "standby.signal";
const RECOVERY_SIGNAL: &str = "recovery.signal";

/// What the configuration files are to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Parameters; the values are as they are meant, except those of `raw`.
    pub parameters: BTreeMap<String, String>,
    /// Parameters whose values are already escaped.
    pub raw: BTreeMap<String, String>,
    /// Whether the configuration `initdb` made stays in force below ours.
    pub include_base: bool,
    /// The lines of `pg_hba.conf`.
    pub access_rules: Vec<String>,
}

impl Configuration {
    /// Makes the instance follow `source` through `slot`.
    pub fn follow(&mut self, source: &ConnInfo, slot: &str) {
        let text = escape(&source.to_text());
        self.raw.insert("primary_conninfo".to_owned(), text);
        self.raw
            .insert("primary_slot_name".to_owned(), slot.to_owned());
    }
}

/// What writing the configuration changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// Parameters.
    pub parameters: bool,
    /// Access rules.
    pub access_rules: bool,
}

/// Keeps the configuration a data directory came with, once.
pub fn keep_base(pgdata: &Path) -> Result<(), Error> {
    let (ours, base) = (pgdata.join(CONFIGURATION), pgdata.join(BASE_CONFIGURATION));
    if base.exists() || !ours.exists() {
        return Ok(());
    }
    std::fs::rename(&ours, &base).map_err(Error::file("keep", &ours))
}

/// Writes the files that differ.
pub fn write(pgdata: &Path, configuration: &Configuration) -> Result<Changed, Error> {
    refuse_alter_system(pgdata)?;
    for name in configuration.parameters.keys() {
        if !is_parameter(name) {
            tracing::warn!(
                name,
                "leaving out a parameter: PostgreSQL takes no such name"
            );
        }
    }
    let parameters = render_parameters(configuration);
    let mut access_rules = configuration.access_rules.join("\n");
    access_rules.push('\n');
    Ok(Changed {
        parameters: write_if_different(&pgdata.join(CONFIGURATION), &parameters)?,
        access_rules: write_if_different(&pgdata.join(ACCESS_RULES), &access_rules)?,
    })
}

/// The access rules as they stand in the file; none: empty.
pub fn access_rules(pgdata: &Path) -> Result<String, Error> {
    let path = pgdata.join(ACCESS_RULES);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

/// Writes the access rules alone.
pub fn write_access_rules(pgdata: &Path, rules: &[String]) -> Result<(), Error> {
    let text = rules.join("\n") + "\n";
    write_if_different(&pgdata.join(ACCESS_RULES), &text).map(drop)
}

/// Makes the instance start as a standby, or not (PostgreSQL manual, "Standby Server Settings").
pub fn set_standby(pgdata: &Path, standby: bool) -> Result<(), Error> {
    let signal = pgdata.join(STANDBY_SIGNAL);
    // A restore's or an older version's way of asking for recovery must not linger (B10).
    data_dir::remove_file(&pgdata.join(RECOVERY_SIGNAL))?;
    data_dir::remove_file(&pgdata.join("recovery.done"))?;
    if !standby {
        return data_dir::remove_file(&signal);
    }
    if signal.exists() {
        Ok(())
    } else {
        data_dir::replace_file(&signal, b"")
    }
}

/// Makes restored data recover, and end that by their promotion (PostgreSQL manual, "Archive
/// Recovery Settings"). PostgreSQL takes the request away when it has done so.
pub fn set_recovery(pgdata: &Path) -> Result<(), Error> {
    data_dir::remove_file(&pgdata.join(STANDBY_SIGNAL))?;
    data_dir::remove_file(&pgdata.join("recovery.done"))?;
    data_dir::replace_file(&pgdata.join(RECOVERY_SIGNAL), b"")
}

/// Whether the data directory is set to recover.
pub fn is_recovery(pgdata: &Path) -> Result<bool, Error> {
    data_dir::exists(&pgdata.join(RECOVERY_SIGNAL))
}

/// Whether the data directory is set to start as a standby.
pub fn is_standby(pgdata: &Path) -> Result<bool, Error> {
    data_dir::exists(&pgdata.join(STANDBY_SIGNAL))
}

/// ALTER SYSTEM would change one member behind the cluster's back: its file is a link to the null
/// device, where it fails.
fn refuse_alter_system(pgdata: &Path) -> Result<(), Error> {
    let file = pgdata.join(AUTO_CONFIGURATION);
    if std::fs::read_link(&file).is_ok_and(|target| target == Path::new("/dev/null")) {
        return Ok(());
    }
    data_dir::remove_file(&file)?;
    std::os::unix::fs::symlink("/dev/null", &file).map_err(Error::file("link", &file))
}

/// Gives `ALTER SYSTEM` an empty file of its own: `pg_rewind` refuses a link where the source, which it
/// asks over a connection, seems to have a file.
pub(crate) fn allow_alter_system(pgdata: &Path) -> Result<(), Error> {
    data_dir::replace_file(&pgdata.join(AUTO_CONFIGURATION), b"")
}

/// Adds a parameter to the configuration file, whatever else it says.
pub(crate) fn add_parameter(pgdata: &Path, name: &str, value: &str) -> Result<(), Error> {
    let path = pgdata.join(CONFIGURATION);
    let mut text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let added = Configuration {
        parameters: [(name.to_owned(), value.to_owned())].into(),
        ..Configuration::default()
    };
    let _ = write!(text, "\n{}", render_parameters(&added));
    data_dir::replace_file(&path, text.as_bytes())
}

/// The parameters that the configuration file now sets, as [`write()`] wrote them.
pub fn present_parameters(pgdata: &Path) -> Result<BTreeMap<String, String>, Error> {
    let path = pgdata.join(CONFIGURATION);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::file("read", &path)(error)),
    };
    Ok(read_parameters(&text))
}

/// What [`render_parameters`] wrote; what had to be escaped stays so, and is written as it was.
pub(crate) fn read_parameters(text: &str) -> BTreeMap<String, String> {
    let read = |line: &str| {
        let (name, value) = line.split_once(" = '")?;
        let value = value.strip_suffix('\'')?.replace("''", "'");
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(read).collect()
}

/// The text of `postgresql.conf`.
pub(crate) fn render_parameters(configuration: &Configuration) -> String {
    let mut text = String::new();
    if configuration.include_base {
        let _ = writeln!(text, "include '{BASE_CONFIGURATION}'");
    }
    let named = |(name, _): &(&String, &String)| is_parameter(name);
    for (name, value) in configuration.parameters.iter().filter(named) {
        let value = if is_readable(value) {
            value.replace('\'', "''")
        } else {
            escape(value)
        };
        let _ = writeln!(text, "{name} = '{value}'");
    }
    for (name, value) in &configuration.raw {
        let _ = writeln!(text, "{name} = '{value}'");
    }
    text
}

/// Whether PostgreSQL takes it for a name (its `guc-file.l`); a line with another refuses the file.
pub(crate) fn is_parameter(name: &str) -> bool {
    let is_id = |part: &str| {
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
        part.starts_with(|c: char| goes_on(c) && !c.is_ascii_digit()) && part.chars().all(goes_on)
    };
    match name.split_once('.') {
        Some((class, name)) => is_id(class) && is_id(name),
        None => is_id(name),
    }
}

/// Whether PostgreSQL can read a value whose quotes are doubled and whose backslashes mean what they
/// mean in the file, as the Go program writes all of them (contract, section 5): it must end where it
/// ends, on the same line. One that cannot be read would refuse the whole file.
fn is_readable(value: &str) -> bool {
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        let is_fine = match letter {
            '\n' | '\0' => false,
            '\\' => !matches!(letters.next(), None | Some('\n' | '\0' | '\'')),
            _ => true,
        };
        if !is_fine {
            return false;
        }
    }
    true
}

/// A value that PostgreSQL is to read as it is, without the zeros that it cannot hold.
fn escape(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "''");
    escaped.replace('\n', "\\n").replace('\0', "")
}

fn write_if_different(path: &Path, text: &str) -> Result<bool, Error> {
    if std::fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(false);
    }
    data_dir::replace_file(path, text.as_bytes())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{Configuration, ConnInfo, render_parameters, write};

    fn standby_with_password(password: &str) -> ConnInfo {
        ConnInfo {
            application_name: "stolon_b".into(),
            host: "10.0.0.1".into(),
            port: "5432".into(),
            user: "repl".into(),
            password: password.into(),
            tls: crate::tls::Tls::default(),
        }
    }

    #[test]
    fn parameters_are_quoted_and_files_written_once() {
        let mut configuration = Configuration {
            include_base: true,
            ..Configuration::default()
        };
        configuration
            .parameters
            .insert("log_line_prefix".into(), "it's %m".into());
        configuration
            .raw
            .insert("restore_command".into(), "cp ''a'' %p".into());
        assert_eq!(
            render_parameters(&configuration),
            "include 'postgresql-base.conf'\nlog_line_prefix = 'it''s %m'\nrestore_command = 'cp ''a'' %p'\n"
        );
        configuration.follow(&standby_with_password("a'\\"), "stolon_b");
        assert!(
            render_parameters(&configuration).contains("password=a\\\\''\\\\\\\\ port="),
            "{configuration:?}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let first = write(folder.path(), &configuration).expect("written");
        assert!(first.parameters && first.access_rules);
        let again = write(folder.path(), &configuration).expect("written");
        assert!(!again.parameters && !again.access_rules);
    }
}
