//! The store freezes, its leader dies, its contents are odd.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::{eventually, stays};
use crate::on_each_store;

on_each_store!(the_leading_sentinel_is_killed);

/// I6: without the store a proxy lets nobody through, and nothing is elected when it returns.
#[test]
fn etcd_is_frozen_for_longer_than_the_proxies_wait() {
    let cluster = Cluster::start(&Plan::new(Store::Etcd));
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.etcd[0].freeze();
    eventually("clients are cut off", || {
        cluster.address().query("SELECT 1").err()
    });
    stays(Duration::from_secs(8), "clients stay out", || {
        cluster.address().query("SELECT 1").is_err()
    });
    cluster.etcd[0].thaw();
    writer.goes_on();
    cluster.is_whole();
    assert_eq!(cluster.primary(), primary, "a blind sentinel fails nobody");
    cluster.has_all(&writer.stop());
}

/// The same on one host: somebody holds the file's write lock.
#[test]
fn the_file_is_locked_for_longer_than_the_proxies_wait() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite));
    let primary = cluster.primary();
    let writer = cluster.writer();
    let file = rusqlite::Connection::open(cluster.store_file()).expect("the store's file");
    file.execute_batch("BEGIN IMMEDIATE")
        .expect("the write lock");
    eventually("clients are cut off", || {
        cluster.address().query("SELECT 1").err()
    });
    stays(Duration::from_secs(8), "clients stay out", || {
        cluster.address().query("SELECT 1").is_err()
    });
    file.execute_batch("ROLLBACK")
        .expect("the lock is released");
    writer.goes_on();
    cluster.is_whole();
    assert_eq!(cluster.primary(), primary, "a blind sentinel fails nobody");
    cluster.has_all(&writer.stop());
}

/// An outage shorter than proxyTimeout is nobody's business.
#[test]
fn a_short_outage_of_etcd_disturbs_no_client() {
    let plan = Plan::new(Store::Etcd).with("proxyTimeout", "15s".into());
    let mut cluster = Cluster::start(&plan);
    let writer = cluster.writer();
    cluster.etcd[0].kill();
    stays(Duration::from_secs(3), "clients stay in", || {
        cluster.address().query("SELECT 1").is_ok()
    });
    cluster.etcd[0].start();
    writer.goes_on();
    cluster.is_whole();
    let account = writer.stop();
    assert!(
        account.errors.is_empty(),
        "clients noticed: {:?}",
        account.errors
    );
}

fn the_leading_sentinel_is_killed(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store).sentinels(2));
    let leads = |n: usize| cluster.sentinels[n].said().contains("leadership acquired");
    let leader = eventually("a sentinel leads", || (0..2).find(|n| leads(*n)));
    let other = 1 - leader;
    assert!(!leads(other), "two lead");
    let primary = cluster.primary();
    let writer = cluster.writer();
    // The worst moment: with the primary.
    cluster.sentinels[leader].kill();
    cluster.keepers[primary].kill();
    cluster.another_primary_than(primary);
    writer.goes_on();
    let said = cluster.sentinels[other].said();
    assert!(said.contains("leadership acquired"), "the other one leads");
    cluster.is_whole_with(2);
}

/// A8: values that are no documents are told of and do not hold anything up.
#[test]
fn odd_values_in_the_store_hold_nothing_up() {
    let mut cluster = Cluster::start(&Plan::new(Store::Etcd));
    let primary = cluster.primary();
    let writer = cluster.writer();
    for (key, value) in [
        ("proxies/info/odd", "not json"),
        ("proxies/info/empty", ""),
        ("keepers/info/odd", "{\"uid\": 7"),
        ("keepers/info/empty", ""),
        ("sentinels/info/odd", "[]"),
    ] {
        let key = format!("stolon/cluster/test/{key}");
        assert!(cluster.etcd[0].control(&["put", &key, value]), "{key}");
    }
    cluster.keepers[primary].kill();
    cluster.another_primary_than(primary);
    writer.goes_on();
    let said = cluster.sentinels[0].said();
    for key in [
        "proxies/info/odd",
        "proxies/info/empty",
        "keepers/info/odd",
        "keepers/info/empty",
    ] {
        assert!(said.contains(key), "the log does not name {key}");
    }
    assert!(cluster.try_ctl(&["status"]).status.success());
}

/// I7: a restored store names the primary of before a failover. Nobody is served by it, what was committed
/// since stays where it is, and newer cluster data open the cluster again.
#[test]
fn a_store_of_before_a_failover_serves_nobody() {
    let backup = |cluster: &Cluster, name: &str| {
        let file = cluster.folder().join(name);
        std::fs::write(&file, cluster.ctl(&["clusterdata", "read"])).expect("written");
        file.display().to_string()
    };
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let primary = cluster.primary();
    let before = backup(&cluster, "before.json");
    cluster.keepers[primary].kill();
    let new = cluster.another_primary_than(primary);
    let writer = cluster.writer();
    writer.goes_on();
    let account = writer.stop();
    let after = backup(&cluster, "after.json");

    cluster.ctl(&["clusterdata", "write", "-f", &before, "--yes"]);
    cluster.keepers[primary].daemon.start();
    let old = cluster.keepers[primary].direct.port.to_string();
    eventually("status says what it is", || {
        let served = cluster.address().query("SHOW port");
        assert!(served != Ok(vec![old.clone()]), "the old primary serves");
        let status = cluster.ctl(&["status"]);
        status.contains("from before a failover").then_some(())
    });
    stays(Duration::from_secs(5), "nobody is served", || {
        cluster.address().query("SELECT 1").is_err()
    });
    let keeper = &cluster.keepers[new];
    let said = keeper.daemon.said();
    assert!(said.contains("later-history"), "{said}");
    let rows = keeper.direct.query("SELECT count(*)::text FROM written");
    let rows: usize = rows.expect("it is left alone")[0]
        .parse()
        .expect("a number");
    assert!(rows >= account.acknowledged.len(), "{rows} rows");

    cluster.ctl(&["clusterdata", "write", "-f", &after, "--yes"]);
    cluster.is_whole();
    assert_eq!(cluster.primary(), new);
    cluster.has_all(&account);
    cluster.follows(primary);
}
