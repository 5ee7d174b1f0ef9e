//! Coming back: an instance that was lost, or that left the primary's history, is a standby again.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::cluster::{Cluster, Keeper, Plan, Store};
use crate::harness::{eventually, process};

/// Two keepers whose forks are undone by `pg_rewind`.
fn rewinding() -> Plan {
    Plan::new(Store::Sqlite)
        .keepers(2)
        .with("usePgrewind", json!(true))
}

/// The file of a table that nobody writes to any more, which a copy would make anew.
fn quiet_file(cluster: &Cluster, keeper: &Keeper) -> PathBuf {
    let sql = "CREATE TABLE quiet AS SELECT n FROM generate_series(1, 100000) n";
    cluster.address().query(sql).expect("a table");
    let address = cluster.address();
    let path = address.query("SELECT pg_relation_filepath('quiet')");
    keeper.pgdata.join(&path.expect("a path")[0])
}

fn copies(keeper: &Keeper) -> usize {
    keeper.daemon.said().matches("copy finished").count()
}

/// C1, C4: it goes on in its old files, and what was written to it alone is gone.
#[test]
fn the_old_primary_is_rewound() {
    let mut cluster = Cluster::start(&rewinding());
    let primary = cluster.primary();
    let writer = cluster.writer();
    writer.goes_on();
    let file = quiet_file(&cluster, &cluster.keepers[primary]);
    let inode = || std::fs::metadata(&file).map(|found| found.ino()).ok();
    let before = inode();
    assert!(before.is_some(), "no file {}", file.display());
    // Nobody manages the old primary, which goes on beside the new one.
    cluster.keepers[primary].daemon.kill();
    cluster.another_primary_than(primary);
    let direct = &cluster.keepers[primary].direct;
    let fork = "CREATE TABLE forked AS SELECT n FROM generate_series(1, 10000) n";
    direct.query(fork).expect("it still takes writes");
    writer.goes_on();
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    writer.goes_on();
    let account = writer.stop();
    cluster.follows(primary);
    drop(account);
    let keeper = &cluster.keepers[primary];
    let said = keeper.daemon.said();
    assert!(said.contains("rewind finished"), "{said}");
    assert_eq!(copies(keeper), 0, "{said}");
    assert_eq!(inode(), before, "its files are others");
    let forked = keeper.direct.query("SELECT to_regclass('forked') IS NULL");
    assert_eq!(forked.expect("an answer"), ["t"]);
    cluster.holds_the_same();
}

/// C2: a primary that was killed recovers first. Killed in the middle of the rewind, it is copied. There
/// is an archive, which has nothing.
#[test]
fn a_killed_primary_is_rewound_and_copied_where_that_is_broken_off() {
    let archive = json!({"restore_command": "false"});
    let mut cluster = Cluster::start(&rewinding().with("pgParameters", archive));
    let first = cluster.primary();
    let writer = cluster.writer();
    writer.goes_on();
    cluster.keepers[first].kill();
    let second = cluster.another_primary_than(first);
    cluster.keepers[first].daemon.start();
    eventually("the rewind begins", || {
        let said = cluster.keepers[first].daemon.said();
        said.contains("until that has succeeded").then_some(())
    });
    cluster.keepers[first].kill();
    cluster.keepers[first].daemon.start();
    cluster.is_whole();
    writer.goes_on();
    let said = cluster.keepers[first].daemon.said();
    // A fast machine may be done before it is killed.
    let is_broken_off = !said.contains("rewind finished");
    let expected = usize::from(is_broken_off);
    assert_eq!(copies(&cluster.keepers[first]), expected, "{said}");

    cluster.keepers[second].kill();
    cluster.another_primary_than(second);
    cluster.keepers[second].daemon.start();
    cluster.is_whole();
    writer.goes_on();
    drop(writer.stop());
    cluster.follows(second);
    let said = cluster.keepers[second].daemon.said();
    assert!(said.contains("having them recover"), "{said}");
    assert!(said.contains("rewind finished"), "{said}");
    cluster.holds_the_same();
    assert_eq!(copies(&cluster.keepers[second]), 1, "only the first one");
}

