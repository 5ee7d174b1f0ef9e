//! Asynchronous replication: what clients notice when something of the primary dies.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::eventually;
use crate::on_each_store;

on_each_store!(
    the_postmaster_is_killed,
    the_postmaster_alone_is_frozen,
    the_node_is_killed,
    the_node_is_frozen_and_thawed,
    a_standby_is_killed,
);

/// C7. The other store would tell nothing more.
#[test]
fn the_wal_that_a_standby_needs_is_gone() {
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("maxSlotWALKeepSize", json!("16MB"));
    let mut cluster = Cluster::start(&plan);
    let standby = cluster.standbys()[0];
    let writer = cluster.writer();
    cluster.keepers[standby].kill();
    let (address, next) = (
        cluster.address(),
        "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()",
    );
    // What was on its way to it could still be received, and the slot advance by that.
    eventually("nobody streams", || {
        let streams = address.query("SELECT pid FROM pg_stat_replication").ok()?;
        streams.is_empty().then_some(())
    });
    // More than the keeper has PostgreSQL keep, in files of 16 MB.
    for _ in 0..12 {
        address.query(next).expect("the next file");
    }
    let removed = "SELECT wal_status FROM pg_replication_slots WHERE slot_name LIKE 'stolon_%'";
    eventually("the slot is lost", || {
        address.query("CHECKPOINT").ok()?;
        let status = address.query(removed).ok()?;
        (status == ["lost"]).then_some(())
    });
    // Once its keeper has been dead for longer than this, nothing is left of it.
    let longest = r#"{"maxSlotWALKeepTime": "1s"}"#;
    cluster.ctl(&["update", "--patch", longest]);
    eventually("the slot is dropped", || {
        address.query(removed).ok().filter(Vec::is_empty)
    });
    let spec: serde_json::Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("JSON");
    assert_eq!(spec["maxSlotWALKeepSize"], "16MB");
    assert_eq!(spec["maxSlotWALKeepTime"], "1s");
    cluster.keepers[standby].daemon.start();
    cluster.is_whole();
    let account = writer.stop();
    cluster.has_all(&account);
    cluster.follows(standby);
    let said = cluster.sentinels[0].said();
    assert!(
        said.contains("the primary has removed WAL that it needs"),
        "{said}"
    );
}

fn the_postmaster_is_killed(store: Store) {
    let cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.keepers[primary].signal_postmaster(Signal::KILL);
    writer.notices();
    writer.goes_on();
    assert_eq!(cluster.primary(), primary, "it is started again in place");
    cluster.is_whole();
    let account = writer.stop();
    cluster.has_all(&account);
    for standby in cluster.standbys() {
        cluster.follows(standby);
    }
}

fn the_postmaster_alone_is_frozen(store: Store) {
    let cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.keepers[primary].signal_postmaster(Signal::STOP);
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    assert_ne!(new, primary);
    // Nobody thaws it: its keeper ends it and makes a standby of it.
    cluster.is_whole();
    drop(writer.stop());
    cluster.follows(primary);
}

fn the_node_is_killed(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.keepers[primary].kill();
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    assert_ne!(new, primary);
    cluster.is_whole_with(2);
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    drop(writer.stop());
    cluster.follows(primary);
}

/// A15: nothing of the frozen primary may come back as it was.
fn the_node_is_frozen_and_thawed(store: Store) {
    let cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.freeze(primary);
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    cluster.keepers[primary].thaw();
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "the thawed one takes nothing back");
    let account = writer.stop();
    cluster.follows(primary);
    let recovering = eventually("the old primary answers", || {
        let rows = cluster.keepers[primary]
            .direct
            .query("SELECT pg_is_in_recovery()::text");
        rows.ok()
    });
    assert_eq!(recovering, ["true"]);
    // The client that waited for it was told, in the middle of its session.
    let told = "57P01: terminating connection: ";
    let errors = &account.errors;
    assert!(
        errors.iter().any(|error| error.starts_with(told)),
        "{errors:?}"
    );
    // After the proxy let go of the old primary no more was acknowledged there, and before it was
    // frozen: what a standby had not received yet when the freeze came may be gone (I2a), no more.
    let lost = cluster.lost(&account);
    assert!(
        lost.len() <= 2,
        "more than what was on its way is lost: {lost:?}"
    );
}

fn a_standby_is_killed(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let standby = cluster.standbys()[0];
    let writer = cluster.writer();
    cluster.keepers[standby].kill();
    writer.goes_on();
    cluster.is_whole_with(2);
    assert_eq!(cluster.primary(), primary);
    cluster.keepers[standby].daemon.start();
    cluster.is_whole();
    let account = writer.stop();
    cluster.has_all(&account);
    cluster.follows(standby);
}
