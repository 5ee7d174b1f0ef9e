//! Commands that change a cluster, and what they refuse.

use serde_json::{Value, json};

use stolon_store::Key;

use crate::cluster::{Cluster, golden};
use crate::program::{command, finish};

const NEW: &str = r#"{"initMode": "new", "failInterval": "7s", "pgParameters": {"a": "1"}}"#;

#[test]
fn a_patch_merges_and_a_whole_spec_replaces() {
    let cluster = Cluster::new(NEW);
    let patch = r#"{"synchronousReplication": true, "pgParameters": {"a": null, "b": "2"}}"#;
    assert_eq!(cluster.ctl(&["update", "-p", patch]).well(), "");
    let spec = cluster.spec();
    assert_eq!(spec["failInterval"], "7s");
    assert_eq!(spec["synchronousReplication"], true);
    assert_eq!(spec["pgParameters"], json!({"b": "2"}));

    let whole = r#"{"initMode": "new", "sleepInterval": "3s"}"#;
    assert_eq!(cluster.ctl_with(&["update", "-f", "-"], whole).well(), "");
    let spec = cluster.spec();
    assert_eq!(spec["sleepInterval"], "3s");
    assert_eq!(spec.get("failInterval"), None);
}

#[test]
fn a_list_is_replaced_and_null_removes() {
    let cluster = Cluster::new(r#"{"initMode": "new", "pgHBA": ["host all all all md5"]}"#);
    let update = |patch: &str| cluster.ctl(&["update", "--patch", patch]).well();
    update(r#"{"pgHBA": ["host a a all md5", "host b b all md5"]}"#);
    assert_eq!(
        cluster.spec()["pgHBA"],
        json!(["host a a all md5", "host b b all md5"])
    );
    update(r#"{"pgHBA": null}"#);
    assert_eq!(cluster.spec()["pgHBA"], Value::Null);
}

#[test]
fn a_wrong_update_says_why_and_changes_nothing() {
    let cluster = Cluster::new(NEW);
    let cases: [(&[&str], &[&str]); 8] = [
        (&[], &["no cluster spec provided", "argument", "--file"]),
        (&["-p", "{"], &["invalid cluster spec", "not JSON"]),
        (&["-p", "7"], &["JSON object"]),
        (&["-p", r#"{"sleepInterval": 5}"#], &["field sleepInterval"]),
        (&["-p", r#"{"failInterval": "-1s"}"#], &["failInterval"]),
        (&["-p", r#"{"initMode": "pitr"}"#], &["pitr"]),
        (&["-p", r#"{"role": "standby"}"#], &["role is standby"]),
        (&["{}"], &["initMode is not set"]),
    ];
    for (words, said) in cases {
        cluster.refuses(&[&["update"], words].concat(), 1, said);
    }
}

#[test]
fn what_a_go_process_would_not_survive_is_refused_while_one_runs() {
    let cluster = Cluster::new(NEW);
    let none_needed = r#"{"minSynchronousStandbys": 0}"#;
    let key = Key::KeeperInfo("keeper01".into());
    cluster.publish(&[(key.clone(), golden("keeperinfo-running"))]);
    let said = ["minSynchronousStandbys 0", "Go program", "keeper keeper01"];
    cluster.refuses(&["update", "-p", none_needed], 1, &said);
    let ours = golden("keeperinfo-running").replacen('{', r#"{"impl": "rust","#, 1);
    cluster.publish(&[(key, ours)]);
    cluster.ctl(&["update", "-p", none_needed]).well();
}

#[test]
fn more_synchronous_standbys_than_may_exist_are_warned_of() {
    let cluster = Cluster::new(NEW);
    let patch = r#"{"synchronousReplication": true, "minSynchronousStandbys": 2,
                    "maxSynchronousStandbys": 2, "maxStandbys": 1}"#;
    let said = cluster.ctl(&["update", "-p", patch]);
    assert_eq!(said.status, 0, "{said:?}");
    let line = "warning: maxStandbys is 1: it must be at least minSynchronousStandbys (2), or no \
                transaction can be committed";
    assert_eq!(said.err.trim_end(), line);
}

#[test]
fn fields_nobody_knows_are_warned_of_with_what_was_perhaps_meant() {
    let cluster = Cluster::new(NEW);
    let patch = r#"{"sleepIntervall": "2s", "newConfig": {"maxStandbys": 3}, "work_mem": "4MB"}"#;
    let said = cluster.ctl(&["update", "-p", patch]);
    assert_eq!(said.status, 0, "{said:?}");
    for line in [
        "warning: unknown field sleepIntervall has no effect; is sleepInterval meant?",
        "warning: unknown field newConfig.maxStandbys has no effect; is maxStandbys meant?",
        "warning: unknown field work_mem has no effect",
    ] {
        assert!(
            said.err.lines().any(|found| found == line),
            "no {line:?} in {said:?}"
        );
    }
}

#[test]
fn of_concurrent_updates_each_is_applied_or_refused() {
    let cluster = Cluster::new(r#"{"initMode": "new"}"#);
    let update = |number: usize| {
        let patch = format!(r#"{{"pgParameters": {{"p{number}": "1"}}}}"#);
        let mut command = command("stolonctl", &["update", "-p", &patch]);
        command
            .envs(cluster.environment())
            .spawn()
            .expect("started")
    };
    let running: Vec<_> = (0..8).map(update).collect();
    let mut applied = Vec::new();
    for (number, child) in running.into_iter().enumerate() {
        let said = finish(child);
        if said.status == 0 {
            applied.push(format!("p{number}"));
        } else {
            said.fails(
                1,
                &["the cluster data changed during each of 3 attempts: try again"],
            );
        }
    }
    assert!(!applied.is_empty());
    let spec = cluster.spec();
    let found = spec["pgParameters"].as_object().expect("an object");
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), applied);
}

#[test]
fn the_spec_is_shown_as_it_is_and_with_defaults() {
    let cluster = Cluster::new(r#"{"initMode": "new", "failInterval": "7s"}"#);
    assert_eq!(
        cluster.ctl(&["spec"]).well(),
        "{\n\t\"failInterval\": \"7s\",\n\t\"initMode\": \"new\"\n}\n"
    );
    let text = cluster.ctl(&["spec", "--defaults"]).well();
    let spec: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(spec["failInterval"], "7s");
    assert_eq!(spec["sleepInterval"], "5s");
    assert_eq!(spec["maxStandbys"], 20);
    // What is shown can be given back.
    assert_eq!(cluster.ctl_with(&["update", "-f", "-"], &text).well(), "");
}

#[test]
fn a_standby_cluster_is_promoted_once() {
    let cluster = Cluster::at_work();
    assert_eq!(cluster.spec()["role"], "standby");
    let question = "Are you sure you want to continue? [yes/no] ";
    let said = cluster.ctl_with(&["promote"], "no\n");
    assert_eq!(said.well(), format!("{question}exiting\n"));
    cluster.refuses(&["promote"], 1, &["no answer: nothing was changed"]);
    assert_eq!(cluster.ctl_with(&["promote"], "yes\n").well(), question);
    assert_eq!(cluster.spec()["role"], "master");
    let before = cluster.data();
    let said = cluster.ctl(&["promote"]);
    assert_eq!(said.err, "cluster spec role already set to master\n");
    assert_eq!(said.status, 0);
    assert_eq!(cluster.data(), before);
}

#[test]
fn a_keeper_is_failed_by_name() {
    let cluster = Cluster::at_work();
    assert_eq!(cluster.ctl(&["failkeeper", "keeper02"]).well(), "");
    let keepers = &cluster.data()["keepers"];
    assert_eq!(keepers["keeper02"]["status"]["forceFail"], true);
    assert_eq!(keepers["keeper01"]["status"].get("forceFail"), None);
    let said = [
        "keeper nobody doesn't exist",
        "keeper01, keeper02, keeper03, keeper04",
    ];
    cluster.refuses(&["failkeeper", "nobody"], 1, &said);
    cluster.refuses(&["failkeeper"], 1, &["<uid>"]);
}

#[test]
fn a_keeper_is_removed_with_its_db_unless_that_is_the_primary() {
    let cluster = Cluster::at_work();
    let primarys = "keeper assigned db is the current cluster master db.";
    cluster.refuses(&["removekeeper", "keeper01"], 1, &[primarys]);
    cluster.refuses(
        &["removekeeper", "nobody"],
        1,
        &["keeper nobody doesn't exist"],
    );
    assert_eq!(cluster.ctl(&["removekeeper", "keeper03"]).well(), "");
    assert_eq!(cluster.ctl(&["removekeeper", "keeper04"]).well(), "");
    let data = cluster.data();
    let names = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(names(&data["keepers"]), ["keeper01", "keeper02"]);
    assert_eq!(names(&data["dbs"]), ["cafe0002", "deadbeef"]);
}

#[test]
fn the_document_goes_out_and_in_again_unchanged() {
    let cluster = Cluster::at_work();
    let was: Value =
        serde_json::from_str(&golden("clusterdata-3-normal-synchronous")).expect("JSON");
    assert_eq!(cluster.data(), was);
    let pretty = cluster.ctl(&["clusterdata", "read", "--pretty"]).well();
    assert!(pretty.starts_with("{\n\t\""), "{pretty}");

    let copy = Cluster::none();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup.json").display().to_string();
    std::fs::write(&file, &pretty).expect("written");
    copy.ctl(&["clusterdata", "write", "-f", &file]).well();
    assert_eq!(copy.data(), was);

    let there = "WARNING: cluster data already available use --yes to override";
    copy.refuses(&["clusterdata", "write", "-f", &file], 1, &[there]);
    copy.ctl(&["update", "-p", r#"{"failInterval": "9s"}"#])
        .well();
    copy.ctl(&["clusterdata", "write", "-y", "-f", &file])
        .well();
    assert_eq!(copy.data(), was);
}

#[test]
fn what_is_no_cluster_is_not_written_even_with_yes() {
    let cluster = Cluster::at_work();
    let before = cluster.data();
    for (document, said) in [
        ("", "cannot read the document"),
        ("null", "it is null"),
        ("{}", "there is no cluster with a spec in it"),
        (
            r#"{"formatVersion": 1, "cluster": {"uid": "x"}}"#,
            "there is no cluster with a spec",
        ),
        (r#"{"extSpec": 1}"#, "extSpec: invalid type"),
        (
            r#"{"formatVersion": 2}"#,
            "format version 2: this program knows version 1",
        ),
    ] {
        let words = ["clusterdata", "write", "-y"];
        cluster
            .ctl_with(&words, document)
            .fails(1, &["invalid cluster data", said]);
    }
    assert_eq!(cluster.data(), before);
}

#[test]
fn settings_of_ours_are_one_specification_with_the_rest_and_lie_beside_it() {
    let cluster = Cluster::new(r#"{"initMode": "new", "maxslotwalkeepsize": "50GB"}"#);
    let spec = |words: &[&str]| -> Value {
        serde_json::from_str(&cluster.ctl(words).well()).expect("JSON")
    };
    assert_eq!(cluster.spec().get("maxSlotWALKeepSize"), None);
    assert_eq!(spec(&["spec"])["maxSlotWALKeepSize"], "50GB");

    let patch = r#"{"maxSlotWALKeepTime": "36h", "failInterval": "9s"}"#;
    assert_eq!(cluster.ctl(&["update", "-p", patch]).well(), "");
    assert_eq!(cluster.spec()["failInterval"], "9s");
    let all = spec(&["spec", "--defaults"]);
    assert_eq!(all["maxSlotWALKeepSize"], "50GB");
    assert_eq!(all["maxSlotWALKeepTime"], "36h");

    let removed = r#"{"maxSlotWALKeepSize": null}"#;
    assert_eq!(cluster.ctl(&["update", "-p", removed]).well(), "");
    assert_eq!(spec(&["spec"]).get("maxSlotWALKeepSize"), None);
    assert_eq!(
        spec(&["spec", "--defaults"])["maxSlotWALKeepSize"],
        "unlimited"
    );

    // A whole specification replaces all of it.
    let whole = r#"{"initMode": "new"}"#;
    assert_eq!(cluster.ctl(&["update", whole]).well(), "");
    assert_eq!(spec(&["spec"]), json!({"initMode": "new"}));
}

#[test]
fn settings_are_checked_and_need_keepers_that_know_them() {
    let cluster = Cluster::new(NEW);
    let update =
        |value: &str| format!(r#"{{"failInterval": "8s", "maxSlotWALKeepSize": {value}}}"#);
    for value in ["7", r#""much""#, r#""0GB""#] {
        let said = ["maxSlotWALKeepSize", "unlimited", "50GB"];
        cluster.refuses(&["update", "-p", &update(value)], 1, &said);
    }
    cluster.publish(&[(
        Key::KeeperInfo("keeper01".into()),
        golden("keeperinfo-running"),
    )]);
    let said = ["maxSlotWALKeepSize", "do not know of it", "keeper01"];
    cluster.refuses(&["update", "-p", &update(r#""5GB""#)], 1, &said);
    assert_eq!(cluster.spec()["failInterval"], "7s");
    // What another version stored is kept, told of, and stops nobody.
    let stored = r#"{"later": 1, "maxSlotWALKeepSize": "half"}"#.to_owned();
    cluster.publish(&[(Key::ExtSpec, stored)]);
    let said = cluster.ctl(&["update", "-p", r#"{"failInterval": "9s"}"#]);
    assert_eq!(said.status, 0, "{said:?}");
    let warning = "warning: unknown field later has no effect\n";
    assert_eq!(said.err, warning);
    assert_eq!(cluster.spec()["failInterval"], "9s");
}
