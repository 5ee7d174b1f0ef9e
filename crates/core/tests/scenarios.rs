//! Stories: what a sentinel decides while a cluster lives, as text.
//!
//! Each file under `scenarios/` is a list of commands with the output they are to give after
//! `----`. `REWRITE=1 cargo test -p stolon-core --test scenarios` writes the output that is; read
//! the difference before you commit it. Every document that is stored on the way keeps the
//! invariants; one that does not is told at the end as BROKEN. The commands are those of [`command`].

#[path = "support/world.rs"]
#[allow(
    dead_code,
    reason = "shared with the property tests, which use other parts"
)]
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stolon_core::model::{ClusterSpec, GoDuration};
use stolon_core::reason::Severity;
use world::World;

#[test]
fn every_story_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("stories")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    assert!(
        files.len() >= 10,
        "stories are missing: found {}",
        files.len()
    );
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a story");
        let told = tell(&written);
        if told == written {
            continue;
        }
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, told).expect("rewritten");
        } else {
            wrong.push(format!(
                "{}:\n{}",
                file.display(),
                difference(&written, &told)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn difference(written: &str, told: &str) -> String {
    let mut text = String::new();
    let (written, told): (Vec<_>, Vec<_>) = (written.lines().collect(), told.lines().collect());
    for index in 0..written.len().max(told.len()) {
        let (a, b) = (written.get(index), told.get(index));
        if a != b {
            let _ = writeln!(
                text,
                "line {}:\n  written {a:?}\n  told    {b:?}",
                index + 1
            );
            break;
        }
    }
    text
}

/// Runs the commands of a story and returns it with the output they gave.
fn tell(story: &str) -> String {
    let mut world: Option<World> = None;
    let mut told = String::new();
    let mut lines = story.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "----" {
            // The output written here before: up to the next empty line.
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
            continue;
        }
        let _ = writeln!(told, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let output = command(&mut world, line);
        if !output.is_empty() {
            let _ = write!(told, "----\n{output}");
            if lines
                .peek()
                .is_some_and(|next| !next.is_empty() && *next != "----")
            {
                told.push('\n');
            }
        }
    }
    let violations = world.map(|world| world.violations()).unwrap_or_default();
    for violation in violations {
        let _ = writeln!(told, "BROKEN {violation}");
    }
    told
}

/// Carries out one command and returns what it says: what was logged, and for `status` the state.
///
/// * `cluster FIELD=VALUE …` begins: `sync`, `min`, `max`, `lag`, `sleep`, `fail`, `senders`, …
/// * `keepers NAME …`, `proxies NAME …` start members; `go NAME` makes one a Go member
/// * `lead` the sentinel is elected; `new-sentinel` another one without memory takes its place, and
///   does not lead yet; `new-leader` the same, and it leads
/// * `pass TIME` time passes; `wal BYTES` the primary writes
/// * `kill|start|freeze|thaw|cut|heal|mute|unmute|sick|well|stuck|unstuck NAME` what happens to a member
/// * `half NAME BYTES` received so many bytes of a record that never came whole
/// * `lsn NAME BYTES` sets a position; `set FIELD=VALUE …` the operator changes the spec
/// * `fail NAME`, `remove NAME` the operator's commands; `store down|up`
/// * `promoted NAME COUNT` its instance went to a timeline so many numbers later by itself
/// * `release NAME` its keeper gives up a primary that went down
/// * `status` shows the state
fn command(world: &mut Option<World>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (verb, rest) = words.split_first().expect("a command");
    if *verb == "cluster" {
        *world = Some(World::new(spec(ClusterSpec::default(), rest)));
        return String::new();
    }
    let world = world.as_mut().expect("the story begins with cluster");
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
        "store" => world.store_up = rest[0] == "up",
        "set" => {
            let words: Vec<String> = rest.iter().map(|&word| word.to_owned()).collect();
            world.edit(|data| {
                let cluster = data.cluster.as_mut().expect("cluster");
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                cluster.spec = Some(spec(cluster.spec.clone().unwrap_or_default(), &words));
            });
        }
        "status" => return format!("{}\n", world.describe()),
        verb => member_command(world, verb, rest),
    }
    said(world)
}

fn member_command(world: &mut World, verb: &str, rest: &[&str]) {
    let name = rest[0];
    if let Some(proxy) = world.proxies.get_mut(name) {
        match verb {
            "kill" | "freeze" => proxy.alive = false,
            "start" | "thaw" => proxy.alive = true,
            "stuck" => proxy.stuck = true,
            "unstuck" => proxy.stuck = false,
            "go" => proxy.go = true,
            other => panic!("no such command for a proxy: {other}"),
        }
        return;
    }
    match verb {
        "fail" => world.edit(|data| {
            data.keepers
                .get_mut(name)
                .expect("keeper")
                .status
                .force_fail = true;
        }),
        "remove" => world.edit(|data| {
            let uid = name.into();
            let db = data.db_of(&uid).map(|db| db.uid.clone());
            data.keepers.remove(&uid);
            db.map(|db| data.dbs.remove(&db));
        }),
        "kill" => {
            let keeper = world.keeper(name);
            keeper.alive = false;
            keeper.boot += 1;
        }
        "freeze" => world.keeper(name).alive = false,
        "start" | "thaw" => world.keeper(name).alive = true,
        "cut" => world.keeper(name).cut = true,
        "heal" => world.keeper(name).cut = false,
        "mute" => world.keeper(name).mute = true,
        "unmute" => world.keeper(name).mute = false,
        "sick" => world.keeper(name).healthy = false,
        "well" => world.keeper(name).healthy = true,
        "stuck" => world.keeper(name).stuck = true,
        "unstuck" => world.keeper(name).stuck = false,
        "go" => world.keeper(name).go = true,
        "not-master" => world.keeper(name).can_be_master = false,
        "not-synchronous" => world.keeper(name).can_be_synchronous = false,
        "lose-data" => world.keeper(name).instance = None,
        "release" => {
            let revision = world.revision;
            let keeper = world.keeper(name);
            keeper.healthy = false;
            keeper.released_at = Some(revision);
        }
        "promoted" => {
            let by: u64 = rest[1].parse().expect("timelines");
            let instance = world.keeper(name).instance.as_mut();
            let instance = instance.expect("an instance");
            instance.history.push((instance.timeline, instance.lsn));
            instance.timeline += by;
        }
        "half" => {
            let instance = world.keeper(name).instance.as_mut();
            instance.expect("an instance").half = rest[1].parse().expect("bytes");
        }
        "lsn" => {
            let lsn = rest[1].parse().expect("bytes");
            world
                .keeper(name)
                .instance
                .as_mut()
                .expect("an instance")
                .lsn = lsn;
        }
        other => panic!("no such command: {other}"),
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
        spec.init_mode = Some(stolon_core::model::spec::ClusterInitMode::New);
        spec.sleep_interval = Some(Duration::from_secs(1).into());
        spec.fail_interval = Some(Duration::from_secs(4).into());
        spec.proxy_timeout = Some(Duration::from_secs(3).into());
        spec.proxy_check_interval = Some(Duration::from_secs(1).into());
    }
    for word in words {
        let (field, value) = word.split_once('=').expect("FIELD=VALUE");
        match field {
            "sync" => spec.synchronous_replication = Some(value == "on"),
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
