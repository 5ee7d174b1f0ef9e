//! Connections that are all taken, disks that are full, processes that are stuck: told apart from an
//! instance that is dead, and got over without an operator.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::process;
use crate::harness::{can_freeze, can_mount, eventually, free_port, plain_http, stays};
use crate::synchronous::synchronous_standby;

/// B1, B2: commits that wait for a standby that hangs hold every connection, the superuser's too. That is no
/// death: nobody is elected, status says what it is, and another standby takes its place.
#[test]
fn commits_that_hold_every_connection_go_on_with_another_standby() {
    let plan = Plan::new(Store::Sqlite)
        .synchronous()
        .with("failInterval", json!("8s"))
        .with("pgParameters", json!({"max_connections": "20"}));
    let cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let standby = synchronous_standby(&cluster);
    let setup = "CREATE TABLE waited (id int); CREATE ROLE plain LOGIN PASSWORD 'plain';
        GRANT INSERT ON waited TO plain";
    cluster.address().query(setup).expect("a table and a user");
    let superuser = cluster.keepers[primary].direct.clone();
    let mut client = superuser.clone();
    (client.user, client.password) = ("plain".to_owned(), "plain".to_owned());
    cluster.freeze(standby);
    let insert = "INSERT INTO waited VALUES (1)";
    let mut waiting: Vec<_> = (0..17).map(|_| client.ask(insert)).collect();
    eventually("status says what it is", || {
        let status = cluster.ctl(&["status"]);
        let says = "saturated, all 17 places for users' connections are taken";
        let is_said = status.contains(says);
        // Of many who come at once some may be refused before the places are taken.
        waiting.push(client.ask(insert));
        is_said.then_some(())
    });
    // More than there is room for, that of superusers included.
    waiting.extend((0..5).map(|_| superuser.ask(insert)));
    let outcomes: Vec<_> = waiting
        .into_iter()
        .map(|one| one.join().expect("it ran"))
        .collect();
    let full =
        |outcome: &&Result<_, String>| outcome.as_ref().is_err_and(|e| e.starts_with("53300"));
    let refused = outcomes.iter().filter(full).count();
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(refused > 0 && done >= 10, "{outcomes:?}");
    assert_eq!(done + refused, outcomes.len(), "{outcomes:?}");
    assert_eq!(cluster.primary(), primary, "nobody was elected");
    let said = cluster.sentinels[0].said();
    assert!(!said.contains("primary-failed"), "{said}");
    cluster.keepers[standby].thaw();
    cluster.is_whole();
}

/// B2: whoever takes all WAL senders keeps standbys out, and fails nobody. A standby that is kept out is
/// well and not ready: a rollout waits for it.
#[test]
fn taken_wal_senders_fail_nobody() {
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("maxStandbys", json!(1))
        .with("additionalWalSenders", json!(0));
    let mut cluster = Cluster::start(&plan);
    let (primary, standby) = (cluster.primary(), cluster.standbys()[0]);
    cluster.keepers[standby].kill();
    let greedy: Vec<_> = (0..4).map(|n| cluster.receive_wal(primary, n)).collect();
    eventually("status says what it is", || {
        cluster
            .ctl(&["status"])
            .contains("all 4 WAL senders are taken")
            .then_some(())
    });
    let probes = format!("127.0.0.1:{}", free_port());
    let daemon = &mut cluster.keepers[standby].daemon;
    daemon.add_flag(&format!("--metrics-listen-address={probes}"));
    daemon.start();
    let is_good = |path: &str| plain_http::ask(&probes, "GET", path, "").is_some();
    eventually("the standby says why it does not follow", || {
        cluster
            .ctl(&["status"])
            .contains("max_wal_senders")
            .then_some(())
    });
    assert!(is_good("/livez") && !is_good("/readyz"));
    stays(Duration::from_secs(8), "nobody is elected", || {
        cluster.open_primary() == Some(primary)
    });
    assert!(is_good("/livez") && !is_good("/readyz"));
    drop(greedy);
    cluster.is_whole();
    eventually("it is ready", || is_good("/readyz").then_some(()));
}

