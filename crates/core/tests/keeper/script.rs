//! Commands that change a keeper's world, as words.

use stolon_core::keeper::facts::{Content, DbState};
use stolon_core::model::request::Request;
use stolon_core::model::spec::{AccessMode, StandbySettings};
use stolon_core::model::{
    BootUuid, Db, DbStatus, DbUid, FollowConfig, FollowType, Generation, GoDuration, InitMode,
    InstanceReport, Keeper, KeeperInfo, KeeperUid, List, Lsn, PostgresState, Role, TimelineId,
};

use stolon_core::time::Timestamp;

use crate::world::looks::switch;
use crate::world::{Data, Folder, Slot, THEM, US, World, system_id};

/// Carries out a command.
///
/// * `keeper` starts it; `kill keeper|postmaster|machine`
/// * `disk DB LSN [dirty] [standby] [second] [go] [hand] [bare] [unfinished] [nohints]` what is there: a db's
///   data, cleanly ended unless said, on the first timeline or the second; the Go program's or made by
///   hand say nothing of themselves; bare ones have no roles; unfinished ones are noted as being made
/// * `lose` what is there, but for the note of what it was
/// * `doc DB FIELD=VALUE …` gives our keeper a db or changes it; `none` takes it away
/// * `them FIELD=VALUE …` the neighbour's db, `d2`; `master DB` who the primary is; `primary DB TIMELINE` one
///   that was elected, and reported that timeline last
/// * `successor [DB]` proxies are to leave it, or nobody
/// * `sibling DB LSN [timeline=N] [dead] [follows=DB]` another standby, and what it reported last; `gone DB`
/// * `slot NAME LSN|lost` the instance has it, and keeps WAL from there on; `wal LSN` it has more WAL
/// * `oldest LSN` the oldest WAL that the neighbour has; `additional NAME,…` what it keeps for others
/// * `keep size=MEGABYTES|time=TIME` the settings on what slots may keep; `clock HH:MM:SS` the leader writes
///   the document at that time
/// * `cluster UID` another cluster takes the place of this one; `no-document`
/// * `set restart|sync=on|off` in the cluster's spec; `fault NAME on|off`; `peer DB BEHIND`; `no-peer DB`
/// * `ask restart|reload|resync KEEPER …` what an operator asks for; `forget` that they asked
/// * `reports fine|pending|sick|nothing` what the neighbour, which lives, publishes; `reports dead` what it
///   published, sick, before its keeper died
/// * `by scram|tls` how the superuser authenticates, and members connect, from the keeper's next start on;
///   `stored md5|scram` what the superuser's password is stored for
/// * `version MAJOR` the PostgreSQL that the next start of the keeper finds; `access all|strict` whom the
///   keeper's own access rules let in
/// * `outside LSN|follows` the server outside is on the third timeline, and left the others there; or is
///   followed
/// * `pending NAME …` parameters that PostgreSQL says wait for a restart
/// * `passwords` others are given, which stand in the configuration of a standby
/// * `restore N` the store goes back by so many revisions; `write-back N` only the document does
pub(crate) fn change(world: &mut World, words: &[&str]) {
    let (verb, rest) = words.split_first().expect("a command");
    match *verb {
        "keeper" => world.start_keeper(),
        "kill" => match rest[0] {
            "keeper" => world.kill_keeper(),
            "postmaster" => world.kill_postmaster(),
            "machine" => world.kill_machine(),
            other => panic!("nothing to kill: {other}"),
        },
        "disk" => disk(world, rest),
        "lose" => world.pgdata = Folder::default(),
        "doc" => document(world, rest[0], &rest[1..]),
        "none" => world.edit(|data| data.dbs.retain(|_, db| db.spec.keeper_uid != US.into())),
        "them" => them(world, rest),
        "primary" => world.edit(|data| {
            let db = data.dbs.entry(rest[0].into()).or_default();
            db.uid = rest[0].into();
            db.spec.keeper_uid = format!("keeper of {}", rest[0]).as_str().into();
            db.spec.role = Some(Role::Primary);
            db.status.timeline_id = TimelineId(rest[1].parse().expect("a number"));
        }),
        "master" => world.edit(|data| {
            let cluster = data.cluster.as_mut().expect("a cluster");
            cluster.status.master = Some(rest[0].into());
        }),
        "successor" => world.edit(|data| {
            let db = rest.first().map(|name| (*name).into());
            data.proxy.spec.successor_db_uid = db.unwrap_or_default();
        }),
        "cluster" => world.edit(|data| {
            data.cluster.as_mut().expect("a cluster").uid = rest[0].into();
            data.cluster.as_mut().expect("a cluster").status.master = None;
            data.dbs.clear();
            for keeper in data.keepers.values_mut() {
                keeper.status.boot_uuid = BootUuid::default();
            }
        }),
        "ask" => ask(world, rest),
        "forget" => world.requests.clear(),
        "reports" => reports(world, rest[0]),
        "sibling" => sibling(world, rest),
        "gone" => world.edit(|data| {
            data.dbs.remove(rest[0]);
        }),
        "slot" => {
            let slot = Slot {
                from: rest[1].parse().unwrap_or_default(),
                lost: rest[1] == "lost",
            };
            world.pgdata.data.slots.insert(rest[0].to_owned(), slot);
        }
        "wal" => world.pgdata.data.lsn = rest[0].parse().expect("a position"),
        "oldest" => world.edit(|data| {
            let them = data.dbs.get_mut("d2").expect("the neighbour");
            them.status.oldest_wal = Lsn(rest[0].parse().expect("a position"));
        }),
        "additional" => world.edit(|data| {
            let names = rest[0].split(',').map(str::to_owned);
            let them = data.dbs.get_mut("d2").expect("the neighbour");
            them.spec.additional_replication_slots = names.collect();
        }),
        "clock" => world.edit(|data| {
            let time = |text: &str| Timestamp::try_from(format!("2026-11-21T{text}Z"));
            data.change_time = time(rest[0]).expect("a time");
            for keeper in data.keepers.values_mut().filter(|k| k.status.healthy) {
                keeper.status.last_healthy_time = data.change_time;
            }
        }),
        "by" | "stored" => authentication(world, words),
        "keep" | "version" | "access" | "set" => setting(world, words),
        "outside" => world.faults.source_parted = rest[0].parse().ok(),
        "pending" => {
            let server = world.server.as_mut().expect("an instance");
            server.pending_restart = rest.iter().map(|&name| name.to_owned()).collect();
        }
        "passwords" => world.change_passwords(),
        "no-document" => world.store(None),
        "fault" => fault(world, rest[0], rest[1] == "on"),
        "peer" => {
            let name = DbUid::from(rest[0]).replication_name();
            let behind = rest[1].parse().expect("bytes");
            world.peers.insert(name, behind);
        }
        "no-peer" => {
            world.peers.remove(&DbUid::from(rest[0]).replication_name());
        }
        "restore" => {
            world.restore(rest[0].parse().expect("a number"));
        }
        "write-back" => {
            world.write_back(rest[0].parse().expect("a number"));
        }
        other => panic!("no such command: {other}"),
    }
}

