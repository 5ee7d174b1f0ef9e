//! Who is let in, and how: strict access, TLS between members, passwords by SCRAM.

use serde_json::json;

use crate::harness::cluster::{Cluster, Plan};
use crate::harness::{can_make_hosts, eventually};

/// Members let in one another and no stranger, by TLS with verified certificates and by SCRAM: in a new
/// cluster, after a failover with a rewind, and when one of them has another address.
#[test]
fn members_let_in_one_another_and_no_stranger() {
    if !can_make_hosts("members_let_in_one_another_and_no_stranger") {
        return;
    }
    let plan = Plan::on_hosts()
        .secured()
        .with("defaultSUReplAccessMode", json!("strict"))
        .with("usePgrewind", json!(true))
        // The clients of these tests know nothing of TLS, and come in by a rule for users.
        .with(
            "pgHBA",
            json!(["host postgres all 0.0.0.0/0 scram-sha-256"]),
        );
    let mut cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let clients = cluster.keepers.len();
    are_secured(&cluster, primary);
    cluster.refuses_replication(primary, clients, "prefer", "no pg_hba.conf entry");
    let member = cluster.standbys()[0];
    // A member, by all but TLS.
    cluster.refuses_replication(primary, member, "disable", "no pg_hba.conf entry");
    let stored = "SELECT DISTINCT left(rolpassword, 5) FROM pg_authid WHERE rolpassword <> ''";
    assert_eq!(
        cluster.address().query(stored),
        Ok(vec!["SCRAM".to_owned()])
    );

    let writer = cluster.writer();
    cluster.keepers[primary].kill();
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    are_secured(&cluster, new);
    cluster.refuses_replication(new, clients, "prefer", "no pg_hba.conf entry");
    let said = cluster.keepers[primary].daemon.said();
    assert!(said.contains("rewind finished"), "{said}");

    cluster.move_host(primary, "10.77.0.77");
    cluster.is_whole();
    are_secured(&cluster, new);
    drop(writer.stop());
    cluster.follows(primary);
    let rules = cluster.keepers[new].access_rules();
    assert!(rules.contains("10.77.0.77/32 scram-sha-256"), "{rules}");
    let before = format!("10.77.0.{}/32", primary + 1);
    assert!(
        !rules.contains(&before),
        "the old address is let in: {rules}"
    );
}

/// Every standby streams by TLS, with a certificate of its own.
#[track_caller]
fn are_secured(cluster: &Cluster, primary: usize) {
    let rules = cluster.keepers[primary].access_rules();
    let own = rules.lines().filter(|rule| rule.contains("/32"));
    let is_strict = |rule: &str| rule.starts_with("hostssl") && rule.ends_with("scram-sha-256");
    assert_eq!(own.filter(|rule| is_strict(rule)).count(), 4, "{rules}");
    let sql = "SELECT count(*)::text FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)
        WHERE ssl AND client_dn LIKE '%member%'";
    eventually("both standbys stream by TLS", || {
        let seen = cluster.address().query(sql).ok()?;
        (seen == ["2"]).then_some(())
    });
}
