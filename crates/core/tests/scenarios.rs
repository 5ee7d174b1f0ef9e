//! Stories: what a sentinel decides while a cluster lives, as text.
//!
//! Each file under `scenarios/` is a story as `support/story.rs` reads it (`REWRITE=1 cargo test -p
//! stolon-core --test scenarios`). Every document that is stored on the way keeps the invariants, and is
//! what the plain twins decide; one that is not is told at the end as BROKEN. The commands are those of [`command`].

#[path = "support/story.rs"]
mod story;
#[path = "support/twins.rs"]
mod twins;
#[path = "support/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the property tests, which use other parts"
)]
mod world;

use std::fmt::Write as _;
use std::time::Duration;

use stolon_core::model::request::{Progress, ProgressState, Request};
use stolon_core::model::spec::{
    ClusterInitMode, ClusterRole, ExistingConfig, NewConfig, PitrConfig, StandbyConfig,
    StandbySettings,
};
use stolon_core::model::{ClusterSpec, GoDuration, List};
use stolon_core::reason::Severity;
use world::{InstanceModel, KeeperModel, ProxyModel, World};

#[test]
fn every_story_goes_as_written() {
    story::all_go_as_written("scenarios", 34, tell);
}

/// Tells a story, and what its decisions break.
fn tell(written: &str) -> String {
    let mut clusters = Vec::new();
    let mut told = story::tell(written, |line| command(&mut clusters, line));
    for world in clusters {
        let steps = world.steps.iter();
        let otherwise =
            steps.map(|step| twins::disagreements(&step.before, &step.view, &step.after));
        for violation in world.violations().into_iter().chain(otherwise.flatten()) {
            let _ = writeln!(told, "BROKEN {violation}");
        }
    }
    told
}

/// Carries out one command and returns what it says: what was logged, and for `status` the state.
///
/// * `cluster FIELD=VALUE …` begins: `sync`, `min`, `max`, `lag`, `sleep`, `fail`, `senders`, …
/// * `keepers NAME …`, `proxies NAME …` start members; `go NAME` makes one a Go member
/// * `lead` the sentinel is elected; `new-sentinel` another one without memory takes its place, and
///   does not lead yet; `new-leader` the same, and it leads
/// * `reads NAME` a proxy leads clients to standbys too
/// * `pass TIME` time passes; `wal BYTES` the primary writes
/// * `kill|start|freeze|thaw|cut|heal|mute|unmute|sick|well|stuck|unstuck NAME` what happens to a member
/// * `half NAME BYTES` received so many bytes of a record that never came whole
/// * `useless NAME WORD …` its instance is down and its data cannot be used, and why; `mended NAME` its
///   keeper has made them anew
/// * `removed NAME BYTES` has no WAL any more from before this position
/// * `lsn NAME BYTES` sets a position; `set FIELD=VALUE …` the operator changes the spec
/// * `without-keeper NAME` takes it out of the document and leaves its db; `duties NAME` gives its db, a
///   standby, what only a primary has
/// * `fail NAME`, `remove NAME` the operator's commands; `store down|readonly|up`
/// * `ask pause`, `ask resync NAME` an operator's request, which the keeper knows of; `resume` ends all
/// * `writable NAME` its instance is a primary, whatever the document says
/// * `promoted NAME COUNT` its instance went to a timeline so many numbers later by itself
/// * `data NAME LSN PARAMETER=VALUE …` what lies in its data directory and is no db of the cluster
/// * `parameters` shows those of the spec
/// * `release NAME` its keeper gives up a primary that went down
/// * `told NAME` shows what a db takes from the spec, `told-first` how the first db is to be made
/// * `status` shows the state, `refused` how many of the sentinel's documents the store did not take
fn command(clusters: &mut Vec<World>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (verb, rest) = words.split_first().expect("a command");
    if *verb == "cluster" {
        clusters.push(World::new(spec(ClusterSpec::default(), rest)));
        return String::new();
    }
    let world = clusters.last_mut();
    let world = world.expect("the story begins with cluster");
    match *verb {
        "keepers" => rest.iter().for_each(|name| world.add_keeper(name)),
        "proxies" => rest.iter().for_each(|name| world.add_proxy(name)),
        "lead" => world.lead(),
        "new-sentinel" => world.replace_sentinel(),
        "new-leader" => {
            world.replace_sentinel();
            world.lead();
        }
        "pass" => {
            let time: GoDuration = rest[0].parse().expect("a duration");
            world.pass(time.to_std());
        }
        "wal" => world.write_wal(rest[0].parse().expect("bytes")),
        "store" => {
            world.store_up = rest[0] != "down";
            world.store_writable = rest[0] == "up";
        }
        "set" => {
            let words: Vec<String> = rest.iter().map(|&word| word.to_owned()).collect();
            world.edit(|data| {
                let cluster = data.cluster.as_mut().expect("cluster");
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                cluster.spec = Some(spec(cluster.spec.clone().unwrap_or_default(), &words));
            });
        }
        "told" => return format!("{}\n", world.describe_told(rest[0])),
        "told-first" => return format!("{}\n", world.describe_first()),
        "remember" => world.remembered.clone_from(&world.data),
        "write-back" => {
            let then = world.remembered.clone().expect("what was remembered");
            world.edit(|data| *data = then);
        }
        "ask" => ask(world, rest),
        "resume" => world.requests.clear(),
        "refused" => return format!("{} documents were refused\n", world.refused_writes),
        "parameters" => {
            let spec = world.data().cluster.as_ref().and_then(|c| c.spec.as_ref());
            let parameters = spec.expect("a spec").pg_parameters.clone();
            let lines = parameters.into_iter().map(|(n, v)| format!("{n} = {v}\n"));
            return lines.collect();
        }
        "status" => return format!("{}\n", world.describe()),
        verb => member_command(world, verb, rest),
    }
    said(world)
}

