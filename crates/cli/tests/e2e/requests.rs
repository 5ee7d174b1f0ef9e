//! What operators ask the daemons for by `stolonctl`: restarts, copies, a pause.

use serde_json::Value;

use crate::harness::cluster::{Cluster, Daemon, Keeper, Plan, Store};
use crate::harness::eventually;
use crate::on_each_store;

on_each_store!(all_instances_are_restarted_one_after_the_other);

fn status(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.ctl(&["status", "-f", "json"])).expect("a status")
}

/// Standbys first, the primary last, and clients go on through the proxy.
fn all_instances_are_restarted_one_after_the_other(store: Store) {
    let cluster = Cluster::start(&Plan::new(store).synchronous());
    let primary = cluster.primary();
    let writer = cluster.writer();
    let postmasters = || -> Vec<_> { cluster.keepers.iter().map(Keeper::postmaster).collect() };
    let before = postmasters();
    let output = cluster.try_ctl(&["restart", "--all", "--why", "a test", "--timeout", "3m"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    for (old, new) in before.iter().zip(postmasters()) {
        assert!(new.is_some() && *old != new, "{before:?}");
    }
    let done: Vec<&str> = said
        .lines()
        .filter(|line| line.ends_with("is done"))
        .collect();
    let last = format!("keeper {} is done", cluster.keepers[primary].uid);
    assert_eq!(
        (done.len(), done.last()),
        (3, Some(&last.as_str())),
        "{said}"
    );
    assert_eq!(cluster.primary(), primary, "nobody else took its place");
    writer.goes_on();
    let request = &status(&cluster)["requests"][0];
    assert_eq!(
        (&request["state"], &request["why"]),
        (&"done".into(), &"a test".into())
    );
    let account = writer.stop();
    cluster.has_all(&account);
}

/// A standby's data are replaced by a new copy although they could go on as they are; the primary's are
/// not, and the old ones stay until the new ones are complete.
#[test]
fn a_standby_is_copied_anew_when_an_operator_asks_for_it() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let account = cluster.writer().stop();
    let standby = cluster.standbys()[0];
    let primary = &cluster.keepers[cluster.primary()].uid;
    let refused = cluster.try_ctl(&["resync", primary]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("runs the primary"),
        "{said}"
    );
    let mark = cluster.keepers[standby].pgdata.join("left-by-somebody");
    std::fs::write(&mark, "x").expect("a mark in the old data");
    let uid = cluster.keepers[standby].uid.clone();
    let output = cluster.try_ctl(&["resync", &uid, "--timeout", "3m"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!mark.exists(), "the data are other ones");
    assert!(
        cluster.keepers[standby]
            .daemon
            .said()
            .contains("copying the primary's data")
    );
    cluster.is_whole_with(2);
    cluster.has_all(&account);
    cluster.follows(standby);
}

/// While the cluster is paused a dead primary is not replaced; afterwards it is.
#[test]
fn a_paused_cluster_is_left_to_the_operator() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite));
    let primary = cluster.primary();
    cluster.ctl(&["pause", "--why", "maintenance"]);
    let text = cluster.ctl(&["status"]);
    assert!(
        text.starts_with("*** PAUSED since ") && text.contains("(maintenance)"),
        "{text}"
    );
    cluster.keepers[primary].kill();
    eventually("the sentinel says that it does not replace it", || {
        let said = cluster.sentinels.iter().map(Daemon::said);
        said.into_iter()
            .any(|said| said.contains("not replaced: the cluster is paused"))
            .then_some(())
    });
    assert_eq!(
        cluster.open_primary(),
        Some(primary),
        "it is still the one in the document"
    );
    cluster.ctl(&["resume"]);
    cluster.another_primary_than(primary);
}

/// Parameters that need a restart come into force by themselves where that is asked for: standbys first
/// (C12), and nothing else is disturbed.
#[test]
fn parameters_that_need_a_restart_come_into_force_in_order() {
    let plan = Plan::new(Store::Sqlite).with("automaticPgRestart", true.into());
    let cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.ctl(&[
        "update",
        "--patch",
        r#"{"pgParameters": {"max_connections": "120"}}"#,
    ]);
    for keeper in &cluster.keepers {
        eventually("the parameter is in force", || {
            let shown = keeper.direct.query("SHOW max_connections").ok()?;
            (shown == ["120"]).then_some(())
        });
    }
    writer.goes_on();
    let started = |keeper: usize| {
        let sql = "SELECT extract(epoch FROM pg_postmaster_start_time())::text";
        let rows = cluster.keepers[keeper]
            .direct
            .query(sql)
            .expect("an answer");
        rows[0].parse::<f64>().expect("seconds")
    };
    for standby in cluster.standbys() {
        assert!(
            started(standby) < started(primary),
            "the primary restarts last"
        );
    }
    assert_eq!(cluster.primary(), primary);
    drop(writer.stop());
}
