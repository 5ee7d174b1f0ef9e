//! A server outside the cluster that a standby cluster follows, reached as its operator says: by libpq, so
//! that every way of connecting works that PostgreSQL knows, and with what PostgreSQL's own programs ask.

mod address;

use std::process::Stdio;
use std::time::Duration;

use stolon_core::model::{Lsn, TimelineId, TimelineSwitch};
use tokio::process::Command;

use crate::{Error, Installation, history};
use address::Address;

/// What separates the columns of an answer.
const SEPARATOR: char = '|';

/// How it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside(Address);

/// What it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its system identifier.
    pub system_id: String,
    /// Whether it is known to be writable.
    pub is_writable: bool,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// What it has flushed.
    pub flush_lsn: Lsn,
    /// The switches that led to its timeline, oldest first.
    pub history: Vec<TimelineSwitch>,
}

impl Outside {
    /// From `primary_conninfo` as it stands in a configuration file, between its quotes.
    pub fn from_setting(text: &str) -> Self {
        Self(Address::read(&address::unescaped(text)))
    }

    /// Has a program find the password where nobody else sees it.
    pub(crate) fn give_password(&self, command: &mut Command) {
        if let Some(password) = &self.0.password {
            command.env("PGPASSWORD", password);
        }
    }

    /// The connection string without the password, for a database or for replication.
    pub(crate) fn to_text(&self, more: &[(&str, &str)]) -> String {
        self.0.to_text(more)
    }
}

/// Asks the server for its place in history, over a connection for replication: that is all that its
/// operators are sure to allow.
///
/// # Errors
///
/// When it is not reached within `limit`, refuses, or says what is not understood.
pub async fn look(
    installation: &Installation,
    server: &Outside,
    limit: Duration,
) -> Result<State, Error> {
    let more = [("replication", "true")];
    // A server in recovery allows no other transactions (PostgreSQL manual, "Hot Standby").
    let questions = ["IDENTIFY_SYSTEM", "SHOW transaction_read_only"];
    let said = ask(installation, server, &more, &questions, limit).await?;
    let state = parse(&said).ok_or(Error::Malformed {
        what: "IDENTIFY_SYSTEM",
        text: said,
    })?;
    if state.timeline.0 <= 1 {
        return Ok(state);
    }
    let question = format!("TIMELINE_HISTORY {}", state.timeline);
    let said = ask(installation, server, &more, &[&question], limit).await?;
    let (_, text) = said.split_once(SEPARATOR).unwrap_or_default();
    let history = history::parse(text);
    if history.is_empty() {
        return Err(Error::Malformed {
            what: "TIMELINE_HISTORY",
            text: said,
        });
    }
    Ok(State { history, ..state })
}

/// Reads `7660000000000000001|2|0/3000148|` and `off`.
pub(crate) fn parse(said: &str) -> Option<State> {
    let mut lines = said.lines();
    let mut words = lines.next()?.split(SEPARATOR);
    let system_id = words.next()?.to_owned();
    let timeline = TimelineId(words.next()?.parse().ok()?);
    let flush_lsn = words.next()?.parse().ok()?;
    Some(State {
        system_id,
        is_writable: lines.next()? == "off",
        timeline,
        flush_lsn,
        history: Vec::new(),
    })
}

/// Asks by `psql`; what it printed: a row a line, without names.
pub(crate) async fn ask(
    installation: &Installation,
    server: &Outside,
    more: &[(&str, &str)],
    questions: &[&str],
    limit: Duration,
) -> Result<String, Error> {
    let mut command = installation.command("psql");
    server.give_password(&mut command);
    command
        .env("PGCONNECT_TIMEOUT", limit.as_secs().max(1).to_string())
        .args(["-X", "-w", "-q", "-A", "-t", "-F", &SEPARATOR.to_string()])
        .args(["-v", "ON_ERROR_STOP=1", "-d", &server.to_text(more)]);
    for question in questions {
        command.args(["-c", question]);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = "the server outside";
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output
        .map_err(|_| Error::NoAnswer { what, limit })?
        .map_err(Error::file("run", std::path::Path::new("psql")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let cause = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Query {
        what,
        cause,
        answered: false,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_answer_is_read() {
        let found = parse("766|12|1/A0|\noff\n").expect("an answer");
        assert_eq!((found.system_id.as_str(), found.timeline.0), ("766", 12));
        assert_eq!(found.flush_lsn.0, 0x1_0000_00A0);
        assert!(found.is_writable);
        assert!(!parse("766|12|1/A0|\non\n").expect("an answer").is_writable);
        assert_eq!(parse("766|12|1/A0|\n"), None);
        assert_eq!(parse("psql: error"), None);
    }
}