fn ask(world: &mut World, rest: &[&str]) {
    let (kind, keeper) = (rest[0], rest.get(1).copied());
    let data = world.data.as_ref().expect("cluster data");
    let db = keeper.and_then(|keeper| data.db_of(&keeper.into()));
    let running = |keeper: &str| (keeper.into(), Progress::new(ProgressState::Known));
    world.requests.push(Request {
        id: format!("r{}", world.requests.len()).as_str().into(),
        kind: Some(kind.to_owned().into()),
        keepers: keeper.map(Into::into).into_iter().collect(),
        db_uid: db.map(|db| db.uid.clone()).unwrap_or_default(),
        asked_at: world::stamp(world.now),
        asked_by: "dba@host".to_owned(),
        progress: keeper.map(running).into_iter().collect(),
        ..Request::default()
    });
}

fn member_command(world: &mut World, verb: &str, rest: &[&str]) {
    let name = rest[0];
    if let Some(proxy) = world.proxies.get_mut(name) {
        return proxy_command(proxy, verb);
    }
    match verb {
        "fail" => world.edit(|data| {
            let keeper = data.keepers.get_mut(name).expect("keeper");
            keeper.status.force_fail = true;
        }),
        "without-keeper" => world.edit(|data| {
            data.keepers.remove(name);
        }),
        "duties" => world.edit(|data| {
            let uid = data.db_of(&name.into()).expect("a db").uid.clone();
            let db = data.dbs.get_mut(&uid).expect("a db");
            db.spec.followers = [uid.clone()].into_iter().collect();
            db.spec.synchronous_replication = true;
            db.spec.synchronous_standbys = [uid].into_iter().collect();
            db.spec.external_synchronous_standbys = ["other".to_owned()].into_iter().collect();
        }),
        "remove" => world.edit(|data| {
            let uid = name.into();
            let db = data.db_of(&uid).map(|db| db.uid.clone());
            data.keepers.remove(&uid);
            db.map(|db| data.dbs.remove(&db));
        }),
        "useless" => {
            let keeper = world.keeper(name);
            keeper.healthy = false;
            keeper.unusable = rest[1..].join(" ");
        }
        "mended" => {
            let keeper = world.keeper(name);
            keeper.healthy = true;
            keeper.unusable.clear();
        }
        "data" => world.keeper(name).found = Some(found(&rest[1..])),
        "release" => {
            let revision = world.revision;
            let keeper = world.keeper(name);
            keeper.healthy = false;
            keeper.released_at = Some(revision);
        }
        "writable" => {
            let instance = world.keeper(name).instance.as_mut();
            instance.expect("an instance").primary = true;
        }
        "promoted" | "lsn" | "half" | "removed" => {
            let number = rest[1].parse().expect("a number");
            let instance = world.keeper(name).instance.as_mut();
            instance_command(instance.expect("an instance"), verb, number);
        }
        verb => keeper_command(world.keeper(name), verb),
    }
}

/// Data that are no db of the cluster yet.
fn found(words: &[&str]) -> InstanceModel {
    let parameters = words[1..].iter().map(|word| {
        let (name, value) = word.split_once('=').expect("PARAMETER=VALUE");
        (name.to_owned(), value.to_owned())
    });
    InstanceModel {
        lsn: words[0].parse().expect("a position"),
        timeline: 1,
        parameters: parameters.collect(),
        ..InstanceModel::default()
    }
}

fn proxy_command(proxy: &mut ProxyModel, verb: &str) {
    match verb {
        "kill" | "freeze" => proxy.alive = false,
        "start" | "thaw" => proxy.alive = true,
        "stuck" => proxy.stuck = true,
        "unstuck" => proxy.stuck = false,
        "go" => proxy.go = true,
        "reads" => proxy.reads = true,
        other => panic!("no such command for a proxy: {other}"),
    }
}