/// B3: the disk of the primary is full, and its PostgreSQL ends. A standby takes over; once there is room
/// again the old primary comes back by itself. B10: meanwhile status says what it is.
#[test]
fn a_primary_whose_disk_is_full_gives_way_and_comes_back() {
    if !can_mount("a_primary_whose_disk_is_full_gives_way_and_comes_back") {
        return;
    }
    let plan = Plan::new(Store::Sqlite)
        .synchronous()
        .with("usePgrewind", json!(true))
        .small_disks()
        // Old WAL is not used again: each new file of it needs room.
        .with("pgParameters", json!({"wal_keep_size": "2000"}));
    let cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.fill_disk(primary);
    // What PostgreSQL has prepared of WAL is used up before it misses the room.
    let direct = cluster.keepers[primary].direct.clone();
    eventually("PostgreSQL ends for want of room", || {
        let wal =
            "SELECT pg_logical_emit_message(false, 'e2e', repeat('x', 3000000)), pg_switch_wal()";
        drop(direct.query(wal));
        (cluster.open_primary() != Some(primary)).then_some(())
    });
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    eventually("status says what it is", || {
        cluster
            .ctl(&["status"])
            .contains("the disk is full")
            .then_some(())
    });
    let said = cluster.keepers[primary].daemon.said();
    assert!(said.contains("disk-trouble"), "{said}");
    cluster.empty_disk(primary);
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "it takes nothing back");
    cluster.has_all(&writer.stop());
    cluster.follows(primary);
}

/// B10: the file system under the primary's data hangs. PostgreSQL answers, out of memory, and every commit
/// waits: it is failed like one that does not answer, and comes back when the file system does. B8: what the
/// keeper was writing hangs too, and it ends the instance all the same.
#[test]
fn a_primary_whose_disk_hangs_gives_way_and_comes_back() {
    if !can_freeze("a_primary_whose_disk_hangs_gives_way_and_comes_back") {
        return;
    }
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("usePgrewind", json!(true))
        .with("convergenceTimeout", json!("10s"))
        // Enough for the parameter to be on its way to the disk before.
        .with("failInterval", json!("12s"))
        .hanging_disks();
    let cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.hang_disk(primary);
    let direct = &cluster.keepers[primary].direct;
    assert_eq!(direct.query("SELECT 1"), Ok(vec!["1".to_owned()]));
    let parameters = r#"{"pgParameters": {"log_min_duration_statement": "1234ms"}}"#;
    cluster.ctl(&["update", "-p", parameters]);
    eventually("status says what it is", || {
        let status = cluster.ctl(&["status"]);
        status.contains("the disk hangs").then_some(())
    });
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    let keeper = &cluster.keepers[primary].daemon;
    eventually("the step that hangs is told", || {
        let told = "failed to write the configuration";
        let said = keeper.said();
        (said.contains(told) && said.contains("the disk may hang")).then_some(())
    });
    // Not even the kernel can end who waits for that disk; nobody is answered any more.
    eventually("the instance is told to stop", || {
        direct.query("SELECT 1").err()?;
        keeper
            .said()
            .contains("fast shutdown request")
            .then_some(())
    });
    cluster.mend_disk(primary);
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "it takes nothing back");
    drop(writer.stop());
    cluster.follows(primary);
}

/// B10: the file system under the primary's data turns read-only, as after an error of the disk. It is failed,
/// status says why, and it comes back on a disk that was mounted anew.
#[test]
fn a_primary_whose_disk_turns_read_only_gives_way_and_comes_back() {
    if !can_freeze("a_primary_whose_disk_turns_read_only_gives_way_and_comes_back") {
        return;
    }
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("usePgrewind", json!(true))
        .hanging_disks();
    let mut cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let writer = cluster.writer();
    cluster.fail_disk(primary);
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    eventually("status says what it is", || {
        let status = cluster.ctl(&["status"]);
        let status = status.to_lowercase();
        status.contains("read-only").then_some(())
    });
    cluster.start_on_mended_disk(primary);
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "it takes nothing back");
    drop(writer.stop());
    cluster.follows(primary);
}

/// B8: the backend of the keeper's own session hangs. The keeper notices, says so, and goes on with
/// another one; the instance is not taken for dead.
#[test]
fn a_stuck_session_of_the_keeper_is_replaced() {
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2).with(
        "failInterval",
        // An answer is waited for for three sleepIntervals.
        json!("12s"),
    ));
    let primary = cluster.primary();
    let direct = cluster.keepers[primary].direct.clone();
    let session = || {
        let sql = "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'stolon-keeper'
            AND client_addr IS NULL ORDER BY backend_start DESC";
        let pids = direct.query(sql).ok()?;
        pids.first()?.parse::<i32>().ok()
    };
    let stuck = eventually("the keeper has a session", session);
    process::send(stuck, Signal::STOP);
    eventually("it is noticed", || {
        let said = cluster.keepers[primary].daemon.said();
        said.contains("the instance does not answer").then_some(())
    });
    eventually("there is another session", || {
        session().filter(|pid| *pid != stuck)
    });
    process::send(stuck, Signal::CONT);
    cluster.is_whole();
    assert_eq!(cluster.primary(), primary);
    let said = cluster.sentinels[0].said();
    assert!(!said.contains("primary-failed"), "{said}");
}
