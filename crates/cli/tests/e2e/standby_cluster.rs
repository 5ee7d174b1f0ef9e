//! Clusters that follow a server outside.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cluster::{
    Cluster, Keeper, Plan, REPLICATION_PASSWORD, REPLICATION_USER, SUPERUSER, Store,
};
use crate::harness::process::{self, Process, Surroundings, give};
use crate::harness::writer::Address;
use crate::harness::{LIMIT, eventually, free_port, stays, within};

/// Waits until an instance has the rows that there are.
#[track_caller]
fn has_rows(keeper: &Keeper, rows: usize) {
    within(2 * LIMIT, "the rows of the source are there", || {
        let found = keeper
            .direct
            .query("SELECT count(*)::text FROM source")
            .ok()?;
        (found == [rows.to_string()]).then_some(())
    });
}

/// A standby cluster that begins with the backup in that folder.
fn from_backup(base: &Path) -> Plan {
    let restore = format!("cp -a {}/. %d", base.display());
    Plan::new(Store::Sqlite)
        .with("initMode", json!("pitr"))
        .with("role", json!("standby"))
        .with("pitrConfig", json!({"dataRestoreCommand": restore}))
}

/// Which port an instance streams from.
fn streams_from(keeper: &Keeper) -> Option<String> {
    let sql = "SELECT sender_port::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    keeper.direct.query(sql).ok()?.pop()
}

/// A standby cluster is restored from a backup of another cluster's primary and follows it through a
/// slot of its own; rows come to all its members, and clients read them through its proxy. Its first
/// instance is lost and another one follows the source; it comes back. The cluster is promoted, and
/// is written to.
#[test]
fn a_standby_cluster_follows_fails_over_and_is_promoted() {
    let folder = tempfile::tempdir().expect("a folder");
    give(folder.path());
    let slots = json!(["outside"]);
    let plan = Plan::new(Store::Sqlite)
        .keepers(1)
        .with("additionalMasterReplicationSlots", slots);
    let source = Cluster::start(&plan);
    let primary = &source.keepers[0];
    let ask = |sql: &str| primary.direct.query(sql).expect(sql);
    ask("CREATE TABLE source (id serial)");
    ask("INSERT INTO source DEFAULT VALUES");
    let base = folder.path().join("base");
    primary.copy_to(&base, &["-X", "stream"]);
    let plan = from_backup(&base).keepers(2).with(
        "standbyConfig",
        json!({"standbySettings": {
            "primaryConninfo": primary.replication_conninfo(),
            "primarySlotName": "stolon_outside"
        }}),
    );
    let mut cluster = Cluster::begin(&plan);
    ask("INSERT INTO source DEFAULT VALUES");
    for keeper in &cluster.keepers {
        has_rows(keeper, 2);
    }
    let first = cluster.primary();
    let source_port = primary.direct.port.to_string();
    let port_of =
        |cluster: &Cluster, keeper: usize| cluster.keepers[keeper].direct.port.to_string();
    let follows_outside = |cluster: &Cluster, first: usize| {
        let (outside, inside) = (&cluster.keepers[first], &cluster.keepers[1 - first]);
        eventually("one follows the source and the other one that", || {
            let seen = (streams_from(outside)?, streams_from(inside)?);
            (seen == (source_port.clone(), port_of(cluster, first))).then_some(())
        });
    };
    follows_outside(&cluster, first);
    let slot = "SELECT active::text FROM pg_replication_slots WHERE slot_name = 'stolon_outside'";
    assert_eq!(ask(slot), ["true"]);
    // Clients read through the proxy, and cannot write.
    let through_proxy = || cluster.address().query("SELECT count(*)::text FROM source");
    eventually("the proxy leads to it", || {
        (through_proxy().ok()? == ["2"]).then_some(())
    });
    let refused = cluster.address().query("INSERT INTO source DEFAULT VALUES");
    assert!(refused.is_err_and(|error| error.contains("read-only")));

    cluster.keepers[first].kill();
    let second = cluster.another_primary_than(first);
    ask("INSERT INTO source DEFAULT VALUES");
    has_rows(&cluster.keepers[second], 3);
    cluster.keepers[first].daemon.start();
    has_rows(&cluster.keepers[first], 3);
    follows_outside(&cluster, second);

    cluster.ctl(&["promote", "-y"]);
    cluster.is_whole();
    assert_eq!(cluster.primary(), second, "the promotion moved the cluster");
    cluster.writer().goes_on();
    let own = cluster.keepers[second]
        .direct
        .query("INSERT INTO source DEFAULT VALUES");
    own.expect("it is writable");
    has_rows(&cluster.keepers[first], 4);
    has_rows(primary, 3);
}

