//! Synchronous replication: whatever dies, no commit that was acknowledged is lost (I2).

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::{eventually, stays};
use crate::on_each_store;

on_each_store!(
    the_postmaster_is_killed,
    the_postmaster_alone_is_frozen,
    the_node_is_killed,
    the_node_is_frozen_and_thawed,
    the_synchronous_standby_is_killed,
);

fn cluster(store: Store) -> Cluster {
    Cluster::start(&Plan::new(store).synchronous())
}

/// The number of the keeper that the primary's commits wait for.
pub(crate) fn synchronous_standby(cluster: &Cluster) -> usize {
    eventually("there is a confirmed synchronous standby", || {
        let data = cluster.data()?;
        let master = data["cluster"]["status"]["master"].as_str()?;
        let confirmed = data["dbs"][master]["status"]["synchronousStandbys"].as_array()?;
        let uid = data["dbs"][confirmed.first()?.as_str()?]["spec"]["keeperUID"].as_str()?;
        cluster.keepers.iter().position(|keeper| keeper.uid == uid)
    })
}

fn the_postmaster_is_killed(store: Store) {
    let cluster = cluster(store);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.keepers[primary].signal_postmaster(Signal::KILL);
    writer.notices();
    writer.goes_on();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

fn the_postmaster_alone_is_frozen(store: Store) {
    let cluster = cluster(store);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.keepers[primary].signal_postmaster(Signal::STOP);
    cluster.another_primary_than(primary);
    writer.goes_on();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

fn the_node_is_killed(store: Store) {
    let mut cluster = cluster(store);
    let primary = cluster.primary();
    let standby = synchronous_standby(&cluster);
    let writer = cluster.writer();
    cluster.keepers[primary].kill();
    let new = cluster.another_primary_than(primary);
    assert_eq!(new, standby, "only a synchronous standby may be elected");
    writer.goes_on();
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

/// A15, with commits that wait.
fn the_node_is_frozen_and_thawed(store: Store) {
    let cluster = cluster(store);
    let primary = cluster.primary();
    let standby = synchronous_standby(&cluster);
    let writer = cluster.writer();
    cluster.freeze(primary);
    let new = cluster.another_primary_than(primary);
    assert_eq!(new, standby, "only a synchronous standby may be elected");
    writer.goes_on();
    cluster.keepers[primary].thaw();
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "the thawed one takes nothing back");
    cluster.has_all(&writer.stop());
}

fn the_synchronous_standby_is_killed(store: Store) {
    let mut cluster = cluster(store);
    let primary = cluster.primary();
    let standby = synchronous_standby(&cluster);
    let writer = cluster.writer();
    cluster.keepers[standby].kill();
    writer.goes_on();
    assert_ne!(
        synchronous_standby(&cluster),
        standby,
        "another takes its place"
    );
    // What was acknowledged with the new set is safe with it.
    cluster.keepers[primary].kill();
    cluster.another_primary_than(primary);
    // Commits wait until the new primary has a synchronous standby again.
    cluster.keepers[standby].daemon.start();
    writer.goes_on();
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

/// Without a standby that confirms, commits wait rather than be promised, and after a restart ordinary users stay out until one has caught up (I9, A4).
#[test]
fn commits_wait_without_standbys_and_users_after_a_restart() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2).synchronous());
    let primary = cluster.primary();
    let standby = cluster.standbys()[0];
    let writer = cluster.writer();
    let user = "CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT SELECT ON written TO plain";
    cluster.address().query(user).expect("a plain user");
    cluster.keepers[standby].kill();
    let before = writer.last();
    cluster.keepers[primary].signal_postmaster(Signal::KILL);
    let mut plain = cluster.keepers[primary].direct.clone();
    (plain.user, plain.password) = ("plain".to_owned(), "plain".to_owned());
    let refusal = eventually("a plain user is refused by the access rules", || {
        let answer = plain.query("SELECT 1").err()?;
        answer.contains("no pg_hba.conf entry").then_some(answer)
    });
    assert!(refusal.starts_with("28000"), "{refusal}");
    assert!(
        writer.last() <= before + 1,
        "nothing is acknowledged without a standby"
    );
    cluster.keepers[standby].daemon.start();
    eventually("a plain user enters again", || plain.query("SELECT 1").ok());
    writer.goes_on();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

/// B4: the operator may give up waiting for synchronous standbys that are gone.
#[test]
fn an_operator_turns_synchronous_replication_off_and_a_primary_returns() {
    let mut cluster = cluster(Store::Sqlite);
    let primary = cluster.primary();
    let standby = synchronous_standby(&cluster);
    let third = (0..3)
        .find(|n| *n != primary && *n != standby)
        .expect("a third");
    let writer = cluster.writer();
    // Both at once: the third was never confirmed.
    cluster.freeze(standby);
    cluster.keepers[primary].kill();
    cluster.keepers[standby].kill();
    let why = "it is not confirmed to have every synchronously acknowledged commit";
    eventually("the log says why nobody is elected", || {
        cluster.sentinels[0].said().contains(why).then_some(())
    });
    stays(Duration::from_secs(5), "the third is not elected", || {
        cluster.open_primary() != Some(third)
    });
    let off = json!({"synchronousReplication": false}).to_string();
    cluster.ctl(&["update", "--patch", &off]);
    assert_eq!(cluster.another_primary_than(primary), third);
    writer.goes_on();
    drop(writer);
}

/// With no standby at all the placeholder keeps every commit waiting.
#[test]
fn nothing_is_acknowledged_before_there_is_a_standby() {
    let cluster = Cluster::begin(&Plan::new(Store::Sqlite).keepers(1).synchronous());
    let primary = cluster.primary();
    eventually("the placeholder is in force", || {
        let rows = cluster.keepers[primary]
            .direct
            .query("SHOW synchronous_standby_names");
        rows.ok().filter(|rows| rows == &["stolonfakestandby"])
    });
    let refused = cluster.address().query("CREATE TABLE early (id int)");
    assert_eq!(refused, Err("no answer in 10 s".to_owned()));
}
