//! What clients meet that come while there is no primary.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan, Store};

/// An application that connects during a failover waits, and meets no error.
#[test]
fn clients_that_come_during_a_failover_are_held_and_let_through() {
    let plan = Plan::new(Store::Sqlite).proxy_flags(&["--hold-timeout=60s"]);
    let mut cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    cluster.keepers[primary].kill();
    // Each makes one attempt to connect, and fails the test when that fails.
    let sessions: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let address = cluster.address();
                scope.spawn(move || address.hold(&format!("client{number}")))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a session"))
            .collect()
    });
    assert_ne!(cluster.primary(), primary);
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'client%'";
    assert_eq!(cluster.address().query(count), Ok(vec!["20".to_owned()]));
    drop(sessions);
}

/// With no time to hold anybody, the reason is told at once.
#[test]
fn clients_are_refused_at_once_when_nobody_is_to_be_held() {
    let plan = Plan::new(Store::Sqlite).proxy_flags(&["--hold-timeout=0"]);
    let mut cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    cluster.keepers[primary].kill();
    let began = std::time::Instant::now();
    let error = cluster.address().query("SELECT 1").expect_err("no primary");
    assert!(error.contains("no primary is open"), "{error}");
    assert!(!error.contains("waited"), "{error}");
    // The default would be ten.
    assert!(began.elapsed() < Duration::from_secs(8), "held");
}
