//! Moving over from the Go program, as docs/migration.md tells it: its store, its data directories and
//! its running PostgreSQL are there (contract, sections 3 to 5), and our processes take the place of its
//! own one by one.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cluster::{
    Cluster, Keeper, Plan, REPLICATION_PASSWORD, REPLICATION_USER, SUPERUSER, Store,
};
use crate::harness::process::{self, Process, Surroundings, give};
use crate::harness::{LIMIT, eventually, stays};

/// The names that the Go program gave.
const CLUSTER: &str = "a1b2c3d4";
const DBS: [&str; 2] = ["deadbeef", "cafe0002"];
const GENERATIONS: [i64; 2] = [7, 2];
const KEY: &str = "stolon/cluster/test";

/// Writes a file as the user of the database processes.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    give(path);
}

/// Runs one of PostgreSQL's programs.
#[track_caller]
fn run(name: &str, words: &[&str]) {
    let program = process::postgres_program(name);
    let mut command = process::command(&program, &Surroundings::default());
    command.env("PGPASSWORD", REPLICATION_PASSWORD);
    let output = command.args(words).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
}

/// The parameters of the cluster's specification, as the Go program stores and writes them.
fn users_parameters() -> Value {
    json!({"log_min_duration_statement": "7s", "max_connections": "60"})
}

/// `postgresql.conf` as a Go keeper writes it.
fn configuration(number: usize, ports: &[u16]) -> String {
    let primary = number == 0;
    let names = if primary { "stolon_cafe0002" } else { "" };
    let mut lines = vec![
        "hot_standby = 'on'".to_owned(),
        "listen_addresses = '127.0.0.1'".to_owned(),
        "log_min_duration_statement = '7s'".to_owned(),
        "max_connections = '60'".to_owned(),
        "max_replication_slots = '20'".to_owned(),
        "max_wal_senders = '47'".to_owned(),
        format!("port = '{}'", ports[number]),
        format!("synchronous_standby_names = '{names}'"),
        "unix_socket_directories = '/tmp'".to_owned(),
        "wal_keep_size = '128'".to_owned(),
        "wal_level = 'replica'".to_owned(),
    ];
    if !primary {
        let password = REPLICATION_PASSWORD.replace(' ', "\\\\ ");
        lines.push(format!(
            "primary_conninfo = 'application_name=stolon_cafe0002 host=127.0.0.1 \
             password={password} port={} sslmode=prefer user={REPLICATION_USER}'",
            ports[0]
        ));
        lines.push("primary_slot_name = 'stolon_cafe0002'".to_owned());
        lines.push("recovery_target_timeline = 'latest'".to_owned());
    }
    lines.join("\n") + "\n"
}

/// `pg_hba.conf` as a Go keeper writes it.
fn access_rules() -> String {
    let (superuser, replication) = (SUPERUSER.0, REPLICATION_USER);
    let mut rules =
        format!("local postgres {superuser} md5\nlocal replication {replication} md5\n");
    for (database, user) in [
        ("all", superuser),
        ("replication", replication),
        ("all", "all"),
    ] {
        for addresses in ["0.0.0.0/0", "::0/0"] {
            rules.extend(["host ", database, " ", user, " ", addresses, " md5\n"]);
        }
    }
    rules
}

