//! Clients that read from standbys through the proxy's port for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::writer::{Address, runtime};
use crate::harness::{LIMIT, eventually, free_port};

/// How many try to write where they may only read.
const POKERS: usize = 6;

/// A cluster whose proxy has a port to read by.
fn start(flags: &[&str]) -> (Cluster, Address) {
    let port = free_port();
    let own = format!("--read-only-port={port}");
    let flags = [&[own.as_str(), "--hold-timeout=60s"], flags].concat();
    let cluster = Cluster::start(&Plan::new(Store::Sqlite).proxy_flags(&flags));
    let address = Address {
        port,
        ..cluster.address()
    };
    (cluster, address)
}

/// The servers that whoever comes now is led to, by their ports: one client after the other, and all of them
/// stay until the last has come. They are more than `POKERS`: fewer would all be led to a standby that
/// has just returned, as it has the fewest sessions.
fn servers(address: &Address) -> Option<BTreeSet<String>> {
    let ask = async {
        let (mut clients, mut ports) = (Vec::new(), BTreeSet::new());
        for _ in 0..2 * POKERS {
            let client = address.connect_within(LIMIT).await.ok()?;
            let row = client.query_one("SELECT inet_server_port()", &[]).await;
            ports.insert(row.ok()?.get::<_, i32>(0).to_string());
            clients.push(client);
        }
        Some(ports)
    };
    runtime().block_on(async { tokio::time::timeout(LIMIT / 5, ask).await.ok()? })
}

fn ports(cluster: &Cluster, keepers: &[usize]) -> BTreeSet<String> {
    let port = |keeper: &usize| cluster.keepers[*keeper].direct.port.to_string();
    keepers.iter().map(port).collect()
}

#[track_caller]
fn reads_come_to(cluster: &Cluster, address: &Address, keepers: &[usize]) {
    let wanted = ports(cluster, keepers);
    eventually("all who read are led there", || {
        (servers(address)? == wanted).then_some(())
    });
}

/// A client that tries to write where it may only read, in sessions as long as they last.
struct Poker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Pokes>>,
}

#[derive(Debug, Default)]
struct Pokes {
    refused: usize,
    /// Sessions that were ended, and what they were told.
    ended: Vec<String>,
    /// What must not be.
    written: usize,
}

impl Poker {
    fn start(address: &Address) -> Self {
        let (address, stop) = (address.clone(), Arc::<AtomicBool>::default());
        let stopped = stop.clone();
        let poke = move || runtime().block_on(poke(&address, &stopped));
        Self {
            stop,
            thread: Some(std::thread::spawn(poke)),
        }
    }

    fn stop(mut self) -> Pokes {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("a thread");
        thread.join().expect("its account")
    }
}

impl Drop for Poker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

async fn poke(address: &Address, stop: &AtomicBool) -> Pokes {
    let mut pokes = Pokes::default();
    while !stop.load(Ordering::SeqCst) {
        let Ok(client) = address.connect_within(LIMIT).await else {
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            match client
                .batch_execute("INSERT INTO written VALUES (-1)")
                .await
            {
                Ok(()) => pokes.written += 1,
                Err(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                    pokes.refused += 1;
                }
                Err(error) => {
                    let said = error.as_db_error().map(ToString::to_string);
                    pokes.ended.push(said.unwrap_or_else(|| error.to_string()));
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    pokes
}

#[test]
fn clients_read_from_every_standby_and_write_nothing_where_one_is_promoted() {
    let (mut cluster, address) = start(&["--read-only-fallback=refuse"]);
    let writer = cluster.writer();
    let standbys = cluster.standbys();
    reads_come_to(&cluster, &address, &standbys);
    let pokers: Vec<Poker> = (0..POKERS).map(|_| Poker::start(&address)).collect();
    for _ in 0..2 {
        let primary = cluster.primary();
        cluster.keepers[primary].kill();
        let new = cluster.another_primary_than(primary);
        let left = (0..3).filter(|keeper| ![primary, new].contains(keeper));
        reads_come_to(&cluster, &address, &left.collect::<Vec<_>>());
        cluster.keepers[primary].daemon.start();
        let standbys: Vec<usize> = (0..3).filter(|keeper| *keeper != new).collect();
        reads_come_to(&cluster, &address, &standbys);
        cluster.is_whole();
    }
    for pokes in pokers.into_iter().map(Poker::stop) {
        assert_eq!(pokes.written, 0, "a standby took it: {:?}", pokes.ended);
        assert!(pokes.refused > 10, "{pokes:?}");
    }
    let account = writer.stop();
    cluster.has_all(&account);
}

#[test]
fn a_standby_that_falls_behind_is_left_and_the_primary_read_from_where_none_is_near() {
    let (cluster, address) = start(&["--read-only-max-lag=64kB,1h"]);
    let (primary, standbys) = (cluster.primary(), cluster.standbys());
    reads_come_to(&cluster, &address, &standbys);
    cluster
        .address()
        .query("CREATE TABLE filled (t text)")
        .expect("a table");
    let replay = |keeper: usize, verb: &str| {
        let sql = format!("SELECT pg_wal_replay_{verb}()");
        cluster.keepers[keeper].direct.query(&sql).expect("done");
    };
    let fill = "INSERT INTO filled SELECT repeat('x', 1000) FROM generate_series(1, 300)";
    for (paused, left) in [
        (standbys[0], vec![standbys[1]]),
        (standbys[1], vec![primary]),
    ] {
        replay(paused, "pause");
        cluster.address().query(fill).expect("rows");
        reads_come_to(&cluster, &address, &left);
    }
    for standby in &standbys {
        replay(*standby, "resume");
    }
    reads_come_to(&cluster, &address, &standbys);
}

#[test]
fn a_statement_on_a_standby_is_cancelled_through_the_proxy() {
    let (cluster, address) = start(&[]);
    reads_come_to(&cluster, &address, &cluster.standbys());
    runtime().block_on(async {
        // One after the other, so that each standby has one.
        for _ in 0..3 {
            let client = address.connect_within(LIMIT).await.expect("a session");
            let token = client.cancel_token();
            let sleeping = client.batch_execute("SELECT pg_sleep(600)");
            let cancelling = async {
                // It may come before the statement has begun.
                loop {
                    token.cancel_query(NoTls).await.expect("a request");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let ended = tokio::select! {
                ended = tokio::time::timeout(LIMIT, sleeping) => ended.expect("in time"),
                () = cancelling => unreachable!("it never ends"),
            };
            let error = ended.expect_err("cancelled");
            assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error}");
        }
    });
}
