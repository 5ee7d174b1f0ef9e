//! `stolonctl init`: a new cluster, and never in the place of one that has data (A11).

use serde_json::json;

use crate::cluster::Cluster;

const OVERWRITTEN: &str = "WARNING: The databases managed by the keepers will be overwritten \
                           depending on the provided cluster spec.\n";
const REMOVED: &str = "WARNING: The current cluster data will be removed\n";
const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";

#[test]
fn a_yes_makes_a_cluster() {
    let cluster = Cluster::none();
    let said = cluster.ctl_with(&["init"], "perhaps\nyes\n");
    let again = "Please enter 'yes' or 'no'\n";
    assert_eq!(
        said.well(),
        format!("{OVERWRITTEN}{QUESTION}{again}{QUESTION}")
    );
    assert_eq!(cluster.spec()["initMode"], "new");
}

#[test]
fn a_no_makes_none_and_is_no_failure() {
    let cluster = Cluster::none();
    let said = cluster.ctl_with(&["init"], "no\n");
    assert_eq!(said.well(), format!("{OVERWRITTEN}{QUESTION}exiting\n"));
    cluster
        .ctl(&["spec"])
        .fails(1, &["no cluster data available"]);
}

#[test]
fn no_answer_makes_none_and_is_a_failure() {
    let cluster = Cluster::none();
    cluster
        .ctl(&["init"])
        .fails(1, &["no answer: nothing was changed"]);
    cluster
        .ctl(&["spec"])
        .fails(1, &["no cluster data available"]);
}

#[test]
fn yes_is_not_asked_for_and_the_spec_comes_from_argument_file_or_stdin() {
    let spec = r#"{"initMode": "new", "failInterval": "7s"}"#;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("spec.json").display().to_string();
    std::fs::write(&file, spec).expect("written");
    for words in [&[spec][..], &["-f", &file], &["-f", "-"], &["--file", "-"]] {
        let cluster = Cluster::none();
        let words = [&["init", "-y"], words].concat();
        assert_eq!(cluster.ctl_with(&words, spec).well(), OVERWRITTEN);
        assert_eq!(cluster.spec()["failInterval"], "7s");
    }
    let cluster = Cluster::none();
    let both = ["init", "-y", spec, "-f", &file];
    cluster
        .ctl(&both)
        .fails(1, &["argument", "--file", "not both"]);
    cluster
        .ctl(&["init", "-y", "-f", "/nowhere/spec"])
        .fails(1, &["cannot read /nowhere/spec"]);
}

#[test]
fn a_spec_that_is_wrong_makes_nothing() {
    let cluster = Cluster::none();
    for (spec, said) in [
        ("{", "not JSON"),
        ("[]", "a cluster specification is a JSON object"),
        (
            "{}",
            "initMode is not set: it must be one of new, existing, pitr",
        ),
        (r#"{"initMode": "now"}"#, "\"now\""),
        (
            r#"{"initMode": "new", "sleepInterval": "soon"}"#,
            "field sleepInterval",
        ),
    ] {
        cluster
            .ctl(&["init", "-y", spec])
            .fails(1, &["invalid cluster spec", said]);
    }
    cluster
        .ctl(&["spec"])
        .fails(1, &["no cluster data available"]);
}

#[test]
fn a_cluster_without_data_is_replaced_with_a_warning() {
    let cluster = Cluster::new(r#"{"initMode": "new"}"#);
    let before = cluster.data()["cluster"]["uid"].clone();
    let said = cluster.ctl(&["init", "-y"]);
    assert_eq!(said.well(), format!("{REMOVED}{OVERWRITTEN}"));
    assert_ne!(cluster.data()["cluster"]["uid"], before);
}

#[test]
fn a11_a_cluster_with_data_is_replaced_only_by_its_name() {
    let cluster = Cluster::at_work();
    let named = "say --replace-cluster a1b2c3d4";
    cluster.refuses(&["init", "-y"], 3, &["has data", "a1b2c3d4", named]);
    cluster.refuses(&["init"], 3, &[named]);
    let other = ["init", "-y", "--replace-cluster", "deadbeef"];
    cluster.refuses(
        &other,
        3,
        &["the present cluster is a1b2c3d4, not deadbeef"],
    );

    let generation = cluster.data()["proxy"]["generation"]
        .as_u64()
        .expect("a number");
    let said = cluster.ctl(&["init", "-y", "--replace-cluster", "a1b2c3d4"]);
    assert_eq!(said.well(), format!("{REMOVED}{OVERWRITTEN}"));
    let data = cluster.data();
    assert_eq!((&data["dbs"], &data["keepers"]), (&json!({}), &json!({})));
    // Proxies compare generations for equality: no old one may come again.
    assert_eq!(data["proxy"]["generation"], generation + 1);
}
