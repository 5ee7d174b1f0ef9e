//! Talking to a running instance: one persistent superuser connection, every wait bounded.

mod access;
mod connect;
mod roles;
mod slots;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use stolon_core::model::{Lsn, TimelineId};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::Error;
use crate::tls::Tls;

/// How to reach an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A socket directory (absolute path), a host name or an address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password, when there is one.
    pub password: Option<String>,
    /// How the connection is secured; of no effect on a socket.
    pub tls: Tls,
}

/// An open connection.
///
/// Dropping it ends its task: the library's own handle does not.
#[derive(Debug)]
pub struct Session {
    client: Client,
    task: JoinHandle<()>,
    limit: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// What it has flushed: written itself, or received.
    pub flush_lsn: Lsn,
    /// Which places for connections are all taken, in words; empty: none.
    pub taken: String,
    /// What it has replayed; on a primary the same as flushed.
    pub replay_lsn: Lsn,
    /// The system identifier.
    pub system_id: String,
    /// `synchronous_standby_names` in force.
    pub synchronous_standby_names: String,
    /// Of a standby: the host and port its WAL receiver streams from.
    pub streams_from: Option<(String, String)>,
    /// Of a standby that streams: how long ago it last heard from its source.
    pub message_age: Option<Duration>,
    /// Of a standby: how old the last transaction is that it has replayed.
    pub replay_age: Option<Duration>,
    /// Of a primary: its standbys.
    pub peers: Vec<Peer>,
    /// Its replication slots.
    pub slots: Vec<Slot>,
    /// Parameters that wait for a restart.
    pub pending_restart: Vec<String>,
    /// The oldest file of its WAL, where files have the size that the Go program counts on.
    pub oldest_wal_file: String,
    /// Where that begins.
    pub oldest_wal: Lsn,
    /// `wal_segment_size`, in bytes.
    pub wal_segment: u64,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `application_name`.
    pub name: String,
    /// `state`.
    pub state: String,
    /// `flush_lsn`.
    pub flush_lsn: Lsn,
    /// `replay_lsn`.
    pub replay_lsn: Lsn,
    /// `sync_state`.
    pub sync_state: String,
}

/// A row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Whether it is a physical one.
    pub physical: bool,
    /// Whether somebody uses it now.
    pub active: bool,
    /// Whether it goes with its session.
    pub temporary: bool,
    /// `restart_lsn`.
    pub restart_lsn: Lsn,
    /// `wal_status`; empty before PostgreSQL 13.
    pub wal_status: String,
}

impl Session {
    /// Connects; all of it within `limit`, which also bounds every query.
    pub async fn connect(target: &Target, limit: Duration) -> Result<Self, Error> {
        let mut config = Config::new();
        if target.host.starts_with('/') {
            config.host_path(Path::new(&target.host));
        } else {
            config.host(&target.host);
        }
        config
            .port(target.port)
            .user(&target.user)
            .dbname("postgres");
        config.application_name("stolon-keeper");
        if let Some(password) = &target.password {
            config.password(password);
        }
        // The library's own limit covers only part of it.
        let connecting = tokio::time::timeout(limit, connect::open(config, target)).await;
        let (client, task) = connecting.map_err(|_| Error::NoAnswer {
            what: "connect",
            limit,
        })??;
        let session = Self {
            client,
            task,
            limit,
        };
        session.execute("prepare the session", PREPARE).await?;
        Ok(session)
    }

    /// Whether the connection is known to be over.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements for their effect.
    pub async fn execute(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.rows(what, sql).await.map(|_| ())
    }

    /// The first value of the first row of an answer.
    pub async fn value(&self, what: &'static str, sql: &str) -> Result<Option<String>, Error> {
        let rows = self.rows(what, sql).await?;
        Ok(rows.into_iter().flatten().flatten().next())
    }

    /// Runs a statement and returns its rows as text.
    pub async fn rows(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, Error> {
        let limit = self.limit;
        let answer = tokio::time::timeout(limit, self.client.simple_query(sql)).await;
        let messages = answer
            .map_err(|_| Error::NoAnswer { what, limit })?
            .map_err(|error| classify(what, &error))?;
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|index| row.get(index).map(str::to_owned))
                    .collect::<Vec<_>>(),
            ),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Asks for everything a keeper wants to know.
    pub async fn observe(&self) -> Result<Observation, Error> {
        let state = self.rows("observe", OBSERVE).await?;
        let row = state.first().ok_or(Error::Malformed {
            what: "observe",
            text: String::new(),
        })?;
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let in_recovery = text(0) == "t";
        let (received, replayed) = (lsn(&text(2)), lsn(&text(3)));
        let timeline = if in_recovery {
            text(5).parse()
        } else {
            u64::from_str_radix(&text(1), 16)
        };
        let mut observation = Observation {
            in_recovery,
            timeline: TimelineId(timeline.unwrap_or(0)),
            flush_lsn: received.max(replayed),
            replay_lsn: if in_recovery { replayed } else { received },
            system_id: text(4),
            synchronous_standby_names: text(6),
            streams_from: (!text(7).is_empty()).then(|| (text(7), text(8))),
            oldest_wal: Lsn::of_wal_file(&text(9), text(10).parse().unwrap_or(0)),
            wal_segment: text(10).parse().unwrap_or(0),
            message_age: seconds(&text(11)),
            replay_age: seconds(&text(12)),
            taken: taken([13, 14, 15, 16].map(|index| text(index).parse().ok())),
            ..Observation::default()
        };
        if text(10) == Lsn::WAL_FILE.to_string() {
            observation.oldest_wal_file = text(9);
        }
        for row in self.rows("standbys", PEERS).await? {
            let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            observation.peers.push(Peer {
                name: text(0),
                state: text(1),
                flush_lsn: lsn(&text(2)),
                replay_lsn: lsn(&text(3)),
                sync_state: text(4),
            });
        }
        observation.slots = self.slots().await?;
        for row in self.rows("pending restarts", PENDING).await? {
            observation
                .pending_restart
                .extend(row.into_iter().flatten());
        }
        Ok(observation)
    }