/// B9: nobody has to help a standby that no commit waits for. C13: the same of one that does not start.
#[test]
fn a_standby_without_data_or_that_does_not_start_is_copied_anew() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let standby = cluster.standbys()[0];
    let writer = cluster.writer();
    writer.goes_on();
    cluster.keepers[standby].kill();
    cluster.keepers[standby].lose_data();
    cluster.keepers[standby].daemon.start();
    eventually("it is given a new db", || {
        let said = cluster.sentinels[0].said();
        said.contains("its data are gone").then_some(())
    });
    cluster.is_whole();

    cluster.keepers[standby].kill();
    let version = cluster.keepers[standby].pgdata.join("PG_VERSION");
    std::fs::write(&version, "9.0\n").expect("another version");
    cluster.keepers[standby].daemon.start();
    eventually("it is given a new db", || {
        let said = cluster.sentinels[0].said();
        said.contains("it does not start").then_some(())
    });
    cluster.is_whole();
    let account = writer.stop();
    cluster.has_all(&account);
    cluster.follows(standby);
}

/// B9: the only standby that commits wait for is left to an operator, who is told the command. C10: no
/// standby needs WAL to be archived before it may join.
#[test]
fn the_only_synchronous_standby_without_data_is_copied_when_told() {
    let failing = json!({"archive_mode": "on", "archive_command": "false"});
    let plan = Plan::new(Store::Sqlite).keepers(2).synchronous();
    let mut cluster = Cluster::start(&plan.with("pgParameters", failing));
    let standby = cluster.standbys()[0];
    let account = cluster.writer().stop();
    cluster.keepers[standby].kill();
    cluster.keepers[standby].lose_data();
    cluster.keepers[standby].daemon.start();
    let uid = cluster.keepers[standby].uid.clone();
    let command = format!("run stolonctl removekeeper {uid}");
    eventually("the command is told", || {
        cluster.sentinels[0].said().contains(&command).then_some(())
    });
    assert_eq!(copies(&cluster.keepers[standby]), 1, "copied untold");
    cluster.ctl(&["removekeeper", &uid]);
    cluster.is_whole();
    cluster.has_all(&account);
}

/// B10: what crashes and people leave behind.
#[test]
fn leftovers_are_cleaned_up() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let account = cluster.writer().stop();
    cluster.keepers[0].daemon.stop();
    let pgdata = cluster.keepers[0].pgdata.clone();
    // Somebody looks at the data with a server of their own, and forgets it.
    let postgres = process::postgres_program("postgres");
    let mut command = process::command(&postgres, &process::Surroundings::default());
    command.args(["--single", "-D"]).arg(&pgdata);
    command.arg("postgres").stdin(std::process::Stdio::piped());
    let log = pgdata.with_file_name("single.log");
    let single = process::Process::start("a single-user server", command, &log);
    eventually("a single-user server runs", || {
        let file = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        file.starts_with('-').then_some(())
    });
    cluster.keepers[0].daemon.start();
    cluster.is_whole();
    drop(single);
    cluster.has_all(&account);

    cluster.keepers[0].kill();
    for name in ["recovery.done", "recovery.signal", "standby.signal"] {
        let path = pgdata.join(name);
        std::fs::write(&path, "").expect("a leftover");
        process::give(&path);
    }
    // The process that has got the number lives.
    let pid_file = pgdata.join("postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).expect("left by the crash");
    let (_, rest) = text.split_once('\n').expect("lines");
    std::fs::write(&pid_file, format!("1\n{rest}")).expect("another number");
    cluster.keepers[0].daemon.start();
    cluster.is_whole();
    cluster.has_all(&account);
}

/// D4: members move to other ports and go by a host name.
#[test]
fn members_change_their_addresses() {
    let strict = json!("strict");
    let plan = Plan::new(Store::Sqlite).keepers(2);
    let mut cluster = Cluster::start(&plan.with("defaultSUReplAccessMode", strict));
    let primary = cluster.primary();
    let writer = cluster.writer();
    for keeper in [1 - primary, primary] {
        cluster.keepers[keeper].daemon.stop();
        cluster.keepers[keeper].rename("localhost");
        cluster.keepers[keeper].daemon.start();
        cluster.is_whole();
    }
    writer.goes_on();
    cluster.has_all(&writer.stop());
    let standby = cluster.standbys()[0];
    cluster.follows(standby);
    let pgdata = &cluster.keepers[cluster.primary()].pgdata;
    let rules = std::fs::read_to_string(pgdata.join("pg_hba.conf")).expect("rules");
    assert!(
        rules.contains("host replication repl localhost "),
        "{rules}"
    );
    assert!(!rules.contains("localhost/"), "{rules}");
}