/// A standby cluster that is fed by an archive alone: what is archived comes, after the delay that was asked
/// for. Promoted, it has all of that, and is written to.
#[test]
fn a_standby_cluster_is_fed_by_an_archive() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("archive");
    std::fs::create_dir(&archive).expect("a folder");
    give(folder.path());
    give(&archive);
    let archive = archive.display();
    let command = format!("cp %p {archive}/%f");
    let source = Cluster::start(&Plan::new(Store::Sqlite).keepers(1).with(
        "pgParameters",
        json!({"archive_mode": "on", "archive_command": command}),
    ));
    let primary = &source.keepers[0];
    let ask = |sql: &str| primary.direct.query(sql).expect(sql);
    let insert = || {
        ask("INSERT INTO source DEFAULT VALUES");
        let segment = ask("SELECT pg_walfile_name(pg_switch_wal())").remove(0);
        eventually("it is archived", || {
            folder
                .path()
                .join("archive")
                .join(&segment)
                .exists()
                .then_some(())
        });
    };
    ask("CREATE TABLE source (id serial)");
    insert();
    let base = folder.path().join("base");
    primary.copy_to(&base, &["-X", "stream"]);
    let settings = |delay: &str| {
        json!({
            "standbySettings": {"recoveryMinApplyDelay": delay},
            "archiveRecoverySettings": {"restoreCommand": format!("cp {archive}/%f %p")}
        })
    };
    let plan = from_backup(&base)
        .keepers(1)
        .with("standbyConfig", settings("0"));
    let cluster = Cluster::begin(&plan);
    let member = &cluster.keepers[0];
    insert();
    has_rows(member, 2);

    let delayed = |delay: &str| {
        let patch = json!({"standbyConfig": settings(delay)}).to_string();
        cluster.ctl(&["update", "-p", &patch]);
        eventually("the delay is in force", || {
            let seen = member.direct.query("SHOW recovery_min_apply_delay").ok()?;
            (seen == [delay]).then_some(())
        });
    };
    delayed("1h");
    insert();
    stays(Duration::from_secs(3), "the row waits", || {
        let found = member.direct.query("SELECT count(*)::text FROM source");
        found.is_ok_and(|found| found == ["2"])
    });
    delayed("0");
    has_rows(member, 3);

    cluster.ctl(&["promote", "-y"]);
    cluster.is_whole();
    cluster.writer().goes_on();
    has_rows(member, 3);
    has_rows(primary, 3);
}

