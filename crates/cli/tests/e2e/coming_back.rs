//! Coming back: an instance that was lost, or that left the primary's history, is a standby again.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::cluster::{Cluster, Keeper, Plan, Store};
use crate::harness::eventually;

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
}

/// C2: a primary that was killed recovers first. Killed in the middle of the rewind, it is copied.
#[test]
fn a_killed_primary_is_rewound_and_copied_where_that_is_broken_off() {
    let mut cluster = Cluster::start(&rewinding());
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
    assert!(!said.contains("rewind finished"), "{said}");
    assert_eq!(copies(&cluster.keepers[first]), 1, "{said}");

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
    assert_eq!(copies(&cluster.keepers[second]), 1, "only the first one");
}