/// A PostgreSQL as the Go program's keeper runs it, and what that keeper publishes.
struct GoKeeper {
    number: usize,
    postgres: Process,
    publishes: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl GoKeeper {
    /// Starts PostgreSQL on what [`lay_out`] left, and a thread that publishes.
    fn start(cluster: &Cluster, keeper: &Keeper, number: usize) -> Self {
        let program = process::postgres_program("postgres");
        let mut command = process::command(&program, &Surroundings::default());
        command.arg("-D").arg(&keeper.pgdata);
        command.args(["-c", "unix_socket_directories=/tmp"]);
        let log = cluster.folder().join("log").join(format!("go{number}.log"));
        let postgres = Process::start("PostgreSQL", command, &log);
        let publishes = Arc::new(AtomicBool::new(false));
        Self {
            number,
            postgres,
            publishes,
            thread: None,
        }
    }

    /// Publishes every half second what its instance is, without anything that is ours.
    fn publish(&mut self, cluster: &Cluster, keeper: &Keeper) {
        self.publishes.store(true, Ordering::SeqCst);
        let (going, number) = (self.publishes.clone(), self.number);
        let (direct, url) = (keeper.direct.clone(), cluster.etcd[0].url.clone());
        let uid = keeper.uid.clone();
        let mut count = 0;
        self.thread = Some(std::thread::spawn(move || {
            while going.load(Ordering::SeqCst) {
                count += 1;
                let sql = "SELECT system_identifier || ' ' || CASE WHEN pg_is_in_recovery()
                    THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'
                    FROM pg_control_system()";
                let seen = direct.query(sql).ok().and_then(|mut rows| rows.pop());
                let seen = seen.unwrap_or_default();
                let (system, position) = seen.split_once(' ').unwrap_or_default();
                let synchronous = if number == 0 {
                    json!([DBS[1]])
                } else {
                    json!(null)
                };
                let state = json!({
                    "uid": DBS[number], "generation": GENERATIONS[number],
                    "listenAddress": "127.0.0.1", "port": direct.port.to_string(),
                    "healthy": !system.is_empty(), "systemID": system, "timelineID": 1,
                    "xLogPos": position.parse::<u64>().unwrap_or(0),
                    "pgParameters": users_parameters(), "synchronousStandbys": synchronous,
                    "olderWalFile": "000000010000000000000001"
                });
                let info = json!({
                    "infoUID": format!("{count:08x}"), "uid": uid, "clusterUID": CLUSTER,
                    "bootUUID": boot_uuid(number),
                    "postgresBinaryVersion": {"Maj": 15, "Min": 4}, "postgresState": state,
                    "canBeMaster": true, "canBeSynchronousReplica": true
                });
                put(&url, &format!("keepers/info/{uid}"), &info);
                std::thread::sleep(Duration::from_millis(500));
            }
        }));
    }

    /// The keeper is killed; its PostgreSQL lives on.
    fn kill(&mut self) {
        self.publishes.store(false, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the publications end");
        }
    }

    /// The keeper is stopped, and stops its PostgreSQL.
    fn stop(&mut self) {
        self.kill();
        self.postgres.signal(Signal::INT);
        self.postgres.wait(LIMIT);
    }
}

impl Drop for GoKeeper {
    fn drop(&mut self) {
        self.kill();
    }
}

fn boot_uuid(number: usize) -> String {
    format!("0b2a4f7e-9f5e-4f43-9d3a-6f0a0c1d2e3{number}")
}

/// Writes a value into the store as any program may.
fn put(url: &str, key: &str, value: &Value) {
    let mut command = std::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3");
    command.args([&format!("--endpoints={url}"), "--command-timeout=5s", "put"]);
    command.args([&format!("{KEY}/{key}"), &value.to_string()]);
    let output = command.output().expect("etcdctl");
    assert!(output.status.success(), "{output:?}");
}

/// What a Go keeper leaves in a data directory, beside the data.
fn lay_out(keeper: &Keeper, number: usize, ports: &[u16]) {
    let folder = keeper.pgdata.parent().expect("a folder");
    let uid = &keeper.uid;
    let state = json!({"UID": uid, "ClusterUID": CLUSTER});
    write(&folder.join("keeperstate"), &state.to_string());
    let state = json!({
        "UID": DBS[number], "Generation": GENERATIONS[number], "Initializing": false,
        "InitPGParameters": null
    });
    write(&folder.join("dbstate"), &state.to_string());
    write(&folder.join("lock"), "");
    let file = |name: &str| keeper.pgdata.join(name);
    write(&file("postgresql.conf"), &configuration(number, ports));
    write(&file("pg_hba.conf"), &access_rules());
    // Left from the initialisation.
    write(&file("stolon-temp-postgresql.conf"), "fsync = 'on'\n");
    write(&file("postgresql-base.conf"), "# what initdb wrote\n");
    let automatic = file("postgresql.auto.conf");
    if std::fs::symlink_metadata(&automatic).is_ok() {
        std::fs::remove_file(&automatic).expect("removed");
    }
    symlink("/dev/null", automatic).expect("a link");
    if number > 0 {
        write(&file("standby.signal"), "");
    }
}

/// The cluster data as a Go sentinel wrote them last.
fn cluster_data(keepers: &[Keeper], system: &str) -> Value {
    let time = "2023-09-06T14:02:01.5+02:00";
    let keeper = |number: usize| {
        json!({
            "uid": keepers[number].uid, "generation": 1, "changeTime": "0001-01-01T00:00:00Z",
            "spec": {}, "status": {
                "healthy": true, "lastHealthyTime": time, "bootUUID": boot_uuid(number),
                "postgresBinaryVersion": {"Maj": 15, "Min": 4}, "canBeMaster": true,
                "canBeSynchronousReplica": true
            }
        })
    };
    let db = |number: usize| {
        let mut spec = json!({
            "keeperUID": keepers[number].uid, "requestTimeout": "10s", "maxStandbys": 20,
            "additionalWalSenders": 5, "additionalReplicationSlots": null, "initMode": "none",
            "pgParameters": users_parameters(), "pgHBA": null, "role": "standby",
            "followers": [], "synchronousStandbys": null, "externalSynchronousStandbys": null
        });
        if number == 0 {
            spec["role"] = json!("master");
            spec["synchronousReplication"] = json!(true);
            spec["followers"] = json!([DBS[1]]);
            spec["synchronousStandbys"] = json!([DBS[1]]);
        } else {
            spec["followConfig"] = json!({"type": "internal", "dbuid": DBS[0]});
        }
        let synchronous = if number == 0 {
            json!([DBS[1]])
        } else {
            json!(null)
        };
        json!({
            "uid": DBS[number], "generation": GENERATIONS[number], "changeTime": time,
            "spec": spec, "status": {
                "healthy": true, "currentGeneration": GENERATIONS[number],
                "listenAddress": "127.0.0.1", "port": keepers[number].direct.port.to_string(),
                "systemdID": system, "timelineID": 1, "xLogPos": 83_886_080,
                "pgParameters": users_parameters(), "synchronousStandbys": synchronous,
                "olderWalFile": "000000010000000000000001"
            }
        })
    };
    let cluster_spec = json!({
        "sleepInterval": "1s", "failInterval": "6s", "proxyCheckInterval": "1s",
        "proxyTimeout": "3s", "synchronousReplication": true, "additionalWalSenders": null,
        "additionalMasterReplicationSlots": null, "initMode": "new",
        "pgParameters": users_parameters(), "pgHBA": null, "automaticPgRestart": null
    });
    json!({
        "formatVersion": 1, "changeTime": time,
        "cluster": {
            "uid": CLUSTER, "generation": 1, "changeTime": time, "spec": cluster_spec,
            "status": {"phase": "normal", "master": DBS[0]}
        },
        "keepers": {&keepers[0].uid: keeper(0), &keepers[1].uid: keeper(1)},
        "dbs": {DBS[0]: db(0), DBS[1]: db(1)},
        "proxy": {
            "generation": 4, "changeTime": time,
            "spec": {"masterDbUid": DBS[0], "enabledProxies": []}, "status": {}
        }
    })
}

/// A cluster of the Go program that runs: PostgreSQL with two keepers, and what they left in the store.
/// Its sentinels and proxies are gone already.
fn go_cluster() -> (Cluster, Vec<GoKeeper>) {
    let mut cluster = Cluster::nothing_but_a_store(&Plan::new(Store::Etcd));
    let mut keepers: Vec<Keeper> = (0..2).map(|number| cluster.keeper(number)).collect();
    let ports: Vec<u16> = keepers.iter().map(|keeper| keeper.direct.port).collect();
    for keeper in &mut keepers {
        let folder = keeper.pgdata.parent().expect("a folder");
        std::fs::create_dir(folder).expect("a folder");
        give(folder);
        // Where the Go program's sockets are.
        keeper.daemon.add_flag("--pg-socket-dir=/tmp");
    }
    let password = cluster.folder().join("superuser.password");
    let password = password.display().to_string();
    let place = keepers[0].pgdata.display().to_string();
    run(
        "initdb",
        &["-D", &place, "-U", SUPERUSER.0, "--pwfile", &password],
    );
    lay_out(&keepers[0], 0, &ports);
    let mut go = vec![GoKeeper::start(&cluster, &keepers[0], 0)];
    let primary = keepers[0].direct.clone();
    eventually("it answers", || primary.query("SELECT 1").ok());
    let ask = |sql: &str| primary.query(sql).expect(sql).pop().unwrap_or_default();
    // Its standby is not there yet.
    let role = format!(
        "CREATE ROLE {REPLICATION_USER} REPLICATION LOGIN PASSWORD '{REPLICATION_PASSWORD}'"
    );
    for sql in [
        role.as_str(),
        "CREATE TABLE theirs AS SELECT n FROM generate_series(1, 1000) n",
    ] {
        primary
            .query(&format!("SET synchronous_commit = local; {sql}"))
            .expect(sql);
    }
    ask("SELECT pg_create_physical_replication_slot('stolon_cafe0002')");
    let (place, port) = (
        keepers[1].pgdata.display().to_string(),
        ports[0].to_string(),
    );
    let words = [
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        REPLICATION_USER,
        "-X",
        "stream",
    ];
    run(
        "pg_basebackup",
        &[&words[..], &["-c", "fast", "-D", &place]].concat(),
    );
    lay_out(&keepers[1], 1, &ports);
    go.push(GoKeeper::start(&cluster, &keepers[1], 1));
    let sql = "SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'sync'";
    eventually("commits wait for the standby", || {
        (primary.query(sql).ok()? == ["1"]).then_some(())
    });
    let system = ask("SELECT system_identifier::text FROM pg_control_system()");
    let data = cluster_data(&keepers, &system);
    put(&cluster.etcd[0].url, "clusterdata", &data);
    for (go, keeper) in go.iter_mut().zip(&keepers) {
        go.publish(&cluster, keeper);
    }
    cluster.keepers = keepers;
    (cluster, go)
}

/// The names of everything in the cluster data, with who is what.
fn names(cluster: &Cluster) -> Value {
    let data = cluster.data().unwrap_or_default();
    let dbs = data["dbs"].as_object().cloned().unwrap_or_default();
    let dbs = dbs.iter().map(|(uid, db)| {
        let spec = &db["spec"];
        json!([uid, spec["keeperUID"], spec["role"], spec["initMode"]])
    });
    json!({
        "cluster": data["cluster"]["uid"], "primary": data["cluster"]["status"]["master"],
        "open": data["proxy"]["spec"]["masterDbUid"], "dbs": dbs.collect::<Vec<_>>(),
        "keepers": data["keepers"].as_object().map(|all| all.keys().cloned().collect::<Vec<_>>()),
    })
}

/// Waits until a keeper of ours has its instance where it is to be.
#[track_caller]
fn has_converged(cluster: &Cluster, number: usize) {
    eventually("our keeper has done all that it is told", || {
        let data = cluster.data()?;
        let db = &data["dbs"][DBS[number]];
        let info = cluster.keepers[number].daemon.said();
        let is_round = info.contains("postgres parameters not changed");
        let is_there = db["status"]["currentGeneration"] == db["generation"];
        (is_round && is_there && db["status"]["healthy"] == true).then_some(())
    });
}

/// The rehearsal: sentinel, proxy, the standby's keeper (whose Go keeper stopped its instance, as it does),
/// the primary's keeper (whose Go keeper was killed, so that its instance runs on). Clients write all the
/// time and notice nothing; nothing is copied, nothing has another name, nothing waits for a restart. Then
/// the cluster fails over as any.
#[test]
fn a_cluster_of_the_go_program_is_taken_over_one_process_at_a_time() {
    let (mut cluster, mut go) = go_cluster();
    let before = names(&cluster);
    let postmaster = cluster.keepers[0].postmaster();
    let copy = std::fs::metadata(&cluster.keepers[1].pgdata)
        .expect("data")
        .ino();
    cluster.add_sentinel(0);
    eventually("ours leads", || {
        let said = cluster.sentinels[0].said();
        said.contains("leadership acquired").then_some(())
    });
    let same = |cluster: &Cluster| names(cluster) == before;
    stays(Duration::from_secs(3), "nothing has another name", || {
        same(&cluster)
    });
    cluster.proxy.start();
    eventually("the proxy leads to the primary", || {
        cluster.address().query("SELECT 1").ok()
    });
    let writer = cluster.writer();
    writer.goes_on();

    go[1].stop();
    cluster.keepers[1].daemon.start();
    has_converged(&cluster, 1);
    writer.goes_on();
    go[0].kill();
    cluster.keepers[0].daemon.start();
    has_converged(&cluster, 0);
    cluster.is_whole();
    writer.goes_on();
    let account = writer.stop();
    assert_eq!(account.errors, Vec::<String>::new(), "clients noticed");
    assert_eq!(names(&cluster), before);
    assert_eq!(
        cluster.keepers[0].postmaster(),
        postmaster,
        "it was restarted"
    );
    let now = std::fs::metadata(&cluster.keepers[1].pgdata)
        .expect("data")
        .ino();
    assert_eq!(now, copy, "it was copied");
    let status: Value =
        serde_json::from_str(&cluster.ctl(&["status", "-f", "json"])).expect("json");
    for keeper in status["keepers"].as_array().expect("keepers") {
        assert_eq!(keeper["pending_restart"], json!([]), "{keeper}");
    }
    cluster.has_all(&account);
    cluster.holds_the_same();

    let writer = cluster.writer();
    writer.goes_on();
    cluster.keepers[0].kill();
    // It is this test's child: until somebody asks for its end it counts as running.
    go[0].postgres.wait(LIMIT);
    assert_eq!(cluster.another_primary_than(0), 1);
    // Commits wait for it.
    cluster.keepers[0].daemon.start();
    cluster.is_whole();
    writer.goes_on();
    let account = writer.stop();
    cluster.has_all(&account);
    cluster.holds_the_same();
    let rows = cluster.address().query("SELECT count(*)::text FROM theirs");
    assert_eq!(rows, Ok(vec!["1000".to_owned()]));
}
