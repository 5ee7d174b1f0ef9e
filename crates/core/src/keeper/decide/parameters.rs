//! What the configuration of an instance is to say (contract, section 5).

use std::collections::BTreeMap;

use super::{Follow, Situation, Start, Wanted, access};
use crate::model::db::PLACEHOLDER_STANDBY;
use crate::model::spec::PitrConfig;
use crate::model::{Db, DbSpec, DbUid, FollowConfig, InitMode};

/// Parameters that the keeper sets over the user's value, or that are part of how an instance
/// follows; they are left out of what it reports.
const MANAGED: &[&str] = &[
    "unix_socket_directories",
    "hot_standby",
    "listen_addresses",
    "port",
    "max_replication_slots",
    "max_wal_senders",
    "synchronous_standby_names",
    "wal_log_hints",
    "wal_keep_segments",
    "wal_keep_size",
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "recovery_min_apply_delay",
    "config_file",
    "hba_file",
    "data_directory",
];

/// Parameters that have another default here than PostgreSQL's, with the version they came with.
/// The user's value wins, and ours is not reported as theirs.
const OUR_DEFAULTS: &[(&str, &str, i64)] = &[
    // A standby that lost its source looks for it again soon.
    ("wal_retrieve_retry_interval", "500ms", 0),
    // A standby that has all tells so again soon: commits that wait since the synchronous set was
    // another one are released by its next word.
    ("wal_receiver_status_interval", "1s", 0),
    // A crashed instance is back in a fraction of a second: one call instead of opening and
    // flushing every file (PostgreSQL manual, "Error Handling").
    ("recovery_init_sync_method", "syncfs", 14),
];

/// What a slot may keep: by a setting of ours, unless the user names PostgreSQL's own.
const SLOT_LIMIT: &str = "max_slot_wal_keep_size";
/// The version it came with.
const SLOT_LIMIT_SINCE: i64 = 13;

