//! Clients that only read, spread over the standbys.

use std::time::{Duration, Instant};

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::writer::Address;
use crate::harness::{eventually, free_port};

/// How many sessions of these tests an instance has.
fn readers(cluster: &Cluster, keeper: usize) -> Option<usize> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reader'";
    let counted = cluster.keepers[keeper].direct.query(sql).ok()?;
    counted.first()?.parse().ok()
}

/// They leave a standby that falls behind or is promoted, and only that; a failover does not end the
/// others. The primary takes them when no standby is left.
#[test]
fn clients_that_only_read_go_to_standbys_that_are_up_to_date() {
    let port = free_port();
    let plan = Plan::new(Store::Sqlite).proxy_flags(&[
        &format!("--read-only-port={port}"),
        "--read-only-max-lag=1MB,2m",
    ]);
    let mut cluster = Cluster::start(&plan);
    let (primary, standbys) = (cluster.primary(), cluster.standbys());
    let reads = Address {
        port,
        ..cluster.address()
    };
    let _held = eventually("both standbys are read from", || {
        let held = [(); 4].map(|()| reads.hold("reader"));
        let spread = standbys
            .iter()
            .all(|standby| readers(&cluster, *standby) == Some(2));
        spread.then_some(held)
    });
    a_statement_is_cancelled(&reads);

    let (late, prompt) = (standbys[0], standbys[1]);
    let on_late = |sql: &str| cluster.keepers[late].direct.query(sql).expect("done");
    on_late("SELECT pg_wal_replay_pause()");
    let sql = "CREATE TABLE big AS SELECT repeat(md5(i::text), 40) FROM generate_series(1, 4000) i";
    cluster.address().query(sql).expect("more than is allowed");
    eventually("who lags is left", || {
        (readers(&cluster, late)? == 0).then_some(())
    });
    assert_eq!(
        readers(&cluster, prompt),
        Some(2),
        "who does not is not left"
    );
    let said = cluster.proxy.said();
    assert!(said.contains("it lags by too many bytes"), "{said}");
    on_late("SELECT pg_wal_replay_resume()");
    let _more = eventually("who has caught up is read from again", || {
        let held = [(); 2].map(|()| reads.hold("reader"));
        (readers(&cluster, late)? == 2).then_some(held)
    });

    cluster.keepers[primary].kill();
    let promoted = cluster.another_primary_than(primary);
    let other = if promoted == late { prompt } else { late };
    eventually("who is promoted is left", || {
        (readers(&cluster, promoted)? == 0).then_some(())
    });
    assert_eq!(
        readers(&cluster, other),
        Some(2),
        "the failover ended reads elsewhere"
    );
    cluster.keepers[other].kill();
    eventually("the primary takes who reads", || {
        let answer = reads.query("SELECT pg_is_in_recovery()").ok()?;
        (answer == ["f"]).then_some(())
    });
}

/// A request to cancel reaches the session that it is about, whichever standby that is on.
fn a_statement_is_cancelled(reads: &Address) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for _ in 0..2 {
            let client = reads.connect().await.expect("a session");
            let cancel = client.cancel_token();
            let began = Instant::now();
            let (slept, cancelled) =
                tokio::join!(client.batch_execute("SELECT pg_sleep(300)"), async {
                    // Before the statement has begun there is nothing to cancel.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    cancel.cancel_query(tokio_postgres::NoTls).await
                });
            cancelled.expect("a request");
            let error = slept.expect_err("cancelled");
            let code = error.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("57014"), "{error}");
            assert!(began.elapsed() < Duration::from_secs(200));
        }
    });
}
