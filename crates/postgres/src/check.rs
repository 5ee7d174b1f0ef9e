//! Asking PostgreSQL whether it takes a configuration, before it stands where a server reads it.
//!
//! A running server that is told to reload passes over a wrong value, and over the whole file where a
//! name is unknown; at its next start it refuses either (PostgreSQL manual, "Parameter Interaction
//! via the Configuration File").

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::config_files::{self, Configuration};
use crate::{Error, Installation, data_dir};

/// The file that is shown to PostgreSQL. It lies where it includes the same files as the real one.
const CANDIDATE: &str = "postgresql.conf.stolon-check";
/// How long it may take; it takes some hundredths of a second.
const LIMIT: Duration = Duration::from_secs(5);

/// Parameters of `configuration` that PostgreSQL does not take, with its reasons. It stops at a syntax
/// error, and after all unknown names: once what is named here is mended there may be more.
///
/// An error is also what it refuses for reasons that lie in none of the parameters.
pub async fn refused_parameters(
    installation: &Installation,
    pgdata: &Path,
    configuration: &Configuration,
) -> Result<BTreeMap<String, String>, Error> {
    let nameless = nameless(configuration);
    if !nameless.is_empty() {
        return Ok(nameless);
    }
    let candidate = pgdata.join(CANDIDATE);
    let text = config_files::render_parameters(configuration);
    data_dir::replace_file(&candidate, text.as_bytes())?;
    let mut command = installation.command("postgres");
    command
        .arg("-D")
        .arg(pgdata)
        .arg(format!("--config-file={}", candidate.display()))
        // What it says must be understood, and said, whatever the file has on that.
        .args(["-c", "lc_messages=C", "-c", "log_min_messages=warning"])
        .env_remove("LANGUAGE")
        // Any parameter: what is asked for is whether the file can be read.
        .args(["-C", "port"])
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    data_dir::remove_file(&candidate)?;
    let output = output.map_err(|_| Error::NoAnswer {
        what: "postgres -C",
        limit: LIMIT,
    })?;
    let output = output.map_err(Error::file("check", &candidate))?;
    if output.status.success() {
        return Ok(BTreeMap::new());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = complaints(&said, &candidate.display().to_string(), &text);
    if refused.is_empty() {
        return Err(Error::Program {
            program: "postgres -C".to_owned(),
            status: output.status.to_string(),
            output: said.trim().to_owned(),
        });
    }
    Ok(refused)
}

/// Parameters with names that PostgreSQL takes for none, which are not written at all.
fn nameless(configuration: &Configuration) -> BTreeMap<String, String> {
    let names = configuration.parameters.keys();
    names
        .filter(|name| !config_files::is_parameter(name))
        .map(|name| {
            (
                name.clone(),
                format!("{name:?} is not the name of a parameter"),
            )
        })
        .collect()
}

/// The parameters that are complained of in what `postgres` said of a file and of what it includes.
pub(crate) fn complaints(said: &str, file: &str, text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in said.lines() {
        if let Some((_, hint)) = line.split_once("HINT:  ") {
            let reason = last.as_ref().and_then(|name| found.get_mut(name));
            if let Some(reason) = reason {
                *reason = format!("{reason} ({})", hint.trim_end_matches('.'));
            }
            continue;
        }
        let Some((_, message)) = line.split_once("LOG:  ") else {
            continue;
        };
        last = named(message).or_else(|| at_line(message, file, text));
        if let Some(name) = &last {
            // Where the file lies is of no interest.
            let words = message.split_once(" in file ").map_or(message, |(w, _)| w);
            found.insert(name.clone(), words.to_owned());
        }
    }
    found
}

/// The name in `… parameter "NAME" …`.
fn named(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("parameter \"")?;
    let (name, _) = rest.split_once('"')?;
    Some(name.to_owned())
}

/// The parameter that is set in the line of `syntax error in file "…" line NUMBER, near token "…"`.
fn at_line(message: &str, file: &str, text: &str) -> Option<String> {
    let (_, rest) = message.split_once(&format!("\"{file}\" line "))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    let number: usize = rest.get(..digits.unwrap_or(rest.len()))?.parse().ok()?;
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let (name, _) = line.split_once(" = ")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn complaints_are_understood() {
        let said = "\
2026-11-21 12:34:08.410 UTC [2] LOG:  unrecognized configuration parameter \"foo\" in file \"/d/c\" line 1
2026-11-21 12:34:08.410 UTC [2] LOG:  invalid value for parameter \"wal_level\": \"x\"
2026-11-21 12:34:08.410 UTC [2] HINT:  Available values: minimal, replica, logical.
2026-11-21 12:34:08.410 UTC [2] LOG:  9 is outside the valid range for parameter \"port\" (1 .. 5)
2026-11-21 12:34:08.410 UTC [2] LOG:  syntax error in file \"/d/c\" line 2, near token \"b\"
2026-11-21 12:34:08.410 UTC [2] LOG:  syntax error in file \"/d/included\" line 1, near token \"b\"
2026-11-21 12:34:08.410 UTC [2] FATAL:  configuration file \"/d/c\" contains errors";
        let found = complaints(said, "/d/c", "foo = '1'\na b = '2'\n");
        let found: Vec<_> = found.iter().map(|(n, w)| format!("{n}: {w}")).collect();
        assert_eq!(
            found,
            [
                "a b: syntax error",
                "foo: unrecognized configuration parameter \"foo\"",
                "port: 9 is outside the valid range for parameter \"port\" (1 .. 5)",
                "wal_level: invalid value for parameter \"wal_level\": \"x\" (Available values: \
                 minimal, replica, logical)",
            ]
        );
    }
}