/// B9: the only instance of a standby cluster comes back with an empty disk. Its source has all that it had: it
/// is copied from there, not while the cluster is paused, and not from a server of another database system.
/// As its own master the cluster has data that nobody else has, and nothing takes their place.
#[test]
fn a_standby_cluster_of_one_that_lost_its_data_has_them_from_its_source() {
    let folder = tempfile::tempdir().expect("a folder");
    give(folder.path());
    let other = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let source = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let primary = &source.keepers[0];
    let insert = || {
        let sql = "INSERT INTO source DEFAULT VALUES";
        primary.direct.query(sql).expect(sql);
    };
    let sql = "CREATE TABLE source (id serial)";
    primary.direct.query(sql).expect(sql);
    insert();
    let base = folder.path().join("base");
    primary.copy_to(&base, &["-X", "stream"]);
    let follow = |server: &Keeper| json!({"standbySettings": {"primaryConninfo": server.replication_conninfo()}});
    let plan = from_backup(&base)
        .keepers(1)
        .with("standbyConfig", follow(primary));
    let mut cluster = Cluster::begin(&plan);
    has_rows(&cluster.keepers[0], 1);
    let comes_back_without_data = |cluster: &mut Cluster| {
        cluster.keepers[0].kill();
        cluster.keepers[0].lose_data();
        cluster.keepers[0].daemon.start();
    };
    let says = |cluster: &Cluster, what: &str| {
        eventually(what, || {
            let said = cluster.keepers[0].daemon.said();
            said.contains(what).then_some(())
        });
    };

    eventually("the cluster has begun", || {
        let said = cluster.sentinels[0].said();
        said.contains("the cluster is initialised").then_some(())
    });
    cluster.ctl(&["pause"]);
    insert();
    comes_back_without_data(&mut cluster);
    says(&cluster, "not copied now, since the cluster is paused");
    let to = |server: &Keeper| json!({"standbyConfig": follow(server)}).to_string();
    cluster.ctl(&["update", "--patch", &to(&other.keepers[0])]);
    cluster.ctl(&["resume"]);
    says(&cluster, "is of the database system");
    assert!(!cluster.keepers[0].pgdata.exists());
    cluster.ctl(&["update", "--patch", &to(primary)]);
    has_rows(&cluster.keepers[0], 2);
    insert();
    has_rows(&cluster.keepers[0], 3);
    let port = primary.direct.port.to_string();
    eventually("it streams from its source", || {
        (streams_from(&cluster.keepers[0])? == port).then_some(())
    });

    cluster.ctl(&["promote", "-y"]);
    cluster.writer().goes_on();
    comes_back_without_data(&mut cluster);
    says(&cluster, "the data of the primary are gone");
    stays(Duration::from_secs(5), "nothing is made", || {
        !cluster.keepers[0].pgdata.exists()
    });
}

/// A server that nobody manages: a copy of another one, promoted.
struct Fork {
    process: Process,
    address: Address,
}

impl Fork {
    /// Copies the server at `source`, and promotes the copy.
    fn of(source: &Address, folder: &Path, name: &str) -> Self {
        // Not among the data, which pg_rewind reads.
        let (sockets, folder) = (folder, folder.join(name));
        let port = source.port.to_string();
        run_program(
            "pg_basebackup",
            &[
                "-h",
                "127.0.0.1",
                "-U",
                &source.user,
                "-p",
                &port,
                "-c",
                "fast",
                "-D",
            ],
            &folder,
        );
        let signal = folder.join("standby.signal");
        std::fs::write(&signal, "").expect("written");
        give(&signal);
        let address = Address {
            port: free_port(),
            ..source.clone()
        };
        let mut command = process::command(
            &process::postgres_program("postgres"),
            &Surroundings::default(),
        );
        command.arg("-D").arg(&folder).args([
            "-c",
            &format!("port={}", address.port),
            "-c",
            "primary_conninfo=",
            "-c",
            "primary_slot_name=",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &format!("unix_socket_directories={}", sockets.display()),
        ]);
        let process = Process::start(name, command, &folder.with_extension("log"));
        eventually("it can be promoted", || {
            address.query("SELECT pg_promote(false)").ok()
        });
        let sql = "SELECT pg_is_in_recovery()::text";
        eventually("it is promoted", || {
            (address.query(sql).ok()? == ["false"]).then_some(())
        });
        Self { process, address }
    }

    /// How a standby connects to it.
    fn conninfo(&self, user: (&str, &str)) -> String {
        format!(
            "host=127.0.0.1 port={} user={} password=''{}''",
            self.address.port, user.0, user.1
        )
    }
}

#[track_caller]
fn run_program(name: &str, words: &[&str], folder: &Path) {
    let program = process::postgres_program(name);
    let mut command = process::command(&program, &Surroundings::default());
    command.env("PGPASSWORD", SUPERUSER.1);
    let output = command.args(words).arg(folder).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
}