/// Parameters that a hot standby must not have below its primary, with PostgreSQL's defaults
/// (PostgreSQL manual, "Hot Standby", "Administrator's Overview").
const LEAST_PARAMETERS: &[(&str, u64)] = &[
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// The parameters found in the configuration files, without those the user did not ask for.
pub(crate) fn reported(
    found: &BTreeMap<String, String>,
    asked: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let ours = |name: &String| {
        name == SLOT_LIMIT || OUR_DEFAULTS.iter().any(|(default, _, _)| default == name)
    };
    let keep = |name: &String| !ours(name) || asked.contains_key(name);
    found
        .iter()
        .filter(|(name, _)| keep(name))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

/// What an instance reads while it recovers, and never again.
const OF_RECOVERY: &[&str] = &[
    "restore_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
];

/// Whether a restart for the sake of a parameter would change anything that matters: not for what only
/// a recovery goes by that has ended, nor where `wal_log_hints` stays on that nobody asks for any more.
pub(crate) fn is_worth_a_restart(name: &str, in_recovery: bool, applied: Option<&Wanted>) -> bool {
    let is_past =
        name.starts_with("recovery_target") || (!in_recovery && OF_RECOVERY.contains(&name));
    let is_left = name == "wal_log_hints"
        && applied.is_some_and(|applied| !applied.parameters.contains_key(name));
    !is_past && !is_left
}

/// Whether a parameter is the keeper's to set.
pub fn is_managed(name: &str) -> bool {
    MANAGED.contains(&name) || name.starts_with("recovery_target")
}

/// `synchronous_standby_names`: every one of the list must flush a commit.
pub fn synchronous_standby_names(spec: &DbSpec) -> String {
    if !spec.synchronous_replication {
        return String::new();
    }
    let standbys = spec
        .synchronous_standbys
        .iter()
        .map(DbUid::replication_name);
    let names: Vec<String> = standbys
        .chain(spec.external_synchronous_standbys.iter().cloned())
        .collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => name.clone(),
        names => format!("{} ({})", names.len(), names.join(",")),
    }
}

/// The configuration of the primary.
pub(super) fn wanted_primary(situation: &Situation<'_>, db: &Db) -> Wanted {
    let mut parameters = common(situation, db);
    let names = synchronous_standby_names(&db.spec);
    parameters.insert("synchronous_standby_names".to_owned(), names);
    let open = situation.sync.is_open(&db.spec.synchronous_standbys);
    // A standby that is promoted by its start would keep its timeline: it starts as what it is, with
    // what a standby needs to start, and is promoted then.
    let start = if situation.facts.disk.standby_signal {
        if !situation.facts.process.is_running() {
            raise(&mut parameters, &situation.facts.least_parameters);
        }
        Start::Standby
    } else {
        Start::Primary
    };
    // Data that were a standby's may have had more in their archive than they have here: it is fetched
    // before they are promoted, and they go by nobody's archive afterwards.
    let is_taken_over = start == Start::Standby && db.spec.init_mode == Some(InitMode::Existing);
    let users = db.spec.pg_parameters.get("restore_command");
    if let Some(command) = users.filter(|_| is_taken_over) {
        parameters.insert("restore_command".to_owned(), command.clone());
    }
    Wanted {
        parameters,
        include_base: db.spec.include_previous_config,
        access_rules: access::rules(situation, db, open),
        own_archive: is_taken_over && users.is_none(),
        start,
        ..Wanted::default()
    }
}

/// The configuration of restored data that recover. Users stay out: they would read what is replaced
/// while they read.
pub(super) fn wanted_recovery(situation: &Situation<'_>, db: &Db) -> Wanted {
    let mut parameters = common(situation, db);
    let names = names_before_promotion(situation);
    parameters.insert("synchronous_standby_names".to_owned(), names);
    raise(&mut parameters, &situation.facts.least_parameters);
    let config = db.spec.pitr_config.clone().unwrap_or_default();
    Wanted {
        parameters,
        include_base: db.spec.include_previous_config,
        access_rules: access::rules(situation, db, false),
        recovery: recovery(&config, db.spec.pg_parameters.get("restore_command")),
        start: Start::Recovery,
        ..Wanted::default()
    }
}

/// The parameters of a recovery, as they are to be written. Without a `restore_command` PostgreSQL
/// refuses to recover; where there is none the backup has to hold the WAL that it needs.
fn recovery(config: &PitrConfig, users: Option<&String>) -> BTreeMap<String, String> {
    let archive = config.archive_recovery_settings.as_ref();
    let restore = archive.map(|archive| archive.restore_command.clone());
    let restore = restore.filter(|command| !command.is_empty());
    let users = users.map(|command| command.replace('\'', "''"));
    let restore = restore.or(users).unwrap_or_else(|| "false".to_owned());
    let target = config.recovery_target_settings.clone().unwrap_or_default();
    let targets = [
        ("recovery_target", target.recovery_target),
        ("recovery_target_lsn", target.recovery_target_lsn),
        ("recovery_target_name", target.recovery_target_name),
        ("recovery_target_time", target.recovery_target_time),
        ("recovery_target_xid", target.recovery_target_xid),
    ];
    let targets = targets.into_iter().filter(|(_, value)| !value.is_empty());
    let mut parameters: BTreeMap<String, String> = targets
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if !parameters.is_empty() {
        parameters.insert("recovery_target_action".to_owned(), "promote".to_owned());
    }
    let timeline = Some(target.recovery_target_timeline).filter(|text| !text.is_empty());
    let timeline = timeline.unwrap_or_else(|| "latest".to_owned());
    parameters.insert("recovery_target_timeline".to_owned(), timeline);
    parameters.insert("restore_command".to_owned(), restore);
    parameters
}

/// Backends wait for standbys once the checkpointer has noted that there are names, and a busy one
/// notes it late: there is one from before a promotion on (I2).
fn names_before_promotion(situation: &Situation<'_>) -> String {
    if situation.spec.synchronous_replication {
        PLACEHOLDER_STANDBY.to_owned()
    } else {
        String::new()
    }
}

/// The configuration of a standby.
pub(super) fn wanted_standby(situation: &Situation<'_>, db: &Db, follow: Follow) -> Wanted {
    let mut parameters = common(situation, db);
    let names = names_before_promotion(situation);
    parameters.insert("synchronous_standby_names".to_owned(), names);
    raise(&mut parameters, &situation.facts.least_parameters);
    if let Some(command) = db.spec.pg_parameters.get("restore_command") {
        parameters.insert("restore_command".to_owned(), command.clone());
    }
    Wanted {
        parameters,
        include_base: db.spec.include_previous_config,
        access_rules: access::rules(situation, db, true),
        follow: Some(follow),
        start: Start::Standby,
        ..Wanted::default()
    }
}

/// The configuration of a standby of a server outside the cluster. What its restore was told of the
/// archive holds where `standbyConfig` says nothing of one.
pub(super) fn wanted_external(situation: &Situation<'_>, db: &Db, follow: &FollowConfig) -> Wanted {
    let settings = follow.standby_settings.clone().unwrap_or_default();
    let restored = db.spec.pitr_config.as_ref();
    let restored = restored.and_then(|config| config.archive_recovery_settings.as_ref());
    let archives = [follow.archive_recovery_settings.as_ref(), restored];
    let mut commands = archives.into_iter().flatten().map(|a| &a.restore_command);
    let command = commands.find(|command| !command.is_empty());
    let said = [
        ("primary_conninfo", settings.primary_conninfo),
        ("primary_slot_name", settings.primary_slot_name),
        (
            "recovery_min_apply_delay",
            settings.recovery_min_apply_delay,
        ),
        ("restore_command", command.cloned().unwrap_or_default()),
        // Where the source goes to another timeline it is followed (scenario C11).
        ("recovery_target_timeline", "latest".to_owned()),
    ];
    let said = said.into_iter().filter(|(_, value)| !value.is_empty());
    let recovery: BTreeMap<_, _> = said.map(|(n, value)| (n.to_owned(), value)).collect();
    let mut parameters = common(situation, db);
    parameters.insert("synchronous_standby_names".to_owned(), String::new());
    raise(&mut parameters, &situation.facts.least_parameters);
    let users = db.spec.pg_parameters.get("restore_command");
    if let Some(users) = users.filter(|_| !recovery.contains_key("restore_command")) {
        parameters.insert("restore_command".to_owned(), users.clone());
    }
    Wanted {
        parameters,
        include_base: db.spec.include_previous_config,
        access_rules: access::rules(situation, db, true),
        recovery,
        start: Start::Standby,
        ..Wanted::default()
    }
}

/// Raises what is below what the primary had when it wrote the WAL: such a standby does not start, so
/// that it would never come to the WAL in which the primary has the lower value.
fn raise(parameters: &mut BTreeMap<String, String>, least: &BTreeMap<String, u64>) {
    for (name, default) in LEAST_PARAMETERS {
        let least = least.get(*name).copied().unwrap_or(0);
        let value = parameters
            .get(*name)
            .map_or(Ok(*default), |text| text.parse());
        if value.is_ok_and(|value: u64| value < least) {
            parameters.insert((*name).to_owned(), least.to_string());
        }
    }
}

fn common(situation: &Situation<'_>, db: &Db) -> BTreeMap<String, String> {
    let user = &db.spec.pg_parameters;
    let settings = situation.settings;
    let mut parameters: BTreeMap<String, String> = user
        .iter()
        .filter(|(name, _)| !is_managed(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let standbys = u32::from(db.spec.max_standbys);
    let senders = standbys
        .saturating_mul(2)
        .saturating_add(2)
        .saturating_add(u32::from(db.spec.additional_wal_senders));
    let mut set = |name: &str, value: String| {
        parameters.insert(name.to_owned(), value);
    };
    set("unix_socket_directories", settings.socket_folder.clone());
    set("hot_standby", "on".to_owned());
    set("listen_addresses", settings.listen_address.clone());
    set("port", settings.port.to_string());
    set("max_replication_slots", standbys.max(1).to_string());
    set("max_wal_senders", senders.to_string());
    let logical = user
        .get("wal_level")
        .is_some_and(|level| level == "logical");
    // Slots in data that are taken over may need what their own configuration says.
    let is_theirs = db.spec.include_previous_config
        && db.spec.init_mode != Some(InitMode::New)
        && !user.contains_key("wal_level");
    if !is_theirs {
        let level = if logical { "logical" } else { "replica" };
        set("wal_level", level.to_owned());
    }
    if db.spec.use_pgrewind {
        set("wal_log_hints", "on".to_owned());
    }
    if settings.postgres_version.major < 13 {
        let segments = user
            .get("wal_keep_segments")
            .and_then(|text| text.parse().ok());
        set(
            "wal_keep_segments",
            segments.unwrap_or(8_u32).max(8).to_string(),
        );
    } else {
        let size = user.get("wal_keep_size").cloned();
        set("wal_keep_size", size.unwrap_or_else(|| "128".to_owned()));
    }
    let limit = situation.document.settings.max_slot_wal_keep_megabytes;
    let limit = limit.filter(|_| settings.postgres_version.major >= SLOT_LIMIT_SINCE);
    if let Some(megabytes) = limit.filter(|_| !user.contains_key(SLOT_LIMIT)) {
        parameters.insert(SLOT_LIMIT.to_owned(), format!("{megabytes}MB"));
    }
    for (name, value, since) in OUR_DEFAULTS {
        if !user.contains_key(*name) && settings.postgres_version.major >= *since {
            parameters.insert((*name).to_owned(), (*value).to_owned());
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::{is_managed, reported, synchronous_standby_names};
    use crate::model::{DbSpec, DbUid};
    use std::collections::BTreeMap;

    #[test]
    fn our_defaults_are_told_only_where_they_were_asked_for() {
        let texts = |names: &[&str]| -> BTreeMap<String, String> {
            let text = |name: &&str| ((*name).to_owned(), "1".to_owned());
            names.iter().map(text).collect()
        };
        let found = texts(&["wal_retrieve_retry_interval", "work_mem"]);
        assert_eq!(reported(&found, &texts(&[])), texts(&["work_mem"]));
        assert_eq!(reported(&found, &found), found);
    }

    #[test]
    fn every_member_of_the_list_must_flush() {
        let check = |standbys: &[&str], external: &[&str], expected: &str| {
            let spec = DbSpec {
                synchronous_replication: true,
                synchronous_standbys: standbys.iter().map(|uid| DbUid::from(*uid)).collect(),
                external_synchronous_standbys: external.iter().map(|&s| s.to_owned()).collect(),
                ..DbSpec::default()
            };
            assert_eq!(synchronous_standby_names(&spec), expected);
        };
        check(&[], &[], "");
        check(&["a"], &[], "stolon_a");
        check(&["a", "b"], &[], "2 (stolon_a,stolon_b)");
        check(&[], &["stolonfakestandby"], "stolonfakestandby");
        check(
            &["a"],
            &["stolonfakestandby"],
            "2 (stolon_a,stolonfakestandby)",
        );
    }

    #[test]
    fn recovery_parameters_are_the_keepers() {
        assert!(is_managed("recovery_target_time") && is_managed("port"));
        assert!(!is_managed("wal_level") && !is_managed("work_mem"));
    }
}
