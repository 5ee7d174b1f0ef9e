//! What a keeper publishes of itself.

use super::decide::{Step, reported, unusable};
use super::facts::{Facts, Health, Observation, Process};
use super::sync::SyncTracker;
use super::trouble::with_trouble;
use super::{Document, Settings};
use crate::model::report::{FEATURE_EXT_SPEC, FEATURE_FLUSH_RULE, FEATURE_RELEASE, IMPLEMENTATION};
use crate::model::request::FEATURE_REQUESTS;
use crate::model::{
    Condition, Db, DbUid, Generation, InstanceReport, KeeperInfo, List, PeerReport, PostgresState,
    SlotReport, Unknown,
};

/// So many timeline switches a standby reports: those that the format keeps.
const STANDBY_SWITCHES: usize = 2;
/// So many a primary reports. A standby that was away for several failovers is judged by where the
/// primary left its timeline: were that not told, nobody would know whether it can follow, and it would
/// be neither elected nor copied anew for good.
const PRIMARY_SWITCHES: usize = 64;

/// The keeper and its instance as they are now; the publication has no name yet.
pub(super) fn report(
    settings: &Settings,
    facts: &Facts,
    sync: &SyncTracker,
    document: &Document,
    running: Option<&Step>,
) -> KeeperInfo {
    let cluster = document.data.cluster.as_ref();
    KeeperInfo {
        uid: settings.uid.clone(),
        cluster_uid: cluster
            .map(|cluster| cluster.uid.clone())
            .unwrap_or_default(),
        boot_uuid: settings.boot_uuid.clone(),
        postgres_binary_version: settings.postgres_version,
        postgres_state: state(settings, facts, sync, document, running),
        can_be_master: Some(settings.can_be_master),
        can_be_synchronous_replica: Some(settings.can_be_synchronous_replica),
        implementation: IMPLEMENTATION.to_owned(),
        version: settings.version.clone(),
        features: [
            FEATURE_EXT_SPEC,
            FEATURE_FLUSH_RULE,
            FEATURE_RELEASE,
            FEATURE_REQUESTS,
        ]
        .map(str::to_owned)
        .to_vec(),
        ..KeeperInfo::default()
    }
}

/// Whether two reports differ in what others act on, positions left aside.
pub(super) fn differs(before: &KeeperInfo, after: &KeeperInfo) -> bool {
    before != after && without_movement(before) != without_movement(after)
}

/// Adds how old what is told of the instance is; that of one that does not answer has no age.
pub(super) fn tell_age(info: &mut KeeperInfo, looked_ago: Option<std::time::Duration>) {
    let state = info.postgres_state.as_mut().filter(|state| state.healthy);
    if let Some(instance) = state.and_then(|state| state.instance.as_mut()) {
        let millis = looked_ago.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        instance.looked_ago_millis = millis;
    }
}

fn without_movement(info: &KeeperInfo) -> KeeperInfo {
    let mut info = info.clone();
    if let Some(state) = info.postgres_state.as_mut() {
        state.xlog_pos = crate::model::Lsn::UNKNOWN;
        state.older_wal_file.clear();
        if let Some(instance) = state.instance.as_mut() {
            instance.replay_lsn = crate::model::Lsn::UNKNOWN;
            instance.recovery.clear();
            instance.oldest_wal = crate::model::Lsn::UNKNOWN;
            instance.silent_seconds = None;
            instance.looked_ago_millis = None;
            instance.replay_age_seconds = None;
            instance.free_bytes = None;
            for slot in &mut instance.slots {
                slot.restart_lsn = crate::model::Lsn::UNKNOWN;
            }
            for peer in &mut instance.peers {
                peer.flush_lsn = crate::model::Lsn::UNKNOWN;
                peer.replay_lsn = crate::model::Lsn::UNKNOWN;
            }
        }
    }
    info
}

fn state(
    settings: &Settings,
    facts: &Facts,
    sync: &SyncTracker,
    document: &Document,
    running: Option<&Step>,
) -> Option<PostgresState> {
    let assigned = document.data.db_of(&settings.uid);
    let held = facts
        .disk
        .state
        .as_ref()
        .filter(|state| !state.initializing);
    // While another db's data are being made it is that db which is on its way, at no generation.
    let (uid, generation) = match (assigned, held) {
        (Some(db), Some(held)) if held.uid == db.uid => (held.uid.clone(), held.generation),
        (Some(db), _) => (db.uid.clone(), Generation::NONE),
        (None, Some(held)) => (held.uid.clone(), held.generation),
        (None, None) => return None,
    };
    let is_held = held.is_some_and(|held| held.uid == uid);
    let observation = match &facts.health {
        Health::Running(observation) | Health::Saturated(observation) => Some(observation),
        Health::Unknown | Health::Starting(_) | Health::Silent(_) => None,
    };
    let observation = observation.filter(|_| facts.process.is_running() && is_held);
    let mut state = PostgresState {
        uid,
        generation,
        listen_address: settings.advertise_address.clone(),
        port: settings.advertise_port.to_string(),
        healthy: observation.is_some(),
        ..PostgresState::default()
    };
    if let Some(observation) = observation {
        tell(&mut state, observation);
        let none = std::collections::BTreeMap::new();
        let asked = assigned.map_or(&none, |db| &db.spec.pg_parameters);
        state.pg_parameters = reported(&observation.parameters, asked);
    }
    // Of an instance at rest it is told how far it came, as long as somebody may mistake what it is.
    if let Some(control) = facts.disk.control.as_ref().filter(|_| is_held)
        && assigned.is_some_and(|db| db.generation < state.generation)
    {
        state.system_id.clone_from(&control.system_id);
        state.timeline_id = control.timeline;
    }
    if let Some(held) = held.filter(|held| held.uid == state.uid)
        && !held.init_parameters.is_empty()
    {
        state.pg_parameters.clone_from(&held.init_parameters);
    }
    if observation.is_some_and(|observation| !observation.in_recovery) {
        state.synchronous_standbys = sync.in_sync().iter().cloned().collect::<List<DbUid>>();
    }
    state.instance = Some(instance(
        facts,
        document,
        assigned,
        observation.map(|o| &**o),
        running,
    ));
    Some(state)
}

