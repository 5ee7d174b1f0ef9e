//! What operators do to a running cluster.

use std::process::Stdio;

use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::eventually;
use crate::on_each_store;
use crate::synchronous::synchronous_standby;

on_each_store!(updates_at_the_same_time_lose_none);

/// Of updates at the same time every one that is reported done is in force, and the others say that
/// somebody was faster.
fn updates_at_the_same_time_lose_none(store: Store) {
    let cluster = Cluster::start(&Plan::new(store).keepers(1));
    let running: Vec<_> = (0..8)
        .map(|n| {
            let patch = json!({"pgParameters": {format!("test.p{n}"): n.to_string()}});
            let mut command = cluster.ctl_command(&["update", "--patch", &patch.to_string()]);
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            (n, command.spawn().expect("stolonctl"))
        })
        .collect();
    let mut done = Vec::new();
    for (n, child) in running {
        let output = child.wait_with_output().expect("its end");
        if output.status.success() {
            done.push(n);
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                said.contains("changed during each of"),
                "update {n}: {said}"
            );
        }
    }
    assert!(!done.is_empty(), "not one update went through");
    let spec: serde_json::Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("a spec");
    for n in done {
        let value = &spec["pgParameters"][format!("test.p{n}")];
        assert_eq!(value, &json!(n.to_string()), "update {n} was reported done");
    }
}

/// A change of a parameter reaches every instance by a reload.
#[test]
fn a_parameter_is_changed_everywhere() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let patch = json!({"pgParameters": {"log_min_duration_statement": "1234"}}).to_string();
    cluster.ctl(&["update", "--patch", &patch]);
    for keeper in &cluster.keepers {
        eventually("the parameter is in force", || {
            let rows = keeper
                .direct
                .query("SHOW log_min_duration_statement")
                .ok()?;
            (rows == ["1234ms"]).then_some(())
        });
        let said = keeper.daemon.said();
        assert!(said.contains("postgres parameters changed, reloading postgres instance"));
    }
}

#[test]
fn a_failed_keeper_gives_the_primary_away_and_returns() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite));
    let primary = cluster.primary();
    let writer = cluster.writer();
    let failed = cluster.try_ctl(&["failkeeper", &cluster.keepers[primary].uid]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(failed.status.success(), "{said}");
    assert!(said.contains("replication is asynchronous"), "{said}");
    cluster.another_primary_than(primary);
    writer.goes_on();
    cluster.is_whole();
    drop(writer.stop());
    cluster.follows(primary);
}

#[test]
fn a_removed_keeper_comes_back_with_a_new_db() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite));
    let account = cluster.writer().stop();
    let standby = cluster.standbys()[0];
    let uid = cluster.keepers[standby].uid.clone();
    let db = || {
        let data = cluster.data()?;
        let dbs = data["dbs"].as_object()?;
        let own = dbs
            .iter()
            .find(|(_, db)| db["spec"]["keeperUID"] == uid.as_str());
        own.map(|(db, _)| db.clone())
    };
    let before = db().expect("its db");
    let primary = &cluster.keepers[cluster.primary()].uid;
    let refused = cluster.try_ctl(&["removekeeper", primary]);
    assert!(!refused.status.success(), "the primary's keeper is refused");
    cluster.ctl(&["removekeeper", &uid]);
    eventually("it has a new db", || db().filter(|now| *now != before));
    cluster.is_whole();
    cluster.has_all(&account);
    cluster.follows(standby);
}

/// The only synchronous standby is removed: another takes its place, or it comes back as a new one, and
/// nothing that was acknowledged is lost. With minSynchronousStandbys 0 commits do not even wait.
#[test]
fn a_removed_synchronous_standby_is_replaced() {
    let plan = Plan::new(Store::Sqlite).synchronous();
    let cluster = Cluster::start(&plan.with("minSynchronousStandbys", json!(0)));
    let (primary, standby) = (cluster.primary(), synchronous_standby(&cluster));
    let writer = cluster.writer();
    let said = cluster.ctl(&["removekeeper", &cluster.keepers[standby].uid]);
    assert_eq!(said, "");
    writer.goes_on();
    cluster.is_whole();
    assert_eq!(cluster.primary(), primary);
    cluster.has_all(&writer.stop());
    cluster.follows(standby);
}

