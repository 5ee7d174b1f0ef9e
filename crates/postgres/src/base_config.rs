//! The configuration that data came with, kept below ours: the restored or taken over instance may
//! need some of it, and its operator may want to look at it.

use std::path::Path;

use crate::config_files::{ACCESS_RULES, AUTO_CONFIGURATION, BASE_CONFIGURATION, CONFIGURATION};
use crate::{Error, data_dir};

/// The access rules that data came with.
const BASE_ACCESS_RULES: &str = "pg_hba-base.conf";

/// Parameters that lead elsewhere, or belong to how the data were recovered before: in a base they
/// would be in force where ours say nothing of them.
pub(crate) const LEFT_OUT: &[&str] = &[
    "data_directory",
    "hba_file",
    "config_file",
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
    "trigger_file",
];

/// Makes the present configuration of `pgdata` the base of ours: `postgresql.conf` with what
/// `ALTER SYSTEM` wrote after it, and in place of an include of an older base that base itself. The
/// access rules are kept beside it, and not in force. What is done already is not done again, so that
/// a call that was broken off can be repeated.
pub fn take(pgdata: &Path) -> Result<(), Error> {
    let [ours, automatic, base, rules] = [
        CONFIGURATION,
        AUTO_CONFIGURATION,
        BASE_CONFIGURATION,
        ACCESS_RULES,
    ]
    .map(|name| pgdata.join(name));
    let older = read(&base)?.unwrap_or_default();
    let mut text = match read(&ours)? {
        Some(text) => base_of(&text, &older),
        None => older,
    };
    // It may be our link to the null device, which reads as nothing.
    if let Some(automatic) = read(&automatic)?.filter(|text| !text.trim().is_empty()) {
        text.push_str("\n# postgresql.auto.conf\n");
        text.push_str(&base_of(&automatic, ""));
    }
    data_dir::replace_file(&base, text.as_bytes())?;
    if let Some(rules) = read(&rules)? {
        data_dir::replace_file(&pgdata.join(BASE_ACCESS_RULES), rules.as_bytes())?;
    }
    // In this order a repetition finds again what is not in the base yet.
    data_dir::remove_file(&ours)?;
    data_dir::remove_file(&automatic)
}

/// The command by which data fetched WAL before [`take`] made it a comment, escaped for the file as it
/// stands there; none: there was none.
pub fn restore_command(pgdata: &Path) -> Result<Option<String>, Error> {
    let base = read(&pgdata.join(BASE_CONFIGURATION))?.unwrap_or_default();
    Ok(left_out(&base, "restore_command"))
}

/// The last value that a parameter had in lines that were left out of a base.
pub(crate) fn left_out(base: &str, parameter: &str) -> Option<String> {
    let lines = base.lines().rev();
    let lines = lines.filter_map(|line| line.strip_prefix("# "));
    let mut values = lines.filter_map(|line| {
        let (name, value) = name_and_value(line)?;
        name.eq_ignore_ascii_case(parameter)
            .then(|| text_of(value))
            .flatten()
    });
    values.next().filter(|value| !value.is_empty())
}

/// The value of a parameter without what follows it: in quotes, of which two, or one after a backslash,
/// are part of it; or a single word. None when PostgreSQL could not read it: between quotes in another
/// file it would not end there.
fn text_of(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('\'') else {
        let word = value.split([' ', '\t', '\r', '#']).next();
        return word
            .filter(|word| !word.contains(['\'', '\\']))
            .map(str::to_owned);
    };
    let mut text = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        let is_pair = letter == '\\' || (letter == '\'' && letters.peek() == Some(&'\''));
        if letter == '\'' && !is_pair {
            return Some(text);
        }
        text.push(letter);
        if is_pair {
            text.push(letters.next()?);
        }
    }
    None
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// A configuration as a base: the lines that must not be in force are comments.
pub(crate) fn base_of(text: &str, older: &str) -> String {
    let mut base = String::new();
    for line in text.lines() {
        if line.trim() == format!("include '{BASE_CONFIGURATION}'") {
            base.push_str(older);
        } else {
            let is_left_out = name_and_value(line).is_some_and(|(name, value)| {
                let name = name.to_ascii_lowercase();
                LEFT_OUT.contains(&name.as_str()) || is_minimal(&name, value)
            });
            if is_left_out {
                base.push_str("# ");
            }
            base.push_str(line);
        }
        base.push('\n');
    }
    base
}