/// C11, C3: twice the source is replaced by one that lacks what the standby cluster has already. A single
/// instance is rewound; of two the first is copied while it is read, and the other one follows suit. A
/// source that is merely gone costs nobody anything.
#[test]
fn a_standby_cluster_goes_back_to_what_its_new_source_has() {
    let folder = tempfile::tempdir().expect("a folder");
    give(folder.path());
    let checksums = json!({"dataChecksums": true});
    let superuser = format!("host replication {} 127.0.0.1/32 md5", SUPERUSER.0);
    let plan = Plan::new(Store::Sqlite)
        .keepers(1)
        .with("pgHBA", json!(["host all all 127.0.0.1/32 md5", superuser]))
        .with("newConfig", checksums);
    let source = Cluster::start(&plan);
    let first = source.keepers[0].direct.clone();
    let ask = |server: &Address, sql: &str| server.query(sql).expect(sql);
    ask(&first, "CREATE TABLE source AS SELECT 'shared' AS origin");
    let base = folder.path().join("base");
    source.keepers[0].copy_to(&base, &["-X", "stream"]);
    let follow = |conninfo: String| json!({"standbySettings": {"primaryConninfo": conninfo}, "archiveRecoverySettings": null});
    let plan = Plan::new(Store::Sqlite)
        .keepers(1)
        .with("initMode", json!("pitr"))
        .with("failInterval", json!("10s"))
        .with("role", json!("standby"))
        .with("usePgrewind", json!(true))
        .with(
            "pitrConfig",
            json!({"dataRestoreCommand": format!("cp -a {}/. %d", base.display())}),
        )
        .with(
            "standbyConfig",
            follow(source.keepers[0].replication_conninfo()),
        );
    let mut cluster = Cluster::begin(&plan);
    let rows = |keeper: &Keeper| {
        let sql = "SELECT string_agg(origin, ' ' ORDER BY origin) FROM source";
        keeper.direct.query(sql).ok()?.pop()
    };
    let all_have = |cluster: &Cluster, expected: &str| {
        for keeper in &cluster.keepers {
            within(2 * LIMIT, "the rows of the source are there", || {
                (rows(keeper)? == expected).then_some(())
            });
        }
    };
    all_have(&cluster, "shared");

    let second = Fork::of(&first, folder.path(), "second");
    ask(&first, "INSERT INTO source VALUES ('first alone')");
    all_have(&cluster, "first alone shared");
    ask(&second.address, "INSERT INTO source VALUES ('second')");
    let config = json!({"standbyConfig": follow(second.conninfo(SUPERUSER))});
    cluster.ctl(&["update", "--patch", &config.to_string()]);
    all_have(&cluster, "second shared");
    let said = cluster.keepers[0].daemon.said();
    assert_eq!(said.matches("rewind finished").count(), 1, "{said}");
    assert!(!said.contains("copying the server outside"), "{said}");

    cluster.add_keeper(1);
    all_have(&cluster, "second shared");
    eventually("the second instance is a member", || {
        let data = cluster.data()?;
        let dbs = data["dbs"].as_object()?;
        let healthy = dbs.values().filter(|db| db["status"]["healthy"] == true);
        (healthy.count() == 2).then_some(())
    });
    let mut third = Fork::of(&second.address, folder.path(), "third");
    ask(
        &second.address,
        "INSERT INTO source VALUES ('second alone')",
    );
    all_have(&cluster, "second second alone shared");
    ask(&third.address, "INSERT INTO source VALUES ('third')");
    let user = (REPLICATION_USER, REPLICATION_PASSWORD);
    let config = json!({"standbyConfig": follow(third.conninfo(user))});
    cluster.ctl(&["update", "--patch", &config.to_string()]);
    all_have(&cluster, "second shared third");
    let leading = cluster.primary();
    let times = |text: &str| {
        let all = cluster.keepers.iter();
        let all = all.map(|keeper| keeper.daemon.said().matches(text).count());
        all.sum::<usize>()
    };
    assert!(times("its source is copied beside its data") > 0);

    third.process.signal(Signal::KILL);
    third.process.wait(LIMIT);
    let begun = times("history has parted");
    stays(
        Duration::from_secs(12),
        "nothing is done without a source",
        || times("history has parted") == begun && rows(&cluster.keepers[leading]).is_some(),
    );
}