fn tell(state: &mut PostgresState, observation: &Observation) {
    state.system_id.clone_from(&observation.system_id);
    state.timeline_id = observation.timeline;
    state.xlog_pos = observation.flush_lsn;
    state
        .older_wal_file
        .clone_from(&observation.oldest_wal_file);
    let history = &observation.history;
    let most = if observation.in_recovery {
        STANDBY_SWITCHES
    } else {
        PRIMARY_SWITCHES
    };
    state.timelines_history = history
        .iter()
        .skip(history.len().saturating_sub(most))
        .cloned()
        .collect();
}

fn instance(
    facts: &Facts,
    document: &Document,
    assigned: Option<&Db>,
    observation: Option<&Observation>,
    running: Option<&Step>,
) -> InstanceReport {
    let (condition, reason) = condition(facts, running);
    let unusable = assigned.and_then(|db| unusable(facts, db));
    let data_unusable = unusable.unwrap_or_default();
    let mut report = InstanceReport {
        condition: Some(condition),
        reason: if reason.is_empty() {
            data_unusable.clone()
        } else {
            reason
        },
        released_at_revision: facts.released_at,
        data_unusable,
        ..InstanceReport::default()
    };
    let Some(observation) = observation else {
        recovery(&mut report, facts);
        return report;
    };
    report.in_recovery = Some(observation.in_recovery);
    report.replay_lsn = observation.replay_lsn;
    report.oldest_wal = observation.oldest_wal;
    report.free_bytes = observation.free_space;
    report.slots = slots(observation);
    report
        .pending_restart
        .clone_from(&observation.pending_restart);
    report
        .refused_parameters
        .clone_from(&observation.refused_parameters);
    if observation.in_recovery {
        report.streaming = Some(observation.streams_from.is_some());
        report.silent_seconds = observation.silent_for.map(|time| time.as_secs());
        report.replay_age_seconds = observation.replay_age.map(|time| time.as_secs());
        if observation.streams_from.is_none() {
            let parted = super::decide::parted(observation);
            report.stream_error = parted.unwrap_or_else(|| observation.stream_error.clone());
        }
    } else {
        let known = |name: &str| {
            DbUid::from_replication_name(name).filter(|uid| document.data.dbs.contains_key(uid))
        };
        report.peers = observation
            .peers
            .iter()
            .filter_map(|peer| {
                Some(PeerReport {
                    db_uid: known(&peer.name)?,
                    state: peer.state.clone(),
                    flush_lsn: peer.flush_lsn,
                    replay_lsn: peer.replay_lsn,
                    sync_state: peer.sync_state.clone(),
                    unknown: Unknown::new(),
                })
            })
            .collect();
    }
    report
}

/// How far data are that recover, and that are no db's yet.
fn recovery(report: &mut InstanceReport, facts: &Facts) {
    if let Health::Running(observation) = &facts.health
        && observation.in_recovery
        && facts.disk.recovery_signal
    {
        report.condition = Some(Condition::Initializing);
        report.replay_lsn = observation.replay_lsn;
        let until = &observation.replayed_until;
        report.recovery = format!("recovering, WAL replayed to {}", observation.replay_lsn);
        if !until.is_empty() {
            report.recovery = format!("{}, transactions until {until}", report.recovery);
        }
    }
}

fn slots(observation: &Observation) -> Vec<SlotReport> {
    let slots = observation.slots.iter();
    slots
        .map(|slot| SlotReport {
            name: slot.name.clone(),
            active: slot.active,
            restart_lsn: slot.restart_lsn,
            wal_status: slot.wal_status.clone(),
            unknown: Unknown::new(),
        })
        .collect()
}

fn condition(facts: &Facts, running: Option<&Step>) -> (Condition, String) {
    let error = facts.error.clone().unwrap_or_default();
    let doing = match running {
        Some(
            Step::Initialize { .. }
            | Step::Restore { .. }
            | Step::Copy { .. }
            | Step::Rewind { .. }
            | Step::FromOutside { rewind: true, .. }
            | Step::Swap { .. },
        ) => {
            return (Condition::Initializing, with_trouble(facts, &error));
        }
        Some(Step::FromOutside { .. }) if !facts.process.is_running() => {
            return (Condition::Initializing, with_trouble(facts, &error));
        }
        Some(Step::Stop { .. } | Step::KillAll) => Some(Condition::Stopping),
        _ => None,
    };
    let error = with_trouble(facts, &error);
    let (condition, reason) = match (&facts.process, &facts.health) {
        (Process::None | Process::Leftovers, _) => (Condition::Stopped, error),
        (_, Health::Running(seen)) if !seen.taken.is_empty() => (Condition::Saturated, error),
        (_, Health::Running(_)) => (Condition::Running, error),
        (_, Health::Saturated(_)) => (
            Condition::Saturated,
            "no connection left for the keeper".to_owned(),
        ),
        (_, Health::Unknown) => (Condition::Starting, error),
        (_, Health::Starting(why)) => (Condition::Starting, why.clone()),
        (_, Health::Silent(why)) => (Condition::Silent, why.clone()),
    };
    (doing.unwrap_or(condition), reason)
}