fn keeper_command(keeper: &mut KeeperModel, verb: &str) {
    match verb {
        "kill" => {
            keeper.alive = false;
            keeper.boot += 1;
        }
        "freeze" => keeper.alive = false,
        "start" | "thaw" => keeper.alive = true,
        "cut" => keeper.cut = true,
        "heal" => keeper.cut = false,
        "mute" => keeper.mute = true,
        "unmute" => keeper.mute = false,
        "sick" => keeper.healthy = false,
        "well" => keeper.healthy = true,
        "stuck" => keeper.stuck = true,
        "unstuck" => keeper.stuck = false,
        "go" => keeper.go = true,
        "not-master" => keeper.can_be_master = false,
        "may-be-master" => keeper.can_be_master = true,
        "not-synchronous" => keeper.can_be_synchronous = false,
        "lose-data" => keeper.instance = None,
        other => panic!("no such command: {other}"),
    }
}

fn instance_command(instance: &mut InstanceModel, verb: &str, number: u64) {
    match verb {
        "lsn" => instance.lsn = number,
        "half" => instance.half = number,
        "removed" => instance.oldest_wal = number,
        _ => {
            instance.history.push((instance.timeline, instance.lsn));
            instance.timeline += number;
        }
    }
}

fn said(world: &mut World) -> String {
    let mut text = String::new();
    for reason in world
        .log
        .drain(..)
        .filter(|reason| reason.severity >= Severity::Info)
    {
        let _ = writeln!(text, "{:?} {}: {reason}", reason.severity, reason.code);
    }
    named(world, &text)
}

/// Writes keepers for db uids, which are chance.
fn named(world: &World, text: &str) -> String {
    let mut text = text.to_owned();
    let documents = world
        .steps
        .iter()
        .flat_map(|step| [&step.before, &step.after])
        .chain(world.data.as_ref());
    for data in documents {
        for (uid, db) in &data.dbs {
            text = text.replace(uid.as_str(), &format!("db-of-{}", db.spec.keeper_uid));
        }
    }
    text
}

fn spec(mut spec: ClusterSpec, words: &[&str]) -> ClusterSpec {
    let duration = |value: &str| Some(value.parse().expect("a duration"));
    if spec.init_mode.is_none() {
        spec.init_mode = Some(ClusterInitMode::New);
        spec.sleep_interval = Some(Duration::from_secs(1).into());
        spec.fail_interval = Some(Duration::from_secs(4).into());
        spec.proxy_timeout = Some(Duration::from_secs(3).into());
        spec.proxy_check_interval = Some(Duration::from_secs(1).into());
    }
    for word in words {
        let (field, value) = word.split_once('=').expect("FIELD=VALUE");
        match field {
            "mode" => spec.init_mode = Some(ClusterInitMode::from(value.to_owned())),
            "keeper" => {
                spec.existing_config = Some(ExistingConfig {
                    keeper_uid: value.into(),
                    ..ExistingConfig::default()
                });
            }
            "restore" => {
                spec.pitr_config = Some(PitrConfig {
                    data_restore_command: value.to_owned(),
                    ..PitrConfig::default()
                });
            }
            "role" => spec.role = Some(ClusterRole::from(value.to_owned())),
            "source" => {
                spec.standby_config = Some(StandbyConfig {
                    standby_settings: Some(StandbySettings {
                        primary_conninfo: format!("host={value}"),
                        ..StandbySettings::default()
                    }),
                    ..StandbyConfig::default()
                });
            }
            "locale" => {
                spec.new_config = Some(NewConfig {
                    locale: value.to_owned(),
                    ..NewConfig::default()
                });
            }
            "merge" => spec.merge_pg_parameters = Some(value == "on"),
            "sync" => spec.synchronous_replication = Some(value == "on"),
            "request" => spec.request_timeout = duration(value),
            "rewind" => spec.use_pgrewind = Some(value == "on"),
            "standbys" => spec.max_standbys = Some(value.parse().expect("a number")),
            "walsenders" => spec.additional_wal_senders = Some(value.parse().expect("a number")),
            "slots" => {
                let names = value.split(',').map(str::to_owned).collect();
                spec.additional_master_replication_slots = List(Some(names));
            }
            "hba" => spec.pg_hba = List(Some(vec![value.to_owned()])),
            "param" => {
                let (name, value) = value.split_once(':').expect("NAME:VALUE");
                spec.pg_parameters.insert(name.to_owned(), value.to_owned());
            }
            "min" => spec.min_synchronous_standbys = Some(value.parse().expect("a number")),
            "max" => spec.max_synchronous_standbys = Some(value.parse().expect("a number")),
            "lag" => spec.max_standby_lag = Some(value.parse().expect("bytes")),
            "senders" => spec.max_standbys_per_sender = Some(value.parse().expect("a number")),
            "sleep" => spec.sleep_interval = duration(value),
            "fail" => spec.fail_interval = duration(value),
            "convergence" => spec.convergence_timeout = duration(value),
            "init" => spec.init_timeout = duration(value),
            "copy" => spec.sync_timeout = duration(value),
            "forget" => spec.dead_keeper_removal_interval = duration(value),
            other => panic!("no such field: {other}"),
        }
    }
    spec
}
