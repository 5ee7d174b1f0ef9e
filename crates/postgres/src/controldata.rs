//! What `pg_controldata` says of data at rest.

use std::collections::BTreeMap;
use std::path::Path;

use stolon_core::model::{Lsn, TimelineId};

use crate::{Error, Installation};

/// The state an instance was last in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Stopped cleanly as a primary.
    ShutDown,
    /// Stopped cleanly in recovery.
    ShutDownInRecovery,
    /// It runs, or was killed, as a primary.
    InProduction,
    /// It runs, or was killed, in recovery.
    InRecovery,
    /// Anything between.
    Other,
}

/// The parts of `pg_control` that decisions need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlData {
    /// The system identifier.
    pub system_id: String,
    /// The state it was last in.
    pub state: ClusterState,
    /// Whether its pages have checksums.
    pub checksums: bool,
    /// Whether it ran with `wal_log_hints` last.
    pub wal_log_hints: bool,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// How far recovery must go before the data are consistent.
    pub min_recovery: Lsn,
    /// The timeline of that point.
    pub min_recovery_timeline: TimelineId,
    /// The parameters of the primary that a hot standby must not be below, as far as its WAL was
    /// replayed: it does not start otherwise.
    pub least_parameters: BTreeMap<String, u64>,
}

/// Those parameters (PostgreSQL manual, "Hot Standby", "Administrator's Overview"), which
/// `pg_controldata` has as `max_connections setting: 100`.
const LEAST_PARAMETERS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_xacts",
    "max_locks_per_xact",
];

/// Reads the control data of `pgdata`.
pub async fn read(installation: &Installation, pgdata: &Path) -> Result<ControlData, Error> {
    let output = installation
        .command("pg_controldata")
        .env("LC_ALL", "C")
        .arg(pgdata)
        .output()
        .await
        .map_err(Error::file("run pg_controldata on", pgdata))?;
    if !output.status.success() {
        return Err(Error::Program {
            program: "pg_controldata".to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| Error::Malformed {
        what: "pg_controldata",
        text: text.into_owned(),
    })
}

/// Reads what the program prints in the C locale; none when a part that decisions need is missing.
pub(crate) fn parse(text: &str) -> Option<ControlData> {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == name).then(|| value.trim())
        })
    };
    let state = match value("Database cluster state")? {
        "shut down" => ClusterState::ShutDown,
        "shut down in recovery" => ClusterState::ShutDownInRecovery,
        "in production" => ClusterState::InProduction,
        "in archive recovery" => ClusterState::InRecovery,
        _ => ClusterState::Other,
    };
    let timeline = |name: &str| value(name)?.parse().ok().map(TimelineId);
    let least = |name: &&str| {
        let number = value(&format!("{name} setting"))?.parse().ok()?;
        // Two go by another name in the control data.
        let name = name
            .replace("_xacts", "_transactions")
            .replace("_xact", "_transaction");
        Some((name, number))
    };
    Some(ControlData {
        least_parameters: LEAST_PARAMETERS.iter().filter_map(least).collect(),
        system_id: value("Database system identifier")?.to_owned(),
        state,
        checksums: value("Data page checksum version").is_some_and(|version| version != "0"),
        wal_log_hints: value("wal_log_hints setting") == Some("on"),
        checkpoint: value("Latest checkpoint location")?.parse().ok()?,
        timeline: timeline("Latest checkpoint's TimeLineID")?,
        min_recovery: value("Minimum recovery ending location")?.parse().ok()?,
        min_recovery_timeline: timeline("Min recovery ending loc's timeline")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{ClusterState, parse};

    #[test]
    fn control_data_are_read() {
        let text = "pg_control version number:            1300\n\
            Database system identifier:           7275812345678901234\n\
            Database cluster state:               shut down in recovery\n\
            Latest checkpoint location:           0/3000110\n\
            Latest checkpoint's TimeLineID:       2\n\
            Minimum recovery ending location:     0/30001C0\n\
            Min recovery ending loc's timeline:   2\n\
            max_connections setting:              100\n\
            max_prepared_xacts setting:           0\n\
            max_locks_per_xact setting:           64\n\
            wal_log_hints setting:                on\n\
            Data page checksum version:           0\n";
        let data = parse(text).expect("control data");
        let least: Vec<_> = data
            .least_parameters
            .iter()
            .map(|(n, v)| (n.as_str(), *v))
            .collect();
        let expected = [
            ("max_connections", 100),
            ("max_locks_per_transaction", 64),
            ("max_prepared_transactions", 0),
        ];
        assert_eq!(least, expected);
        assert_eq!(data.system_id, "7275812345678901234");
        assert_eq!(data.state, ClusterState::ShutDownInRecovery);
        assert!(data.wal_log_hints && !data.checksums);
        assert_eq!(
            (data.checkpoint.0, data.timeline.0, data.min_recovery.0),
            (0x300_0110, 2, 0x300_01C0)
        );
        assert_eq!(parse("nonsense"), None);
    }
}