fn authentication(world: &mut World, words: &[&str]) {
    match words {
        ["by", "scram"] => world.by_scram = true,
        ["by", "tls"] => world.requires_tls = true,
        ["stored", method] => {
            world.stored_for_md5 = (*method == "md5").then(|| "postgres".to_owned());
        }
        other => panic!("no such command: {other:?}"),
    }
}

fn ask(world: &mut World, words: &[&str]) {
    let held = world.state.as_ref().map(|state| state.uid.clone());
    world.requests.push(Request {
        id: format!("r{}", world.requests.len()).as_str().into(),
        kind: Some(words[0].to_owned().into()),
        keepers: words[1..].iter().map(|&keeper| keeper.into()).collect(),
        db_uid: held.unwrap_or_default(),
        ..Request::default()
    });
}

fn reports(world: &mut World, kind: &str) {
    world.edit(|data| {
        let keeper = data.keepers.get_mut(&KeeperUid::from(THEM)).expect("them");
        keeper.status.healthy = kind != "dead";
    });
    let db = world
        .data
        .as_ref()
        .and_then(|data| data.db_of(&THEM.into()));
    let state = PostgresState {
        uid: db.map(|db| db.uid.clone()).unwrap_or_default(),
        generation: db.map(|db| db.generation).unwrap_or_default(),
        healthy: !matches!(kind, "sick" | "dead"),
        instance: Some(InstanceReport {
            pending_restart: (kind == "pending")
                .then(|| "work".to_owned())
                .into_iter()
                .collect(),
            ..InstanceReport::default()
        }),
        ..PostgresState::default()
    };
    world.peer_infos = vec![KeeperInfo {
        uid: THEM.into(),
        postgres_state: (kind != "nothing").then_some(state),
        ..KeeperInfo::default()
    }];
}

