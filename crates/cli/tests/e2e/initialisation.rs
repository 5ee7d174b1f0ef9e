//! Ways in which a cluster begins: with data that are there already.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::process::{self, Surroundings, give};
use crate::harness::{eventually, stays};

/// What the superuser's keepers say.
fn shown(cluster: &Cluster, keeper: usize, parameter: &str) -> Option<String> {
    let rows = cluster.keepers[keeper]
        .direct
        .query(&format!("SHOW {parameter}"));
    rows.ok()?.into_iter().next()
}

/// Runs a program as the user of the database processes.
#[track_caller]
fn run(program: &Path, words: &[&str]) {
    let mut command: Command = process::command(program, &Surroundings::default());
    let output = command.args(words).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
}

/// The way back after a lost store, as docs/operating.md tells it: every acknowledged row is there,
/// what the operator had asked for is in the new specification, and nothing of the old data is
/// removed. newConfig is what `initdb` was told.
#[test]
fn the_cluster_of_a_lost_store_is_taken_over() {
    let config = json!({"locale": "C", "encoding": "UTF8", "dataChecksums": true});
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("newConfig", config);
    let mut cluster = Cluster::start(&plan);
    let patch = json!({"pgParameters": {"log_min_duration_statement": "7s"}}).to_string();
    cluster.ctl(&["update", "--patch", &patch]);
    let primary = cluster.primary();
    for (parameter, value) in [
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("log_min_duration_statement", "7s"),
    ] {
        eventually("newConfig and the parameter are in force", || {
            (shown(&cluster, primary, parameter)? == value).then_some(())
        });
    }
    let writer = cluster.writer();
    writer.goes_on();
    let standby = 1 - primary;
    for keeper in &mut cluster.keepers {
        keeper.kill();
    }
    let account = writer.stop();
    cluster.sentinels[0].kill();
    cluster.proxy.kill();
    cluster.lose_store();
    let uid = cluster.keepers[primary].uid.clone();
    let spec = json!({
        "initMode": "existing", "existingConfig": {"keeperUID": uid}, "sleepInterval": "1s",
        "failInterval": "6s", "proxyCheckInterval": "1s", "proxyTimeout": "3s"
    });
    cluster.ctl(&["init", "-y", &spec.to_string()]);
    cluster.sentinels[0].start();
    cluster.proxy.start();
    cluster.keepers[standby].daemon.start();
    // Nobody else's data are taken, however long it takes.
    eventually("the sentinel says whom it waits for", || {
        let said = cluster.sentinels[0].said();
        said.contains("waiting for the keeper that has the data")
            .then_some(())
    });
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    assert_eq!(cluster.primary(), primary);
    cluster.has_all(&account);
    cluster.follows(standby);
    let spec: serde_json::Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("a spec");
    assert_eq!(spec["pgParameters"]["log_min_duration_statement"], "7s");
    // It was killed: nobody could know that it had no more than the new primary.
    let kept = eventually("the standby's old data are kept", || {
        cluster.keepers[standby].replaced().pop()
    });
    assert!(
        kept.join("global/pg_control").is_file(),
        "{}",
        kept.display()
    );
    cluster.writer().goes_on();
}

/// Data that somebody made with `initdb`, with their own configuration and with what ALTER SYSTEM
/// wrote; parameters are not merged, and all of it is kept beside ours.
#[test]
fn data_made_by_hand_are_taken_over() {
    let plan = Plan::new(Store::Sqlite)
        .keepers(0)
        .with("initMode", json!("existing"))
        .with("existingConfig", json!({"keeperUID": "k0"}))
        .with("mergePgParameters", json!(false))
        .with("pgParameters", json!({"work_mem": "11MB"}));
    let mut cluster = Cluster::begin(&plan);
    let folder = cluster.keeper_folder(0);
    std::fs::create_dir(&folder).expect("a folder");
    give(&folder);
    let pgdata = folder.join("postgres");
    let password = cluster
        .folder()
        .join("superuser.password")
        .display()
        .to_string();
    let words = [
        "-D",
        &pgdata.display().to_string(),
        "-U",
        "stolon",
        "--pwfile",
        &password,
    ];
    run(&process::postgres_program("initdb"), &words);
    let conf = pgdata.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).expect("its configuration");
    let text = format!("{text}\nwork_mem = 9MB\ntemp_buffers = 9MB\nhba_file = '/nowhere'\n");
    std::fs::write(&conf, text).expect("written");
    std::fs::write(pgdata.join("postgresql.auto.conf"), "wal_buffers = '9MB'\n").expect("written");
    cluster.add_keeper(0);
    cluster.is_whole();
    let kept = std::fs::read_to_string(pgdata.join("postgresql-base.conf")).expect("kept");
    for line in [
        "work_mem = 9MB",
        "# hba_file = '/nowhere'",
        "wal_buffers = '9MB'",
    ] {
        assert!(kept.contains(line), "{line} is not in:\n{kept}");
    }
    assert!(pgdata.join("pg_hba-base.conf").is_file());
    assert_eq!(shown(&cluster, 0, "work_mem").as_deref(), Some("11MB"));
    assert_eq!(shown(&cluster, 0, "temp_buffers").as_deref(), Some("8MB"));
    let spec: serde_json::Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("a spec");
    assert_eq!(spec["pgParameters"], json!({"work_mem": "11MB"}));
    cluster.writer().goes_on();
    // A second keeper is copied from it, and the replication user that was made is used.
    cluster.add_keeper(1);
    cluster.is_whole();
}

/// A keeper that has nothing, or only a part, is never made to have something.
#[test]
fn nothing_is_made_up_where_there_are_no_data() {
    let plan = Plan::new(Store::Sqlite)
        .keepers(0)
        .with("initMode", json!("existing"))
        .with("existingConfig", json!({"keeperUID": "k0"}));
    let mut cluster = Cluster::begin(&plan);
    cluster.add_keeper(0);
    eventually("the keeper says that it has no data", || {
        let said = cluster.keepers[0].daemon.said();
        said.contains("is to take over its data and has none")
            .then_some(())
    });
    let folder = cluster.keeper_folder(0);
    let second = std::time::Duration::from_secs(1);
    stays(second, "nothing is made", || {
        !folder.join("postgres").exists()
    });
}
