//! The status tells what is.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::eventually;
use crate::harness::writer::Writer;

/// What the status says of a keeper, for programs.
fn told(cluster: &Cluster, keeper: usize) -> Option<Value> {
    let output = cluster.try_ctl(&["status", "-f", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    let keepers = status["keepers"].as_array()?;
    let uid = cluster.keepers[keeper].uid.as_str();
    keepers.iter().find(|told| told["uid"] == uid).cloned()
}

/// The users' rules of before stay in force, whole, also when the instance is started anew.
fn a_wrong_access_rule_changes_nothing(cluster: &Cluster, writer: &Writer) {
    let (primary, address) = (cluster.primary(), cluster.address());
    let rules = r#"{"pgHBA": ["host all all 10.0.0.0/8 rejct", "host all all all trust"]}"#;
    cluster.ctl(&["update", "--patch", rules]);
    for keeper in 0..2 {
        eventually("the rule is told to be wrong, and why", || {
            let told = told(cluster, keeper)?;
            let why = told["refused_parameters"]["pgHBA"].as_str()?.to_owned();
            (why.contains("10.0.0.0/8 rejct") && why.contains("authentication method"))
                .then_some(())
        });
    }
    let sql = "SELECT array_to_string(user_name, '') || coalesce(error, '') FROM pg_hba_file_rules
        WHERE 'all' = ANY (user_name) OR error IS NOT NULL";
    assert_eq!(address.query(sql).expect("rules"), ["all", "all"]);
    cluster.keepers[primary].signal_postmaster(Signal::KILL);
    writer.notices();
    writer.goes_on();
    assert_eq!(address.query(sql).expect("rules"), ["all", "all"]);
    cluster.ctl(&[
        "update",
        "--patch",
        r#"{"pgHBA": ["host all all all trust"]}"#,
    ]);
    eventually("right ones are in force", || {
        let refused = &told(cluster, primary)?["refused_parameters"];
        let rules = address.query(sql).ok()?;
        (refused.as_object()?.is_empty() && rules == ["all"]).then_some(())
    });
}

/// A1: only the replication link breaks, and writes go on. The other store would tell nothing more.
#[test]
fn a_standby_that_does_not_replicate_is_told_with_its_lag_and_the_reason() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let standby = cluster.standbys()[0];
    eventually("it replicates", || {
        let told = told(&cluster, standby)?;
        (told["replicating"] == true && told["wal_kept_status"] == "reserved").then_some(())
    });
    let writer = cluster.writer();
    writer.goes_on();
    let address = cluster.address();
    for sql in [
        "ALTER ROLE repl NOLOGIN",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_replication",
    ] {
        address.query(sql).expect("the link is broken");
    }
    let seen = eventually("the standby is told not to replicate", || {
        let told = told(&cluster, standby)?;
        let lag = told["lag_bytes"].as_u64().unwrap_or(0);
        let late = told["lag_seconds"].as_u64().unwrap_or(0);
        let kept = told["wal_kept_bytes"].as_u64().unwrap_or(0);
        let why = told["not_replicating_because"].as_str().unwrap_or_default();
        let is_told = why.contains("is not permitted to log in");
        (told["replicating"] == false && lag > 0 && late > 0 && kept > 0 && is_told).then_some(told)
    });
    assert!(seen["replay_lag_bytes"].as_u64() >= seen["lag_bytes"].as_u64());
    assert_eq!(seen["slots"], json!([]));
    let text = cluster.ctl(&["status"]);
    assert!(text.contains("not streaming (could not connect"), "{text}");
    address.query("ALTER ROLE repl LOGIN").expect("mended");
    eventually("it replicates again", || {
        let told = told(&cluster, standby)?;
        (told["replicating"] == true && told["not_replicating_because"] == "").then_some(())
    });
    a_wrong_access_rule_changes_nothing(&cluster, &writer);
    let account = writer.stop();
    cluster.follows(standby);
    cluster.has_all(&account);
}
