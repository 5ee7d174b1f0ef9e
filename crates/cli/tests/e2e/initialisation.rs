//! Ways in which a cluster begins: with data that are there already, or from a backup.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

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
    let seen = "SELECT concat_ws(' ', current_setting('data_checksums'), datcollate,
            pg_encoding_to_char(encoding), current_setting('log_min_duration_statement'))
        FROM pg_database WHERE datname = 'postgres'";
    eventually("newConfig and the parameter are in force", || {
        let seen = cluster.keepers[primary].direct.query(seen).ok()?;
        (seen == ["on C UTF8 7s"]).then_some(())
    });
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
    let spec: Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("a spec");
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
        .with("usePgrewind", json!(true))
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
        "--wal-segsize=1",
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
    let spec: Value = serde_json::from_str(&cluster.ctl(&["spec"])).expect("a spec");
    assert_eq!(spec["pgParameters"], json!({"work_mem": "11MB"}));
    cluster.writer().goes_on();
    // A second keeper is copied from it, and the replication user that was made is used.
    cluster.add_keeper(1);
    cluster.is_whole();
    // C6: files of WAL are of 1 MB here. Some of them later the other takes over, and this one is rewound.
    assert_eq!(
        shown(&cluster, 0, "wal_segment_size").as_deref(),
        Some("1MB")
    );
    let wal = "SELECT pg_logical_emit_message(false, 'e2e', repeat('x', 3000000))";
    cluster.address().query(wal).expect("written");
    let writer = cluster.writer();
    writer.goes_on();
    cluster.keepers[0].kill();
    assert_eq!(cluster.another_primary_than(0), 1);
    writer.goes_on();
    cluster.keepers[0].daemon.start();
    cluster.is_whole();
    drop(writer.stop());
    cluster.follows(0);
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

/// A base backup of a cluster that is gone, and the WAL that it archived afterwards: four rows, each
/// with what names the moment after it.
struct Backup {
    base: String,
    archive: String,
    /// `(recoveryTargetSettings, rows)`.
    targets: Vec<(Value, &'static str)>,
}

impl Backup {
    /// In `folder`, which outlives the cluster that it is made of.
    fn make(folder: &Path) -> Self {
        let (base, archive) = (folder.join("base"), folder.join("archive"));
        std::fs::create_dir(&archive).expect("a folder");
        give(&archive);
        give(folder);
        // A file appears when it is whole.
        let place = archive.display();
        let command = format!("cp %p {place}/part && mv {place}/part {place}/%f");
        let parameters = json!({"archive_mode": "on", "archive_command": command});
        let plan = Plan::new(Store::Sqlite)
            .keepers(1)
            .with("pgParameters", parameters);
        let cluster = Cluster::start(&plan);
        let server = &cluster.keepers[0].direct;
        let ask = |sql: &str| server.query(sql).expect(sql).pop().unwrap_or_default();
        ask("CREATE TABLE kept (id int)");
        cluster.keepers[0].copy_to(&base, &["-X", "none"]);
        ask("INSERT INTO kept VALUES (1)");
        ask("SELECT pg_create_restore_point('first')");
        ask("INSERT INTO kept VALUES (2)");
        let time = ask("SELECT clock_timestamp()::text");
        ask("INSERT INTO kept VALUES (3)");
        let lsn = ask("SELECT pg_current_wal_insert_lsn()::text");
        let xid = ask("INSERT INTO kept VALUES (4) RETURNING xmin::text");
        ask("INSERT INTO kept VALUES (5)");
        let last = ask("SELECT pg_walfile_name(pg_switch_wal())");
        eventually("the WAL is archived", || {
            archive.join(&last).exists().then_some(())
        });
        let target = |name: &str, value: &str| json!({name: value});
        Self {
            base: base.display().to_string(),
            archive: archive.display().to_string(),
            targets: vec![
                (target("recoveryTargetName", "first"), "1"),
                (target("recoveryTargetTime", &time), "2"),
                (target("recoveryTargetLsn", &lsn), "3"),
                (target("recoveryTargetXid", &xid), "4"),
                (json!({"recoveryTargetTimeline": "latest"}), "5"),
            ],
        }
    }
}

/// Begins the cluster anew with a restored one, in place of what is there.
fn restore(cluster: &Cluster, command: &str, archive: &str, target: &Value) {
    let data = cluster.data().expect("cluster data");
    let uid = data["cluster"]["uid"].as_str().expect("its uid").to_owned();
    let spec = json!({
        "initMode": "pitr", "mergePgParameters": false, "sleepInterval": "1s", "failInterval": "6s",
        "proxyCheckInterval": "1s", "proxyTimeout": "3s",
        "pitrConfig": {
            "dataRestoreCommand": command,
            "archiveRecoverySettings": {"restoreCommand": archive},
            "recoveryTargetSettings": target,
        }
    });
    cluster.ctl(&["init", "-y", "--replace-cluster", &uid, &spec.to_string()]);
}

/// What the clients read, once they are let in to a cluster that has the restored table.
#[track_caller]
fn restored_rows(cluster: &Cluster, rows: &str) {
    eventually("the restored cluster serves", || {
        let sql = "SELECT count(*)::text FROM kept WHERE NOT pg_is_in_recovery()";
        let found = cluster.address().query(sql).ok()?;
        (found == [rows]).then_some(())
    });
}

/// C9: one recovery, promoted once, to each kind of target. A cluster that has data is replaced by
/// each, and its data are kept.
#[test]
fn a_backup_is_restored_to_every_kind_of_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let backup = Backup::make(folder.path());
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    for (number, (target, rows)) in backup.targets.iter().enumerate() {
        let command = format!("echo restoring; cp -a {}/. %d", backup.base);
        restore(
            &cluster,
            &command,
            &format!("cp {}/%f %p", backup.archive),
            target,
        );
        restored_rows(&cluster, rows);
        let said = cluster.keepers[0].daemon.said();
        let times = |text: &str| said.matches(text).count();
        assert_eq!(times("archive recovery complete"), number + 1, "{target}");
        assert_eq!(times("\"output\": \"restoring\""), number + 1, "{target}");
    }
    cluster.writer().goes_on();
    // What the recovery went by waits for no restart.
    let status = eventually("a status", || {
        let output = cluster.try_ctl(&["status", "-f", "json"]);
        serde_json::from_slice::<Value>(&output.stdout).ok()
    });
    assert_eq!(
        status["keepers"][0]["pending_restart"],
        json!([]),
        "{status}"
    );
    assert!(
        !cluster.keepers[0].replaced().is_empty(),
        "the data before are kept"
    );
}

