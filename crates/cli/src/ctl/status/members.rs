//! What the status says of each member.

use serde_json::{Value, json};
use stolon_core::model::report::SlotReport;
use stolon_core::model::{ClusterData, Db, DbUid, InstanceReport, Lsn, PostgresState, Role};

use super::Picture;

/// Titles of the columns that are ours.
pub(super) const TITLES: [&str; 7] = [
    "ROLE",
    "TIMELINE",
    "LAG",
    "REPLAY LAG",
    "SYNC",
    "WAL KEPT",
    "STATE",
];

/// The columns that are ours.
pub(super) fn columns(picture: &Picture, data: &ClusterData, db: &Db) -> Vec<String> {
    let replication = Replication::of(picture, data, db);
    let lag = |lag: Option<Lag>| lag.map_or("-".to_owned(), |lag| lag.to_string());
    let kept = kept_for(picture, data, db);
    vec![
        role(data, db).to_owned(),
        db.status.timeline_id.to_string(),
        lag(replication.receive),
        lag(replication.replay),
        synchronous(data, db).to_owned(),
        kept.map_or("-".to_owned(), |kept| kept.to_string()),
        state(picture, data, db),
    ]
}

/// What a db is, in the field's words.
pub fn role(data: &ClusterData, db: &Db) -> &'static str {
    let is_clusters = data.primary().is_some_and(|primary| primary.uid == db.uid);
    match &db.spec.role {
        Some(Role::Primary) if is_clusters => "primary",
        Some(Role::Primary) => "deposed",
        Some(Role::Standby) => "standby",
        Some(Role::Unknown(_)) | None => "unknown",
    }
}

/// Whether a standby is in the synchronous set, and confirmed there.
pub fn synchronous(data: &ClusterData, db: &Db) -> &'static str {
    let Some(primary) = data.primary() else {
        return "-";
    };
    match (
        primary.spec.synchronous_standbys.contains(&db.uid),
        primary.status.synchronous_standbys.contains(&db.uid),
    ) {
        (true, true) => "sync",
        (true, false) => "joining",
        (false, _) => "-",
    }
}

/// Bytes a standby is behind the primary in what it has flushed, as last published.
pub fn lag(picture: &Picture, data: &ClusterData, db: &Db) -> Option<u64> {
    Replication::of(picture, data, db)
        .receive
        .map(|lag| lag.bytes)
}

/// How far a standby is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lag {
    bytes: u64,
    /// Unknown where nothing tells.
    seconds: Option<u64>,
}

impl std::fmt::Display for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seconds {
            Some(seconds) if seconds > 0 => write!(f, "{} {seconds}s", self.bytes),
            Some(_) | None => write!(f, "{}", self.bytes),
        }
    }
}

/// How a standby gets what the primary has.
#[derive(Debug, Default)]
struct Replication {
    receive: Option<Lag>,
    replay: Option<Lag>,
    /// None: of no standby, or nobody knows.
    replicating: Option<bool>,
    /// Why it does not.
    because: String,
}

impl Replication {
    fn of(picture: &Picture, data: &ClusterData, db: &Db) -> Self {
        let Some(primary) = data.primary().filter(|primary| primary.uid != db.uid) else {
            return Self::default();
        };
        let Some(own) = published(picture, &db.uid) else {
            return Self::default();
        };
        let instance = own.instance.as_ref();
        let source = published(picture, &primary.uid).filter(|source| source.healthy);
        let behind = |position: Lsn| {
            let source = source.filter(|_| own.healthy && position > Lsn::UNKNOWN)?;
            Some(source.xlog_pos.bytes_ahead_of(position))
        };
        let streaming = instance.and_then(|instance| instance.streaming);
        let silent = instance.and_then(|instance| instance.silent_seconds);
        let is_behind = behind(own.xlog_pos).is_some_and(|bytes| bytes > 0);
        // A link that was cut looks well to the standby for as long as wal_receiver_timeout.
        let patience = patience(data);
        let is_stalled = is_behind && silent.is_some_and(|seconds| seconds > patience);
        let seconds = silent.filter(|_| is_behind || streaming == Some(false));
        let age = instance.and_then(|instance| instance.replay_age_seconds);
        let time_of = |bytes: u64| if bytes == 0 { Some(0) } else { age };
        let replayed = instance.map_or(Lsn::UNKNOWN, |instance| instance.replay_lsn);
        Self {
            receive: behind(own.xlog_pos).map(|bytes| Lag {
                bytes,
                seconds: seconds.or((bytes == 0).then_some(0)),
            }),
            replay: behind(replayed).map(|bytes| Lag {
                bytes,
                seconds: time_of(bytes),
            }),
            replicating: streaming.map(|streams| streams && !is_stalled),
            because: match (streaming, is_stalled) {
                (Some(false), _) => why_not(instance),
                (_, true) => "the primary writes and nothing comes".to_owned(),
                _ => String::new(),
            },
        }
    }
}

fn why_not(instance: Option<&InstanceReport>) -> String {
    let error = instance.map_or("", |instance| instance.stream_error.as_str());
    if error.is_empty() {
        "its WAL receiver does not stream".to_owned()
    } else {
        error.to_owned()
    }
}

/// Seconds that nothing may come while the primary writes.
fn patience(data: &ClusterData) -> u64 {
    let spec = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.clone());
    let spec = spec.unwrap_or_default().effective();
    spec.sleep_interval.as_secs().saturating_mul(2).max(2)
}

