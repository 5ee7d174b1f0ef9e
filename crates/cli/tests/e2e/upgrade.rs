//! A proxy that is replaced while clients come and go.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::{certificates, eventually, free_port, plain_http, process, stays, within};

/// A process that is no child of the tests, and ends with its test.
struct Ends(i32);

impl Drop for Ends {
    fn drop(&mut self) {
        process::send(self.0, Signal::KILL);
    }
}

/// Has the proxy start a successor.
fn begin_upgrade(cluster: &Cluster) -> Ends {
    cluster.proxy.signal(Signal::USR2);
    eventually("a successor", || {
        cluster.proxy.children().first().copied().map(Ends)
    })
}

/// The successor of the proxy, which has taken over.
fn replaced(cluster: &Cluster) -> Ends {
    let successor = begin_upgrade(cluster);
    eventually("a handover", || {
        let said = cluster.proxy.said();
        said.contains("a successor has taken over").then_some(())
    });
    successor
}

/// How many sessions of that name there are.
fn sessions(cluster: &Cluster, name: &str) -> String {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    cluster.address().query(&sql).expect("an answer").remove(0)
}

/// What psql says that demands TLS with a certificate for the proxy's address by the authority there.
fn by_tls(cluster: &Cluster, authority: &Path) -> Result<String, String> {
    let address = cluster.address();
    let psql = process::postgres_program("psql");
    let mut psql = process::command(&psql, &process::Surroundings::default());
    let output = psql
        .env("PGPASSWORD", &address.password)
        .arg(format!(
            // libpq up to version 14 knows no addresses in certificates.
            "host=localhost hostaddr={} port={} user={} dbname=postgres sslmode=verify-full \
             sslrootcert={}",
            address.host,
            address.port,
            address.user,
            certificates::authority_of_proxy(authority)
        ))
        .args([
            "-AtXc",
            "SELECT 1, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        ])
        .output()
        .expect("psql runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// TLS ends at the proxy for who asks for it, by certificates that may be replaced.
fn clients_verify_the_proxy(cluster: &Cluster, folder: &Path) {
    assert_eq!(by_tls(cluster, folder), Ok("1|f".to_owned()));
    let other = tempfile::tempdir().expect("a folder");
    process::give(other.path());
    certificates::of_proxy(other.path());
    let error = by_tls(cluster, other.path()).expect_err("another authority");
    assert!(error.contains("SSL error"), "{error}");
    certificates::of_proxy(folder);
    cluster.proxy.signal(Signal::HUP);
    eventually("the new certificate is shown", || {
        by_tls(cluster, folder).ok()
    });
}

/// Clients that connect all the time while one proxy hands over to the next meet no error. Sessions
/// of before go on in the old one, which obeys until it has ended: a failover cuts them off too.
#[test]
fn a_proxy_is_upgraded_while_clients_connect_and_sessions_go_on() {
    let plan = Plan::new(Store::Sqlite).keepers(2);
    let folder = tempfile::tempdir().expect("a folder");
    process::give(folder.path());
    let [certificate, key] = certificates::of_proxy(folder.path());
    let probes = format!("127.0.0.1:{}", free_port());
    let metrics = format!("--metrics-listen-address={probes}");
    let plan = plan.proxy_flags(&["--hold-timeout=60s", &certificate, &key, &metrics]);
    let mut cluster = Cluster::start(&plan);
    clients_verify_the_proxy(&cluster, folder.path());
    let is_ready = || plain_http::ask(&probes, "GET", "/readyz", "").is_some();
    eventually("the proxy is ready", || is_ready().then_some(()));
    let before = cluster.address().hold("before");
    let done = AtomicBool::new(false);
    let successor = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !done.load(Ordering::SeqCst) {
                        let answer = cluster.address().query("SELECT 1");
                        assert_eq!(answer, Ok(vec!["1".to_owned()]), "after {count}");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        // A balancer that asks sees no moment in which it is not.
        let balancer = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                assert!(is_ready(), "after {count}");
                count += 1;
            }
            count
        });
        let successor = replaced(&cluster);
        // Some more come while only the successor accepts.
        let address = cluster.address();
        let hold = [address.hold("after"), address.hold("after")];
        assert_eq!(sessions(&cluster, "after"), "2");
        drop(hold);
        done.store(true, Ordering::SeqCst);
        let counts: Vec<u32> = clients
            .into_iter()
            .map(|client| client.join().expect("no error"))
            .collect();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(balancer.join().expect("ready all the time") > 0);
        successor
    });
    assert_eq!(sessions(&cluster, "before"), "1");
    let status = cluster.ctl(&["status", "-f", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let proxies = status["proxies"].as_array().map_or(0, Vec::len);
    assert_eq!(proxies, 2, "{status:#}");

    // The old primary lives on, and nobody is left on it.
    let old = cluster.primary();
    let direct = cluster.keepers[old].direct.clone();
    cluster.ctl(&["failkeeper", &format!("k{old}")]);
    cluster.another_primary_than(old);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'before'";
    eventually("nobody is left there", || {
        // Its keeper may have stopped it by now.
        let left = direct.query(sql);
        (left.is_err() || left == Ok(vec!["0".to_owned()])).then_some(())
    });
    // Its last session was ended, and so it has ended itself.
    let status = cluster.proxy.ended();
    assert!(status.success(), "{status}");
    drop(before);
    assert_eq!(
        cluster.address().query("SELECT 1"),
        Ok(vec!["1".to_owned()])
    );
    process::send(successor.0, Signal::TERM);
    within(Duration::from_mins(1), "the successor stops", || {
        process::parent(successor.0).is_none().then_some(())
    });
}

/// A second upgrade, while the first proxy still carries a session: the second one has none and ends, and
/// the first goes on beside the third, until that one ends.
#[test]
fn sessions_go_on_when_the_successor_is_replaced_too() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let held = cluster.address().hold("before");
    let second = replaced(&cluster);
    process::send(second.0, Signal::USR2);
    let third = eventually("the second has ended, and left the third", || {
        let left = cluster.proxy.children();
        let third = left.first().filter(|_| left.len() == 1);
        third.copied().filter(|pid| *pid != second.0).map(Ends)
    });
    stays(Duration::from_secs(1), "the session goes on", || {
        sessions(&cluster, "before") == "1"
    });
    drop(third);
    let status = cluster.proxy.ended();
    assert!(status.success(), "{status}");
    drop((held, second));
}

/// As when a service is stopped: the successor has no session and ends, the one before has its time.
#[test]
fn sessions_have_their_time_when_a_proxy_is_stopped_together_with_its_successor() {
    let plan = Plan::new(Store::Sqlite).keepers(1);
    let mut cluster = Cluster::start(&plan.proxy_flags(&["--drain-timeout=10m"]));
    let held = cluster.address().hold("before");
    let successor = replaced(&cluster);
    cluster.proxy.signal(Signal::TERM);
    process::send(successor.0, Signal::TERM);
    eventually("the successor has ended", || {
        cluster.proxy.children().is_empty().then_some(())
    });
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'before'";
    stays(Duration::from_secs(1), "the session goes on", || {
        cluster.keepers[0].direct.query(sql) == Ok(vec!["1".to_owned()])
    });
    drop((held, successor));
    let status = cluster.proxy.ended();
    assert!(status.success(), "{status}");
}

/// Nobody manages the successor of a proxy that only drains: when it ends, the old one does too, at once
/// and with sessions left, so that whoever manages that one starts a new one.
#[test]
fn a_proxy_whose_successor_ends_does_not_drain_any_longer() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let held = cluster.address().hold("before");
    let successor = replaced(&cluster);
    assert_eq!(sessions(&cluster, "before"), "1");
    drop(successor);
    let status = cluster.proxy.ended();
    assert!(status.success(), "{status}");
    drop(held);
}

/// SIGTERM reaches a proxy that has not heard yet that its successor has taken over. It stops; the successor
/// has clients of its own by then, and goes on.
#[test]
fn a_proxy_that_is_stopped_in_a_handover_leaves_the_successor_its_clients() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    // Nobody enables the successor until the proxy before it hears nothing, and all at once later.
    cluster.sentinels[0].signal(Signal::STOP);
    let successor = begin_upgrade(&cluster);
    cluster.proxy.signal(Signal::STOP);
    cluster.sentinels[0].signal(Signal::CONT);
    let held = eventually("the successor accepts clients", || {
        let address = cluster.address();
        address
            .query("SELECT 1")
            .ok()
            .map(|_| address.hold("after"))
    });
    cluster.proxy.signal(Signal::TERM);
    cluster.proxy.signal(Signal::CONT);
    let status = cluster.proxy.ended();
    assert!(status.success(), "{status}");
    assert_eq!(sessions(&cluster, "after"), "1");
    drop(held);
    process::send(successor.0, Signal::TERM);
    within(Duration::from_mins(1), "the successor stops", || {
        process::parent(successor.0).is_none().then_some(())
    });
}