/// A standby's data that are taken over get the WAL that their archive has more than they, before they
/// are promoted; whether the rest of their configuration is taken over or not.
#[test]
fn a_standby_that_is_taken_over_recovers_what_its_archive_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let backup = Backup::make(folder.path());
    let plan = Plan::new(Store::Sqlite)
        .keepers(0)
        .with("initMode", json!("existing"))
        .with("existingConfig", json!({"keeperUID": "k0"}))
        .with("mergePgParameters", json!(false));
    let mut cluster = Cluster::begin(&plan);
    let place = cluster.keeper_folder(0);
    std::fs::create_dir(&place).expect("a folder");
    give(&place);
    let pgdata = place.join("postgres").display().to_string();
    run(Path::new("/bin/cp"), &["-a", &backup.base, &pgdata]);
    let archive = format!(
        "restore_command = 'cp {}/%f \"%p\"' # theirs\n",
        backup.archive
    );
    for (name, text) in [
        ("postgresql.auto.conf", archive.as_str()),
        ("standby.signal", ""),
    ] {
        let path = Path::new(&pgdata).join(name);
        std::fs::write(&path, text).expect("written");
        give(&path);
    }
    cluster.add_keeper(0);
    restored_rows(&cluster, "5");
    let command = "SELECT setting FROM pg_file_settings WHERE name = 'restore_command'";
    eventually("the archive is not gone by any more", || {
        let found = cluster.keepers[0].direct.query(command).ok()?;
        found.is_empty().then_some(())
    });
    cluster.writer().goes_on();
}

/// C8, C9: the keeper is killed while the data are restored, and with its PostgreSQL while they
/// recover: the restore is begun anew, the recovery goes on.
#[test]
fn a_keeper_that_is_killed_restores_anew_and_recovers_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let backup = Backup::make(folder.path());
    let file = |name: &str| folder.path().join(name);
    let path = |name: &str| file(name).display().to_string();
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let wait = |name: &str| format!("while ! test -e {}; do sleep 0.1; done", path(name));
    let command = format!(
        "echo x >> {}; {}; cp -a {}/. %d",
        path("restores"),
        wait("go"),
        backup.base
    );
    let archive = format!(
        "echo x >> {}; {}; cp {}/%f %p",
        path("recoveries"),
        wait("on"),
        backup.archive
    );
    let (target, rows) = &backup.targets[3];
    restore(&cluster, &command, &archive, target);
    let lines = |name: &str| {
        let text = std::fs::read_to_string(file(name)).unwrap_or_default();
        text.lines().count()
    };
    let began = |name: &'static str, times| {
        eventually("it began", || (lines(name) >= times).then_some(()));
    };
    began("restores", 1);
    cluster.keepers[0].daemon.kill();
    cluster.keepers[0].daemon.start();
    began("restores", 2);
    std::fs::write(file("go"), "").expect("written");
    began("recoveries", 1);
    let asked = lines("recoveries");
    cluster.keepers[0].kill();
    cluster.keepers[0].daemon.start();
    began("recoveries", asked + 1);
    std::fs::write(file("on"), "").expect("written");
    restored_rows(&cluster, rows);
    assert_eq!(
        lines("restores"),
        2,
        "what was restored is not restored again"
    );
    cluster.writer().goes_on();
}
