//! A cluster's life on the stores that speak HTTP: etcd by its version 2 API, Consul, and
//! Kubernetes; moving from one store to another; services in Consul.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::consul::consul_or_not_run;
use crate::harness::process::Process;
use crate::harness::{eventually, stays};

#[test]
fn a_cluster_lives_on_version_2_of_etcd() {
    a_cluster_lives_on(Store::Etcd2);
}

#[test]
fn a_cluster_lives_on_consul() {
    let test = "a_cluster_lives_on_consul";
    if consul_or_not_run(test).is_some() {
        a_cluster_lives_on(Store::Consul);
    }
}

/// The API server is that of the tests: nothing of Kubernetes' own comes with Debian but clients.
#[test]
fn a_cluster_lives_on_kubernetes() {
    a_cluster_lives_on(Store::Kubernetes);
}

/// It is initialised, fails over, takes the old primary back; while the store is frozen clients are
/// out and nothing is decided (I6).
fn a_cluster_lives_on(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store).keepers(2));
    let old = cluster.primary();
    let register = cluster.consul.is_some().then(|| register(&cluster));
    if register.is_some() {
        are_registered(&cluster);
    }
    let writer = cluster.writer();
    cluster.keepers[old].kill();
    let new = cluster.another_primary_than(old);
    writer.goes_on();
    cluster.keepers[old].daemon.start();
    cluster.is_whole();
    if let Some(register) = register {
        are_registered(&cluster);
        register.signal(Signal::TERM);
        are_registered(&cluster);
    }

    cluster.freeze_store();
    eventually("clients are cut off", || {
        cluster.address().query("SELECT 1").err()
    });
    stays(Duration::from_secs(3), "clients stay out", || {
        cluster.address().query("SELECT 1").is_err()
    });
    cluster.thaw_store();
    writer.goes_on();
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "a blind sentinel fails nobody");
    writer.stop();
    let said = cluster.sentinels[0].said();
    assert!(said.contains("127.0.0.1"), "the log names the endpoint");
}

/// `stolonctl register` at the agent that is the store too.
fn register(cluster: &Cluster) -> Process {
    let url = &cluster.consul.as_ref().expect("Consul").url;
    let agent = format!("--register-endpoints={url}");
    let words = [
        "register",
        &agent,
        "--register-master",
        "--sleep-interval=1",
    ];
    let log = cluster.folder().join("log/register.log");
    Process::start("register", cluster.ctl_command(&words), &log)
}

/// Waits until the agent has a service for each instance, the primary's with its tag.
fn are_registered(cluster: &Cluster) {
    eventually("the agent has the services", || {
        let data = cluster.data()?;
        let primary = &data["cluster"]["status"]["master"];
        let services = cluster.consul.as_ref()?.get("/v1/agent/services")?;
        let services: Value = serde_json::from_str(&services).ok()?;
        let services = services.as_object()?;
        let right = services.iter().filter(|(id, service)| {
            let tag = if *primary == id.as_str() {
                "master"
            } else {
                "slave"
            };
            let port = data["dbs"][id.as_str()]["status"]["port"].as_str();
            let at = service["Port"].to_string();
            service["Tags"] == json!([tag]) && service["Service"] == "test" && port == Some(&at)
        });
        (right.count() == 2 && services.len() == 2).then_some(())
    });
}

/// Both directions; what has a cluster is not written over.
#[test]
fn the_cluster_data_move_from_one_store_to_another() {
    let other = Cluster::begin(&Plan::new(Store::Etcd2).keepers(0).sentinels(0));
    let cluster = Cluster::begin(&Plan::new(Store::Sqlite).keepers(0).sentinels(0));
    let file = cluster.folder().join("clusterdata.json");
    let file = file.display().to_string();
    let document = |of: &Cluster| of.data().expect("cluster data")["cluster"].clone();
    let ways = [(&cluster, &other, "30GB"), (&other, &cluster, "40GB")];
    for (from, to, size) in ways {
        // The size is one of the settings that lie beside the cluster data.
        let spec = json!({"initMode": "new", "sleepInterval": "3s", "maxSlotWALKeepSize": size});
        from.ctl(&["init", "-y", &spec.to_string()]);
        std::fs::write(&file, from.ctl(&["clusterdata", "read"])).expect("written");
        let before = document(to);
        let refused = to.try_ctl(&["clusterdata", "write", "-f", &file]);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("use --yes to override"), "{said}");
        assert_eq!(document(to), before, "what is refused changes nothing");
        let said = to.ctl(&["clusterdata", "write", "-f", &file, "--yes"]);
        assert!(said.contains("successfully wrote cluster data"), "{said}");
        assert_eq!(document(to), document(from));
        assert_eq!(to.ctl(&["spec"]), from.ctl(&["spec"]));
        assert!(to.ctl(&["spec"]).contains(size));
        // They are beside the cluster data again, and not in them.
        to.ctl(&["update", "-p", r#"{"maxSlotWALKeepSize": null}"#]);
        assert_eq!(to.data().expect("cluster data").get("extSpec"), None);
    }
}