/// Nobody can follow an instance that writes the least WAL.
fn is_minimal(name: &str, value: &str) -> bool {
    name == "wal_level" && value.trim_start_matches('\'').starts_with("minimal")
}

/// The two sides of a line that sets a parameter; the equals sign may be left out (PostgreSQL manual,
/// "Parameter Interaction via the Configuration File").
fn name_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    let (name, rest) = line.split_at_checked(end.unwrap_or(line.len()))?;
    let value = rest.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value).trim_start();
    (!name.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::{base_of, left_out, take};

    #[test]
    fn what_was_left_out_is_found_as_it_stands() {
        let base = "# restore_command = 'cp /old/%f %p'\n#restore_command = ''  # a sample\n\
                    # restore_command='it''s \\'x\\' %f' # now\n# restore_command_too = 'y'\n";
        let found = |name: &str, text: &str| left_out(text, name);
        let expected = Some("it''s \\'x\\' %f".to_owned());
        assert_eq!(found("restore_command", base), expected);
        assert_eq!(found("primary_conninfo", base), None);
        let single = found("restore_command", "# restore_command = false # never");
        assert_eq!(single.as_deref(), Some("false"));
        let none = "restore_command = 'in force'\n# restore_command = ''\n";
        assert_eq!(found("restore_command", none), None);
        for odd in ["'cp %f\\'", "'cp", "'a\\", "a'b"] {
            let odd = format!("# restore_command = {odd}");
            assert_eq!(found("restore_command", &odd), None, "{odd}");
        }
    }

    fn read(path: &std::path::Path) -> String {
        std::fs::read_to_string(path).expect("readable")
    }

    #[test]
    fn what_must_not_be_in_force_is_a_comment() {
        let text = "work_mem = 8MB\n  Recovery_Target_Time='now'\nhba_file '/etc/x'\n\
                    wal_level = 'minimal'\nwal_level = logical\n#port = 1\n";
        assert_eq!(
            base_of(text, ""),
            "work_mem = 8MB\n#   Recovery_Target_Time='now'\n# hba_file '/etc/x'\n\
             # wal_level = 'minimal'\nwal_level = logical\n#port = 1\n"
        );
    }

    #[test]
    fn the_present_configuration_is_the_base_and_nothing_of_it_is_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(file(name), text).expect("written");
        write("postgresql-base.conf", "a = 1\n");
        write("postgresql.conf", "include 'postgresql-base.conf'\nb = 2\n");
        write("postgresql.auto.conf", "c = 3\nprimary_conninfo = 'x'\n");
        write("pg_hba.conf", "local all all trust\n");
        take(folder.path()).expect("taken");
        let expected =
            "a = 1\n\nb = 2\n\n# postgresql.auto.conf\nc = 3\n# primary_conninfo = 'x'\n";
        assert_eq!(read(&file("postgresql-base.conf")), expected);
        assert_eq!(read(&file("pg_hba-base.conf")), "local all all trust\n");
        assert!(!file("postgresql.conf").exists() && !file("postgresql.auto.conf").exists());
        // Killed at its end, it is done again.
        take(folder.path()).expect("taken");
        assert_eq!(read(&file("postgresql-base.conf")), expected);
    }

    #[test]
    fn data_without_a_configuration_have_an_empty_base() {
        let folder = tempfile::tempdir().expect("a folder");
        take(folder.path()).expect("taken");
        assert_eq!(read(&folder.path().join("postgresql-base.conf")), "");
    }
}
