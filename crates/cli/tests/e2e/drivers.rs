//! What applications do through the proxy, by the drivers that they do it with: libpq (psycopg2), and
//! two that have the protocol for themselves, asyncpg and tokio-postgres.

mod secured;
mod with_tokio_postgres;

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::writer::Address;
use crate::harness::{certificates, process};

/// What each driver does while there is a primary. TLS is PostgreSQL's own, which the proxy passes
/// through: the certificate is verified, and libpq binds its password to the connection.
const TOPICS: [&str; 5] = ["cancel", "copy", "large_objects", "listen", "tls"];

/// Debian's Python, whose packages `scripts/setup test` installs.
const PYTHON: &str = "/usr/bin/python3";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Psycopg2,
    Asyncpg,
    TokioPostgres,
}

impl Driver {
    const ALL: [Self; 3] = [Self::Psycopg2, Self::Asyncpg, Self::TokioPostgres];

    /// Does what there is to a topic; what was said about it.
    fn run(self, address: &Address, authority: &Path, topic: &str) -> String {
        let (module, program) = match self {
            Self::TokioPostgres => return with_tokio_postgres::run(address, authority, topic),
            Self::Psycopg2 => ("psycopg2", include_str!("drivers/with_psycopg2.py")),
            Self::Asyncpg => ("asyncpg", include_str!("drivers/with_asyncpg.py")),
        };
        let mut python = process::command(Path::new(PYTHON), &process::Surroundings::default());
        let output = python
            .args(["-c", program, topic])
            .env("PGHOST", &address.host)
            .env("PGPORT", address.port.to_string())
            .env("PGUSER", &address.user)
            .env("PGPASSWORD", &address.password)
            .env("AUTHORITY", authority)
            .output()
            .expect("setpriv runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{module}: {topic}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Fails the test where a driver is missing: what was not shown must not count as shown.
fn has_drivers() {
    for module in ["psycopg2", "asyncpg"] {
        let found = Command::new(PYTHON)
            .args(["-c", &format!("import {module}")])
            .output();
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "{PYTHON} has no {module}: run scripts/setup test, which installs python3-{module}"
        );
    }
}

/// Each driver waits with its one attempt to connect until another keeper has the primary.
fn are_held(cluster: &mut Cluster, authority: &Path) {
    let primary = cluster.primary();
    cluster.keepers[primary].kill();
    let address = cluster.address();
    let ports: Vec<(Driver, String)> = std::thread::scope(|scope| {
        let address = &address;
        let clients = Driver::ALL.map(|driver| {
            let client = scope.spawn(move || driver.run(address, authority, "hold"));
            (driver, client)
        });
        clients
            .into_iter()
            .map(|(driver, client)| (driver, client.join().expect("a session")))
            .collect()
    });
    let now = cluster.another_primary_than(primary);
    let port = cluster.keepers[now].direct.port.to_string();
    for (driver, reached) in ports {
        assert_eq!(reached, port, "{driver:?}");
    }
}

#[test]
fn drivers_cancel_copy_listen_use_tls_and_are_held_through_the_proxy() {
    has_drivers();
    let folder = tempfile::tempdir().expect("a folder");
    process::give(folder.path());
    // The certificate of all instances has the proxy's name, which is theirs too.
    let files = certificates::of_proxy(folder.path());
    let [certificate, key] = files.map(|flag| flag.split_once('=').expect("a flag").1.to_owned());
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .proxy_flags(&["--hold-timeout=80s"])
        .with("failInterval", "4s".into())
        .with(
            "pgParameters",
            json!({"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key}),
        );
    let mut cluster = Cluster::start(&plan);
    let authority = certificates::authority_of_proxy(folder.path());
    let authority = Path::new(&authority);
    let address = cluster.address();
    for driver in Driver::ALL {
        for topic in TOPICS {
            driver.run(&address, authority, topic);
        }
    }
    are_held(&mut cluster, authority);
}
