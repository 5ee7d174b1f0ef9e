//! `stolonctl status`, for people and for programs.

use serde_json::{Value, json};
use stolon_store::Key;

use crate::cluster::{Cluster, golden};
use crate::program::{Said, command, finish, run};

/// What the daemons of the golden cluster publish: the standby is 4096 bytes behind.
fn published() -> Vec<(Key, String)> {
    let running = golden("keeperinfo-running");
    let standby = running
        .replace("keeper01", "keeper02")
        .replace("\"deadbeef\"", "\"cafe0002\"")
        .replace("83886080", "83881984");
    vec![
        (Key::KeeperInfo("keeper01".into()), running),
        (Key::KeeperInfo("keeper02".into()), standby),
        (Key::ProxyInfo("0a0b0c0d".into()), golden("proxyinfo")),
        (Key::SentinelInfo("eeeeeeee".into()), golden("sentinelinfo")),
    ]
}

#[test]
fn people_see_sentinels_proxies_keepers_and_the_tree() {
    let cluster = Cluster::at_work();
    cluster.publish(&published());
    let text = cluster.led_by("eeeeeeee", || cluster.ctl(&["status"]).well());
    let expected = "\
=== Active sentinels ===

ID      \tLEADER
eeeeeeee\ttrue

=== Active proxies ===

ID      \tOPEN TO
0a0b0c0d\tkeeper01

=== Keepers ===

UID     \tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\tROLE   \
\tTIMELINE\tLAG \tREPLAY LAG\tSYNC\tWAL KEPT\tSTATE
keeper01\ttrue   \t10.0.0.1:5432   \ttrue      \t7                  \t7                   \tprimary\
\t3       \t-   \t-         \t-   \t-       \t-
keeper02\ttrue   \tdb2.example:5433\ttrue      \t2                  \t2                   \tstandby\
\t3       \t4096\t-         \tsync\t-       \t-
keeper03\tfalse  \t(unknown)       \tfalse     \t2                  \t0                   \tstandby\
\t0       \t-   \t-         \t-   \t-       \t(unknown)
keeper04\tfalse  \t(no db assigned)\tfalse     \t0                  \t0

=== Cluster Info ===

Master Keeper: keeper01

===== Keepers/DB tree =====

keeper01 (master)
├─keeper02
└─keeper03

";
    assert_eq!(text, expected);
}

#[test]
fn programs_see_gos_fields_and_ours_after_them() {
    let cluster = Cluster::at_work();
    cluster.publish(&published());
    let text = cluster.led_by("eeeeeeee", || cluster.ctl(&["status", "-f", "json"]).well());
    assert!(text.starts_with("{\n\t\""), "{text}");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        status["sentinels"],
        json!([{"uid": "eeeeeeee", "leader": true}])
    );
    assert_eq!(
        status["proxies"],
        json!([{"uid": "0a0b0c0d", "generation": 4}])
    );
    let keeper = &status["keepers"][1];
    for (field, value) in [
        ("uid", json!("keeper02")),
        ("listen_address", json!("db2.example:5433")),
        ("healthy", json!(true)),
        ("pg_healthy", json!(true)),
        ("pg_wanted_generation", json!(2)),
        ("pg_current_generation", json!(2)),
        ("lag_bytes", json!(4096)),
        ("role", json!("standby")),
    ] {
        assert_eq!(keeper[field], value, "{field}");
    }
    assert_eq!(status["keepers"][3]["listen_address"], "(no db assigned)");
    let found = &status["cluster"];
    assert_eq!(found["available"], true);
    assert_eq!(found["master_keeper_uid"], "keeper01");
    assert_eq!(found["master_db_uid"], "deadbeef");
}

#[test]
fn where_there_is_nothing_yet_it_says_so() {
    let nothing = "=== Active sentinels ===\n\nNo active sentinels\n\n\
                   === Active proxies ===\n\nNo active proxies\n\n\
                   === Keepers ===\n\nNo keepers available\n\n\
                   === Cluster Info ===\n\nNo cluster available\n\n";
    let cluster = Cluster::new(r#"{"initMode": "new"}"#);
    assert_eq!(cluster.ctl(&["status"]).well(), nothing);
    let text = cluster.ctl(&["status", "-f", "json"]).well();
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["cluster"]["available"], false);
    assert_eq!(
        (&status["keepers"], &status["proxies"]),
        (&json!([]), &json!([]))
    );
    // Another cluster of the same store.
    assert_eq!(
        cluster.ctl(&["status", "--cluster-name=other"]).well(),
        nothing
    );
}

#[test]
fn a_store_that_is_not_there_is_said_and_not_made() {
    let cluster = Cluster::none();
    let said = cluster.ctl(&["status"]);
    said.fails(
        1,
        &["there is no store", &cluster.file(), "--store-endpoints"],
    );
    assert!(!std::path::Path::new(&cluster.file()).exists());
    cluster
        .ctl(&["clusterdata", "read"])
        .fails(1, &["there is no store"]);
    let said = cluster.ctl(&["status", "-f", "json"]);
    let said = said.fails(1, &["there is no store"]);
    error_object(&said);
}

#[test]
fn a_store_that_does_not_answer_is_an_error_for_programs_too() {
    // Nothing listens on a port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!(
        "--store-endpoints={}",
        listener.local_addr().expect("an address")
    );
    drop(listener);
    let store = [
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "--store-timeout=1s",
        &endpoint,
    ];
    run("stolonctl", &[&store[..], &["status"]].concat()).fails(1, &[]);
    let said = run(
        "stolonctl",
        &[&store[..], &["status", "-f", "json"]].concat(),
    )
    .fails(1, &[]);
    error_object(&said);
}

/// Checks that stdout holds the same error as stderr, as an object.
#[track_caller]
fn error_object(said: &Said) {
    let object: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(object, json!({"error": said.err.trim_end()}));
}

#[test]
fn a_reader_who_has_seen_enough_is_no_fault() {
    let cluster = Cluster::at_work();
    for words in [
        &["status"][..],
        &["status", "-f", "json"],
        &["clusterdata", "read"],
        &["spec"],
    ] {
        let mut command = command("stolonctl", words);
        let mut child = command
            .envs(cluster.environment())
            .spawn()
            .expect("started");
        drop(child.stdout.take());
        let said = finish(child);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{words:?}");
    }
}