fn fault(world: &mut World, name: &str, on: bool) {
    let faults = &mut world.faults;
    let fault = match name {
        "store" => &mut faults.store_down,
        "start" => &mut faults.start_dies,
        "copy" => &mut faults.copy_fails,
        "restore" => &mut faults.restore_fails,
        "source" => &mut faults.source_silent,
        "room" => &mut faults.no_room,
        "rewind" => &mut faults.rewind_fails,
        "wal-gone" => &mut faults.wal_gone,
        "rewind-refused" => &mut faults.rewind_refused,
        "silent" => &mut faults.silent,
        "slow" => &mut faults.slow,
        "saturated" => &mut faults.saturated,
        "taken" => &mut faults.taken,
        "disk-full" => &mut faults.disk_full,
        "unadmitted" => &mut faults.not_admitting,
        "slots" => &mut faults.slots_fail,
        other => panic!("no such fault: {other}"),
    };
    *fault = on;
}

fn disk(world: &mut World, words: &[&str]) {
    let (uid, says) = (DbUid::from(words[0]), |word| words.contains(&word));
    world.pgdata = Folder {
        content: Content::Cluster,
        // The Go program's data say nothing of themselves.
        identity: (!says("go") && !says("hand")).then(|| uid.clone()),
        whole: true,
        signal: says("standby"),
        recovery_signal: says("recovery"),
        of_other_cluster: says("other-cluster"),
        data: Data {
            owner: uid.clone(),
            system: system_id(),
            timeline: if says("second") { 2 } else { 1 },
            lsn: words[1].parse().expect("a position"),
            roles: !says("bare"),
            connections: 100,
            clean: !says("dirty"),
            no_hints: says("nohints"),
            ..Data::default()
        },
        ..Folder::default()
    };
    world.state = (!says("hand")).then(|| DbState {
        uid,
        generation: Generation::FIRST,
        initializing: says("unfinished"),
        ..DbState::default()
    });
}

fn names(value: &str) -> List<DbUid> {
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(DbUid::from).collect()
}

/// A setting of the cluster, or what is installed.
fn setting(world: &mut World, words: &[&str]) {
    let (verb, rest) = words.split_first().expect("a setting");
    match *verb {
        "keep" => {
            let time = |text: &str| text.parse::<GoDuration>().expect("a duration").to_std();
            match rest[0].split_once('=').expect("WHAT=HOW MUCH") {
                ("size", megabytes) => {
                    world.settings.max_slot_wal_keep_megabytes = megabytes.parse().ok();
                }
                ("time", text) => world.settings.max_slot_wal_keep_time = Some(time(text)),
                (other, _) => panic!("not kept: {other}"),
            }
        }
        "version" => world.postgres_major = rest[0].parse().expect("a number"),
        "access" => world.edit(|data| {
            let cluster = data.cluster.as_mut().expect("a cluster");
            let spec = cluster.spec.as_mut().expect("a spec");
            spec.default_su_repl_access_mode = Some(AccessMode::from(rest[0].to_owned()));
        }),
        "set" => world.edit(|data| {
            let spec = data
                .cluster
                .as_mut()
                .and_then(|cluster| cluster.spec.as_mut());
            let spec = spec.expect("a spec");
            match rest[0].split_once('=').expect("WHAT=on|off") {
                ("restart", value) => spec.automatic_pg_restart = Some(value == "on"),
                ("sync", value) => spec.synchronous_replication = Some(value == "on"),
                (other, _) => panic!("not set: {other}"),
            }
        }),
        other => panic!("no such setting: {other}"),
    }
}

/// Every change of a db raises its generation.
fn document(world: &mut World, uid: &str, words: &[&str]) {
    world.edit(|data| {
        let uid = DbUid::from(uid);
        data.keepers.entry(US.into()).or_default();
        let others = |_: &DbUid, db: &mut Db| db.spec.keeper_uid != US.into() || db.uid == uid;
        data.dbs.retain(others);
        let db = data.dbs.entry(uid.clone()).or_default();
        db.generation = db.generation.next();
        db.uid = uid;
        db.spec.keeper_uid = US.into();
        db.spec.max_standbys = 20;
        for word in words {
            field(db, word);
        }
        "10.0.0.1".clone_into(&mut db.status.listen_address);
    });
}