    /// The time of the last transaction that was replayed; empty: there was none.
    pub async fn replayed_until(&self) -> Result<String, Error> {
        let sql = "SELECT pg_last_xact_replay_timestamp()::text";
        let found = self.value("the replayed time", sql).await?;
        Ok(found.unwrap_or_default())
    }

    /// Begins the promotion of a standby, without waiting for its end.
    pub async fn promote(&self) -> Result<(), Error> {
        let sql = "SELECT pg_promote(false) WHERE pg_is_in_recovery()";
        self.execute("promote", sql).await
    }

    /// Writes a little WAL that means nothing, and flushes it.
    pub async fn stir(&self) -> Result<(), Error> {
        let sql = "SELECT pg_logical_emit_message(true, 'stolon', '')";
        self.execute("write to the WAL", sql).await
    }

    /// Writes a checkpoint, at once.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.execute("checkpoint", "CHECKPOINT").await
    }

    /// The parameters that the configuration files set, with their units.
    pub async fn parameters_from_files(&self) -> Result<BTreeMap<String, String>, Error> {
        let rows = self.rows("parameters", PARAMETERS).await?;
        let pair = |row: Vec<Option<String>>| {
            let mut words = row.into_iter();
            Some((words.next()??, words.next()?.unwrap_or_default()))
        };
        Ok(rows.into_iter().filter_map(pair).collect())
    }
}

/// What a session of the keeper must not depend on: its own small writes never wait for a standby,
/// nothing that users limit ends its queries, and no name of theirs stands before the system's.
const PREPARE: &str = "SET synchronous_commit = local;
    SET search_path = pg_catalog;
    SET default_transaction_read_only = off;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout',
        'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
        'transaction_timeout')";

// The control file learns of a new timeline only at the next restart point, and the WAL receiver
// tells it only while it is connected: a standby whose primary is lost would look as if it were still
// on the timeline before, with WAL past its end. The names of the segments it received tell.
const OBSERVE: &str = "SELECT pg_is_in_recovery(),
    CASE WHEN pg_is_in_recovery() THEN NULL
         ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
         ELSE pg_current_wal_flush_lsn() END,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END,
    (SELECT system_identifier FROM pg_control_system()),
    CASE WHEN pg_is_in_recovery() THEN greatest(
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
        coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
            (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_waldir()
             WHERE name ~ '^[0-9A-F]{24}$'))) END,
    current_setting('synchronous_standby_names'),
    (SELECT sender_host FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    (SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    (SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'
     ORDER BY substr(name, 9) COLLATE \"C\", name COLLATE \"C\" LIMIT 1),
    pg_size_bytes(current_setting('wal_segment_size')),
    (SELECT extract(epoch FROM clock_timestamp() - last_msg_receipt_time)
     FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    CASE WHEN pg_is_in_recovery()
         THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
    current_setting('max_wal_senders')::int";

/// Says which places are all taken, from how many users' connections there are and may be, and how many
/// WAL senders.
fn taken([users, most_users, senders, most_senders]: [Option<u32>; 4]) -> String {
    let mut words = Vec::new();
    if let (Some(_), Some(most)) = (users.filter(|users| Some(*users) >= most_users), most_users) {
        words.push(format!(
            "all {most} places for users' connections are taken"
        ));
    }
    let senders = senders.filter(|senders| *senders > 0 && Some(*senders) >= most_senders);
    if let (Some(_), Some(most)) = (senders, most_senders) {
        words.push(format!("all {most} WAL senders are taken"));
    }
    words.join(" and ")
}

const PEERS: &str = "SELECT application_name, state, flush_lsn, replay_lsn, sync_state
    FROM pg_stat_replication ORDER BY application_name, pid";

const PENDING: &str = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name";

const PARAMETERS: &str = "SELECT name, current_setting(name) FROM pg_settings
    WHERE source = 'configuration file' ORDER BY name";

/// A time in seconds; what clocks that differ make less than none is none.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or(Lsn::UNKNOWN)
}

/// A string literal (PostgreSQL manual, "String Constants").
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a failure of the library means for the instance.
fn classify(what: &'static str, error: &tokio_postgres::Error) -> Error {
    use std::error::Error as _;
    let cause = error.as_db_error().map_or_else(
        || match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
        |db| format!("{} ({})", db.message(), db.code().code()),
    );
    // The library's only word for a server that asks for a password where there is none to give.
    let asked = error
        .source()
        .is_some_and(|source| source.to_string() == "password missing");
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("53300") => Error::Saturated(cause),
        Some("57P03") => Error::NotAccepting(cause),
        Some("28000") => Error::Refused(cause),
        _ => Error::Query {
            what,
            cause,
            answered: asked || error.as_db_error().is_some(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{identifier, literal, taken};

    #[test]
    fn what_is_taken_is_said() {
        assert_eq!(taken([Some(16), Some(17), Some(2), Some(7)]), "");
        let users = "all 17 places for users' connections are taken";
        assert_eq!(taken([Some(19), Some(17), Some(2), Some(7)]), users);
        let senders = "all 7 WAL senders are taken";
        assert_eq!(taken([Some(1), Some(17), Some(7), Some(7)]), senders);
        assert_eq!(taken([None, None, None, None]), "");
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
