//! Clients that read from standbys through the proxy's port for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::harness::cluster::{Cluster, Daemon, Plan, Store};
use crate::harness::writer::{Address, runtime};
use crate::harness::{LIMIT, eventually, free_port, stays};

/// How many try to write where they may only read.
const POKERS: usize = 6;
/// Where a proxy is frozen: how long it may forward after its last check.
const PROXY_TIMEOUT: &str = "20s";
/// And a time that is surely over before that.
const WITHIN_IT: Duration = Duration::from_secs(8);

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

/// Starts clients that try to write where they may only read.
fn start_pokers(address: &Address) -> Vec<Poker> {
    (0..POKERS).map(|_| Poker::start(address)).collect()
}

/// Ends them; asserts that none wrote, also not by a statement whose answer was lost.
#[track_caller]
fn nobody_wrote(cluster: &Cluster, pokers: Vec<Poker>) -> Vec<Pokes> {
    let accounts: Vec<Pokes> = pokers.into_iter().map(Poker::stop).collect();
    for pokes in &accounts {
        assert_eq!(pokes.written, 0, "a standby took it: {:?}", pokes.ended);
        assert!(pokes.refused > 10, "{pokes:?}");
    }
    let rows = cluster
        .address()
        .query("SELECT count(*) FROM written WHERE id = -1");
    assert_eq!(rows.as_deref(), Ok(["0".to_owned()].as_slice()), "written");
    accounts
}

#[test]
fn clients_read_from_every_standby_and_write_nothing_where_one_is_promoted() {
    let (mut cluster, address) = start(&["--read-only-fallback=refuse"]);
    let writer = cluster.writer();
    let standbys = cluster.standbys();
    reads_come_to(&cluster, &address, &standbys);
    let pokers = start_pokers(&address);
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
    nobody_wrote(&cluster, pokers);
    // Replication is asynchronous: of each of the two primaries what was on its way.
    let lost = cluster.lost(&writer.stop());
    assert!(
        lost.len() <= 4,
        "more than what was on its way is lost: {lost:?}"
    );
}

/// A cluster whose primary is being replaced while its only proxy that clients read through is frozen,
/// each of them with a statement under way.
struct FrozenReader {
    cluster: Cluster,
    proxy: Daemon,
    address: Address,
    pokers: Vec<Poker>,
    primary: usize,
}

impl FrozenReader {
    /// Until it has been seen that no standby is promoted within the time of that proxy.
    fn start() -> Self {
        let plan = Plan::new(Store::Sqlite).with("proxyTimeout", json!(PROXY_TIMEOUT));
        let cluster = Cluster::start(&plan);
        let port = free_port();
        let own = format!("--read-only-port={port}");
        let flags = [&own, "--read-only-fallback=refuse", "--hold-timeout=60s"];
        let (proxy, _) = cluster.another_proxy("reader", &flags);
        let address = Address {
            port,
            ..cluster.address()
        };
        let table = "CREATE TABLE written (id bigint PRIMARY KEY); INSERT INTO written VALUES (0)";
        cluster.address().query(table).expect("a table");
        let (primary, standbys) = (cluster.primary(), cluster.standbys());
        reads_come_to(&cluster, &address, &standbys);
        for standby in &standbys {
            cluster.follows(*standby);
        }
        let pokers = start_pokers(&address);
        for standby in &standbys {
            let reads = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%'";
            eventually("clients are at each standby", || {
                let sessions = cluster.keepers[*standby].direct.query(reads).ok()?;
                (sessions[0].parse::<usize>().ok()? > 1).then_some(())
            });
        }
        cluster.freeze_daemon(&proxy);
        cluster.ctl(&["failkeeper", &cluster.keepers[primary].uid]);
        eventually("the proxies are told to close", || {
            let data = cluster.data()?;
            data["proxy"]["spec"]["masterDbUid"].is_null().then_some(())
        });
        let is_promoted = |standby: &usize| {
            let recovers = cluster.keepers[*standby]
                .direct
                .query("SELECT pg_is_in_recovery()");
            recovers.is_ok_and(|rows| rows == ["f"])
        };
        stays(WITHIN_IT, "no standby is promoted", || {
            !standbys.iter().any(is_promoted)
        });
        Self {
            cluster,
            proxy,
            address,
            pokers,
            primary,
        }
    }

    /// With the proxy going on and another primary: nobody wrote, and clients read again.
    fn ends_well(self) -> Vec<Pokes> {
        self.cluster.another_primary_than(self.primary);
        self.cluster.is_whole();
        reads_come_to(&self.cluster, &self.address, &self.cluster.standbys());
        nobody_wrote(&self.cluster, self.pokers)
    }
}

#[test]
fn a_standby_is_not_promoted_before_a_frozen_proxy_came_back_and_left_it() {
    let reader = FrozenReader::start();
    reader.proxy.signal(Signal::CONT);
    let pokes = reader.ends_well();
    let ended = pokes.iter().filter(|pokes| !pokes.ended.is_empty());
    assert!(ended.count() > 1, "those of the standby: {pokes:?}");
}

#[test]
fn a_proxy_that_was_frozen_for_longer_than_it_may_forward_writes_nothing_where_it_read() {
    let reader = FrozenReader::start();
    reader.cluster.another_primary_than(reader.primary);
    reader.proxy.signal(Signal::CONT);
    for pokes in reader.ends_well() {
        assert!(!pokes.ended.is_empty(), "{pokes:?}");
    }
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