fn field(db: &mut Db, word: &str) {
    let (name, value) = word.split_once('=').expect("FIELD=VALUE");
    let spec = &mut db.spec;
    match name {
        "role" => {
            spec.role = Some(match value {
                "master" => Role::Primary,
                _ => Role::Standby,
            });
            if value == "master" {
                spec.follow_config = None;
            }
        }
        "init" => {
            spec.init_mode = Some(match value {
                "new" => InitMode::New,
                "resync" => InitMode::Resync,
                "existing" => InitMode::Existing,
                "pitr" => InitMode::Pitr,
                _ => InitMode::None,
            });
        }
        "rewind" => spec.use_pgrewind = value == "on",
        "command" => {
            let config = spec.pitr_config.get_or_insert_default();
            value.clone_into(&mut config.data_restore_command);
        }
        "target" => {
            let config = spec.pitr_config.get_or_insert_default();
            let target = config.recovery_target_settings.get_or_insert_default();
            value.clone_into(&mut target.recovery_target_name);
        }
        "outside" => {
            spec.follow_config = Some(FollowConfig {
                follow_type: Some(FollowType::External),
                standby_settings: Some(StandbySettings {
                    primary_conninfo: match value {
                        "" => String::new(),
                        value => format!("host={value}"),
                    },
                    ..StandbySettings::default()
                }),
                ..FollowConfig::default()
            });
        }
        "follow" => spec.follow_config = Some(FollowConfig::internal(value.into())),
        "followers" => spec.followers = names(value),
        "additional" => {
            spec.additional_replication_slots = value.split(',').map(str::to_owned).collect();
        }
        "sync" => {
            spec.synchronous_replication = true;
            spec.synchronous_standbys = names(value);
        }
        "param" => {
            let (name, value) = value.split_once(':').expect("NAME:VALUE");
            let parameters = &mut spec.pg_parameters;
            parameters.insert(name.to_owned(), value.to_owned());
        }
        "base" => spec.include_previous_config = value == "on",
        "hba" => spec.pg_hba = [value.replace('_', " ")].into_iter().collect(),
        "archive" => {
            let config = spec.pitr_config.get_or_insert_default();
            let archive = config.archive_recovery_settings.get_or_insert_default();
            value.clone_into(&mut archive.restore_command);
        }
        "generation" => db.generation = Generation(value.parse().expect("a number")),
        other => panic!("no such field: {other}"),
    }
}

/// Another standby, of the neighbour unless said.
fn sibling(world: &mut World, words: &[&str]) {
    let value = |name: &str| {
        let mut found = words.iter().filter_map(|word| word.split_once('='));
        found.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let keeper = format!("keeper of {}", words[0]);
    world.edit(|data| {
        let known = data.keepers.entry(keeper.as_str().into()).or_default();
        known.status.healthy = !words.contains(&"dead");
        let db = data.dbs.entry(words[0].into()).or_default();
        db.uid = words[0].into();
        db.spec.keeper_uid = keeper.as_str().into();
        db.spec.role = Some(Role::Standby);
        value("at")
            .unwrap_or_default()
            .clone_into(&mut db.status.listen_address);
        let source = value("follows").unwrap_or("d2");
        db.spec.follow_config = Some(FollowConfig::internal(source.into()));
        db.status.xlog_pos = Lsn(words[1].parse().expect("a position"));
        db.status.timeline_id =
            TimelineId(value("timeline").map_or(2, |number| number.parse().expect("a number")));
    });
}

/// The neighbour: a healthy primary on timeline 2, which it began at 3000.
fn them(world: &mut World, words: &[&str]) {
    let position = world.source_lsn;
    world.edit(|data| {
        data.keepers.insert(THEM.into(), Keeper::default());
        let db = data.dbs.entry("d2".into()).or_default();
        db.uid = "d2".into();
        db.spec.keeper_uid = THEM.into();
        db.generation = db.generation.next();
        db.spec.role = Some(Role::Primary);
        db.status = DbStatus {
            healthy: true,
            current_generation: db.generation,
            listen_address: "10.0.0.2".to_owned(),
            port: "5432".to_owned(),
            system_id: system_id(),
            timeline_id: TimelineId(2),
            xlog_pos: Lsn(position),
            timelines_history: vec![switch(1)],
            ..DbStatus::default()
        };
        for word in words {
            match word.split_once('=') {
                Some(("healthy", value)) => db.status.healthy = value == "yes",
                Some(("followers", value)) => db.spec.followers = names(value),
                Some(("port", value)) => value.clone_into(&mut db.status.port),
                Some(("removed", value)) => {
                    db.status.oldest_wal = Lsn(value.parse().expect("a position"));
                }
                Some(("role", _)) => db.spec.role = Some(Role::Standby),
                Some(("behind", _)) => db.status.current_generation = Generation::NONE,
                other => panic!("no such field: {other:?}"),
            }
        }
    });
}