/// What the keeper of a db published of it last.
fn published<'a>(picture: &'a Picture, db: &DbUid) -> Option<&'a PostgresState> {
    let mut states = picture.keepers.iter().filter_map(|info| {
        let state = info.postgres_state.as_ref();
        state.filter(|state| state.uid == *db)
    });
    states.next()
}

/// WAL that is kept for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    bytes: u64,
    wal_status: String,
}

impl Kept {
    fn of(state: &PostgresState, slot: &SlotReport) -> Self {
        let end = state
            .instance
            .as_ref()
            .filter(|instance| instance.in_recovery == Some(true));
        let end = end.map_or(state.xlog_pos, |instance| instance.replay_lsn);
        let keeps = slot.restart_lsn > Lsn::UNKNOWN;
        Self {
            bytes: if keeps {
                end.bytes_ahead_of(slot.restart_lsn)
            } else {
                0
            },
            wal_status: slot.wal_status.clone(),
        }
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.wal_status.as_str() {
            "lost" => f.write_str("lost"),
            "" | "reserved" => f.write_str(&size(self.bytes)),
            status => write!(f, "{} {status}", size(self.bytes)),
        }
    }
}

/// What the primary keeps for a standby.
fn kept_for(picture: &Picture, data: &ClusterData, db: &Db) -> Option<Kept> {
    let primary = data.primary().filter(|primary| primary.uid != db.uid)?;
    let state = published(picture, &primary.uid)?;
    let name = db.uid.replication_name();
    let slots = &state.instance.as_ref()?.slots;
    let slot = slots.iter().find(|slot| slot.name == name)?;
    Some(Kept::of(state, slot))
}

/// What its keeper says of an instance.
fn state(picture: &Picture, data: &ClusterData, db: &Db) -> String {
    let Some(state) = published(picture, &db.uid) else {
        return "(unknown)".to_owned();
    };
    let Some(instance) = &state.instance else {
        return "-".to_owned();
    };
    let condition = instance
        .condition
        .as_ref()
        .map_or("-", |condition| condition.as_str());
    let replication = Replication::of(picture, data, db);
    let mut text = match replication.replicating {
        Some(true) => "streaming".to_owned(),
        Some(false) => format!("{condition}, not streaming ({})", replication.because),
        None => condition.to_owned(),
    };
    if !instance.recovery.is_empty() {
        text = format!("{text}, {}", instance.recovery);
    }
    if !instance.pending_restart.is_empty() {
        let parameters = instance.pending_restart.join(" ");
        text = format!("{text}, restart pending for {parameters}");
    }
    if !instance.refused_parameters.is_empty() {
        let reasons = instance.refused_parameters.values();
        let reasons: Vec<&str> = reasons.map(String::as_str).collect();
        text = format!("{text}, parameters refused: {}", reasons.join("; "));
    }
    if let Some(warning) = fills_the_disk(state, instance) {
        text = format!("{text}, {warning}");
    }
    if !instance.reason.is_empty() {
        text = format!("{text}, {}", instance.reason);
    }
    text
}

/// Whether slots that nobody reads keep more than there is room left for.
fn fills_the_disk(state: &PostgresState, instance: &InstanceReport) -> Option<String> {
    let idle = instance.slots.iter().filter(|slot| !slot.active);
    let kept = idle.map(|slot| (Kept::of(state, slot).bytes, slot));
    let (bytes, slot) = kept.max_by_key(|(bytes, _)| *bytes)?;
    let free = instance.free_bytes?;
    (bytes > free).then(|| {
        let (kept, free) = (size(bytes), size(free));
        format!("slot {} keeps {kept} of WAL with {free} free", slot.name)
    })
}

/// A size for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The fields of a member with a db that are ours.
pub(super) fn add_json(value: &mut Value, picture: &Picture, data: &ClusterData, db: &Db) {
    let replication = Replication::of(picture, data, db);
    let (receive, replay) = (replication.receive, replication.replay);
    let kept = kept_for(picture, data, db);
    value["role"] = json!(role(data, db));
    value["timeline"] = json!(db.status.timeline_id);
    value["lag_bytes"] = json!(receive.map(|lag| lag.bytes));
    value["lag_seconds"] = json!(receive.and_then(|lag| lag.seconds));
    value["replay_lag_bytes"] = json!(replay.map(|lag| lag.bytes));
    value["replay_lag_seconds"] = json!(replay.and_then(|lag| lag.seconds));
    value["replicating"] = json!(replication.replicating);
    value["not_replicating_because"] = json!(replication.because);
    value["synchronous"] = json!(synchronous(data, db));
    value["wal_kept_bytes"] = json!(kept.as_ref().map(|kept| kept.bytes));
    value["wal_kept_status"] = json!(kept.map(|kept| kept.wal_status));
    value["state"] = json!(state(picture, data, db));
    value["db_uid"] = json!(db.uid);
    let state = published(picture, &db.uid);
    let Some((state, instance)) = state.zip(state.and_then(|state| state.instance.as_ref())) else {
        return;
    };
    value["pending_restart"] = json!(instance.pending_restart);
    value["refused_parameters"] = json!(instance.refused_parameters);
    value["last_error"] = json!(instance.reason);
    value["free_bytes"] = json!(instance.free_bytes);
    let slot = |slot: &SlotReport| {
        let kept = Kept::of(state, slot);
        json!({
            "name": slot.name, "active": slot.active,
            "wal_kept_bytes": kept.bytes, "wal_kept_status": kept.wal_status,
        })
    };
    value["slots"] = instance.slots.iter().map(slot).collect();
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0.0 kB"),
            (1536, "1.5 kB"),
            (16 << 20, "16.0 MB"),
            (5 << 40, "5.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