/// Flags of keepers that count everywhere: who may not run a primary is not elected, who may not run a
/// synchronous standby is not waited for; with minSynchronousStandbys 0 commits go on without.
#[test]
fn keepers_are_what_their_flags_let_them_be() {
    let plan = Plan::new(Store::Sqlite)
        .keepers(0)
        .synchronous()
        .with("minSynchronousStandbys", json!(0));
    let mut cluster = Cluster::begin(&plan);
    cluster.add_keeper_with(
        0,
        &[
            "--can-be-master=false",
            "--can-be-synchronous-replica=false",
        ],
    );
    cluster.add_keeper(1);
    eventually("a primary serves", || {
        let data = cluster.data()?;
        (cluster.open_primary() == Some(1) && data["dbs"].as_object()?.len() == 2).then_some(())
    });
    let writer = cluster.writer();
    cluster.add_keeper(2);
    cluster.is_whole();
    assert_eq!(synchronous_standby(&cluster), 2, "the other may not");
    cluster.keepers[1].kill();
    assert_eq!(cluster.another_primary_than(1), 2);
    writer.goes_on();
    cluster.keepers[1].daemon.start();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

/// I7, A11: a cluster that is made anew removes nothing of the one before.
#[test]
fn a_replaced_clusters_data_are_kept() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let account = cluster.writer().stop();
    let data = cluster.data().expect("cluster data");
    let uid = data["cluster"]["uid"].as_str().expect("its uid").to_owned();
    let spec = data["cluster"]["spec"].to_string();
    let refused = cluster.try_ctl(&["init", "-y", &spec]);
    assert_eq!(
        refused.status.code(),
        Some(3),
        "a cluster with data needs its uid named"
    );
    cluster.ctl(&["init", "-y", "--replace-cluster", &uid, &spec]);
    eventually("the new cluster serves", || {
        let tables = "SELECT count(*)::text FROM pg_tables WHERE tablename = 'written'";
        let rows = cluster.address().query(tables).ok()?;
        (rows == ["0"]).then_some(())
    });
    cluster.is_whole();
    for keeper in &cluster.keepers {
        let kept = eventually("the old data are kept", || keeper.replaced().pop());
        assert!(
            kept.join("global/pg_control").is_file(),
            "{}",
            kept.display()
        );
    }
    assert!(!account.acknowledged.is_empty());
}

/// A mistyped parameter must not cost anything: neither the parameters beside it nor, later, the
/// primary its place, because its configuration cannot come into force.
#[test]
fn parameters_that_postgresql_does_not_take_are_left_out_and_told() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).synchronous());
    let primary = cluster.primary();
    let writer = cluster.writer();
    let patch = r#"{"pgParameters": {"no_such_parameter": "1", "work_mem": "lots",
        "log_min_duration_statement": "7s"}}"#;
    cluster.ctl(&["update", "--patch", patch]);
    let direct = &cluster.keepers[primary].direct;
    eventually("the good one is in force", || {
        let shown = direct.query("SHOW log_min_duration_statement").ok()?;
        (shown == ["7s"]).then_some(())
    });
    let status = eventually("the others are told of", || {
        let status = cluster.ctl(&["status"]);
        status.contains("no_such_parameter").then_some(status)
    });
    assert!(status.contains("\"lots\""), "{status}");
    // What the cluster needs comes into force all the same.
    let standby = synchronous_standby(&cluster);
    cluster.keepers[standby].kill();
    writer.goes_on();
    assert_eq!(cluster.primary(), primary);
    // One that was right stays as it was while its new value is wrong.
    let patch = r#"{"pgParameters": {"no_such_parameter": null, "work_mem": "8MB",
        "log_min_duration_statement": "soon"}}"#;
    cluster.ctl(&["update", "--patch", patch]);
    let direct = &cluster.keepers[primary].direct;
    eventually("the mended one is in force", || {
        let shown = direct.query("SHOW work_mem").ok()?;
        (shown == ["8MB"]).then_some(())
    });
    let kept = direct.query("SHOW log_min_duration_statement");
    assert_eq!(kept, Ok(vec!["7s".to_owned()]));
    cluster.keepers[standby].daemon.start();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}
