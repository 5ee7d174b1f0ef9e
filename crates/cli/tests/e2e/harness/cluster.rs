//! One whole cluster: a store, keepers with their PostgreSQL, sentinels and a proxy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::certificates;
use super::consul::Consul;
use super::disk::{self, Disk};
use super::etcd::{Etcd, Host};
use super::hosts::Network;
use super::kubernetes::Kubernetes;
use super::process::{self, Process, Surroundings};
use super::shared_memory::remove_leftovers;
use super::writer::{Account, Address, Writer};
use super::{LIMIT, eventually, free_port, within};

/// The cluster's superuser, and its password.
pub(crate) const SUPERUSER: (&str, &str) = ("stolon", "super secret");
pub(crate) const REPLICATION_USER: &str = "repl";
pub(crate) const REPLICATION_PASSWORD: &str = "replication secret";

/// The store a cluster meets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Etcd,
    /// The same servers by their version 2 API.
    Etcd2,
    Consul,
    Kubernetes,
}

impl Store {
    /// Its name in `--store-backend`.
    const fn backend(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Etcd => "etcdv3",
            Self::Etcd2 => "etcdv2",
            Self::Consul => "consul",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    store: Store,
    keepers: usize,
    sentinels: usize,
    hosts: bool,
    secured: bool,
    disks: disk::Kind,
    spec: Value,
    proxy_flags: Vec<String>,
}

impl Plan {
    /// Three keepers, a sentinel, a proxy on one host, with intervals as short as a slow machine bears.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            keepers: 3,
            sentinels: 1,
            hosts: false,
            secured: false,
            disks: disk::Kind::Shared,
            proxy_flags: Vec::new(),
            spec: json!({
                "initMode": "new", "sleepInterval": "1s", "failInterval": "6s",
                "proxyCheckInterval": "1s", "proxyTimeout": "3s"
            }),
        }
    }

    /// Three hosts with an etcd member, a keeper and a sentinel each, and a fourth with the proxy
    /// and the clients.
    pub(crate) fn on_hosts() -> Self {
        let plan = Self::new(Store::Etcd);
        Self {
            hosts: true,
            sentinels: 3,
            ..plan
        }
    }

    /// Members connect to one another by TLS, with certificates, and authenticate by SCRAM.
    pub(crate) fn secured(mut self) -> Self {
        self.secured = true;
        self
    }

    /// Each keeper's folder is a file system of its own that can be filled; only for root.
    pub(crate) fn small_disks(mut self) -> Self {
        self.disks = disk::Kind::Small;
        self
    }

    /// The same with file systems that can hang.
    pub(crate) fn hanging_disks(mut self) -> Self {
        self.disks = disk::Kind::Hanging;
        self
    }

    pub(crate) fn keepers(mut self, keepers: usize) -> Self {
        self.keepers = keepers;
        self
    }

    pub(crate) fn sentinels(mut self, sentinels: usize) -> Self {
        self.sentinels = sentinels;
        self
    }

    /// Commits wait for a standby.
    pub(crate) fn synchronous(self) -> Self {
        self.with("synchronousReplication", json!(true))
    }

    /// More flags for the proxy.
    pub(crate) fn proxy_flags(mut self, flags: &[&str]) -> Self {
        self.proxy_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self
    }

    /// Another value for a field of the specification.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) keepers: Vec<Keeper>,
    pub(crate) sentinels: Vec<Daemon>,
    pub(crate) proxy: Daemon,
    pub(crate) etcd: Vec<Etcd>,
    pub(crate) consul: Option<Consul>,
    kubernetes: Option<Kubernetes>,
    pub(crate) proxy_port: u16,
    place: Place,
    /// After everything that runs in it.
    pub(crate) network: Option<Network>,
    /// After everything that uses them.
    disks: Vec<Disk>,
    folder: tempfile::TempDir,
}

/// Where the daemons find what they need.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    program: PathBuf,
    store: Vec<String>,
    /// Where the API server of Kubernetes is said to be.
    kubeconfig: Option<PathBuf>,
    /// More flags for all keepers.
    keeper_flags: Vec<String>,
}

/// A daemon that can be started again.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    place: Place,
    words: Vec<String>,
    pub(crate) surroundings: Surroundings,
    process: Option<Process>,
}

/// A keeper and its PostgreSQL.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) uid: String,
    pub(crate) daemon: Daemon,
    pub(crate) pgdata: PathBuf,
    /// Where clients reach its PostgreSQL directly.
    pub(crate) direct: Address,
}

impl Cluster {
    /// Starts it and waits until it can be written to and has all its standbys.
    pub(crate) fn start(plan: &Plan) -> Self {
        let cluster = Self::begin(plan);
        cluster.is_whole();
        cluster
    }

    /// Starts it without waiting for anything.
    pub(crate) fn begin(plan: &Plan) -> Self {
        let mut cluster = Self::nothing_but_a_store(plan);
        let mut spec = plan.spec.clone();
        if plan.secured {
            for (name, value) in certificates::parameters(&cluster.place.folder) {
                spec["pgParameters"][name] = value.into();
            }
        }
        cluster.ctl(&["init", "-y", &spec.to_string()]);
        for number in 0..plan.sentinels {
            cluster.add_sentinel(number);
        }
        for number in 0..plan.keepers {
            let folder = cluster.keeper_folder(number);
            match plan.disks {
                disk::Kind::Shared => {}
                disk::Kind::Small => cluster.disks.push(Disk::small(&folder)),
                disk::Kind::Hanging => cluster.disks.push(Disk::hanging(&folder)),
            }
            cluster.add_keeper(number);
        }
        cluster.proxy.start();
        cluster
    }

    /// An empty store, and nobody who would use it.
    pub(crate) fn nothing_but_a_store(plan: &Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("stolon-e2e-").tempdir();
        let folder = folder.expect("a folder");
        let path = folder.path();
        for part in ["log", "sockets"] {
            std::fs::create_dir(path.join(part)).expect("a folder");
            process::give(&path.join(part));
        }
        process::give(path);
        write_secret(&path.join("superuser.password"), SUPERUSER.1);
        write_secret(&path.join("replication.password"), REPLICATION_PASSWORD);
        let program = path.join("stolon");
        let built = env!("CARGO_BIN_EXE_stolon");
        // The user of the database processes may not be able to enter where it was built.
        if std::fs::hard_link(built, &program).is_err() {
            std::fs::copy(built, &program).expect("a copy of the program");
        }
        let network = plan.hosts.then(|| Network::new(plan.keepers + 1));
        let etcd = match (plan.store, &network) {
            (Store::Sqlite | Store::Consul | Store::Kubernetes, _) => Vec::new(),
            (Store::Etcd | Store::Etcd2, None) => vec![Etcd::single(path)],
            (Store::Etcd | Store::Etcd2, Some(network)) => {
                let host = |n| Host {
                    address: network.address(n),
                    namespace: Some(network.namespace(n)),
                };
                Etcd::members(path, &(0..3).map(host).collect::<Vec<_>>())
            }
        };
        let consul = (plan.store == Store::Consul).then(|| Consul::start_new(path));
        let kubernetes = (plan.store == Store::Kubernetes).then(|| in_pods(plan, path));
        let endpoints = match plan.store {
            Store::Kubernetes => String::new(),
            Store::Sqlite => path.join("store.db").display().to_string(),
            Store::Consul => consul.iter().map(|consul| consul.url.clone()).collect(),
            Store::Etcd | Store::Etcd2 => {
                let urls: Vec<&str> = etcd.iter().map(|member| member.url.as_str()).collect();
                urls.join(",")
            }
        };
        let place = Place {
            folder: path.to_owned(),
            program,
            store: vec![
                "--cluster-name=test".to_owned(),
                format!("--store-backend={}", plan.store.backend()),
                format!("--store-endpoints={endpoints}"),
            ],
            kubeconfig: kubernetes.as_ref().map(|k| k.kubeconfig.clone()),
            keeper_flags: Vec::new(),
        };
        let proxy_port = free_port();
        let mut cluster = Self {
            keepers: Vec::new(),
            sentinels: Vec::new(),
            proxy: place.proxy(
                "proxy",
                proxy_port,
                network.as_ref().map(|n| n.namespace(plan.keepers)),
            ),
            etcd,
            consul,
            kubernetes,
            proxy_port,
            place,
            network,
            disks: Vec::new(),
            folder,
        };
        cluster.proxy.words.extend(plan.proxy_flags.clone());
        if plan.secured {
            certificates::write(&cluster.place.folder);
            cluster.place.keeper_flags = certificates::flags(&cluster.place.folder);
        }
        cluster
    }

    /// Starts a sentinel.
    pub(crate) fn add_sentinel(&mut self, number: usize) {
        let namespace = self.network.as_ref().map(|n| n.namespace(number));
        let name = format!("s{number}");
        let mut sentinel = self.place.daemon("sentinel", &name, namespace);
        // One cluster fails over more often here than any does out there.
        sentinel.words.push("--max-failovers=1000".to_owned());
        sentinel.start();
        self.sentinels.push(sentinel);
    }

    /// Starts one more proxy, with these flags besides, and the port that clients reach it at.
    #[allow(dead_code, reason = "not all that use the harness have two")]
    pub(crate) fn another_proxy(&self, name: &str, flags: &[&str]) -> (Daemon, u16) {
        let port = free_port();
        let namespace = self.address().namespace;
        let mut proxy = self.place.proxy(name, port, namespace);
        for flag in flags {
            proxy.add_flag(flag);
        }
        proxy.start();
        (proxy, port)
    }

    /// Starts a keeper, on what its folder holds already.
    pub(crate) fn add_keeper(&mut self, number: usize) {
        self.add_keeper_with(number, &[]);
    }

    /// The same with more flags.
    pub(crate) fn add_keeper_with(&mut self, number: usize, flags: &[&str]) {
        let mut keeper = self.keeper(number);
        for flag in flags {
            keeper.daemon.add_flag(flag);
        }
        keeper.daemon.start();
        self.keepers.push(keeper);
    }

    /// A keeper that was not started yet.
    pub(crate) fn keeper(&self, number: usize) -> Keeper {
        let uid = format!("k{number}");
        let network = self.network.as_ref();
        let namespace = network.map(|network| network.namespace(number));
        let address = network.map_or("127.0.0.1".to_owned(), |network| network.address(number));
        let direct = Address {
            host: address,
            port: free_port(),
            user: SUPERUSER.0.to_owned(),
            password: SUPERUSER.1.to_owned(),
            namespace: namespace.clone(),
        };
        let mut daemon = self.place.daemon("keeper", &uid, namespace);
        let folder = self.place.folder.join(&uid);
        let file = |name: &str| self.place.folder.join(name).display().to_string();
        daemon.words.extend([
            format!("--uid={uid}"),
            format!("--data-dir={}", folder.display()),
            format!("--pg-listen-address={}", direct.host),
            format!("--pg-port={}", direct.port),
            format!("--pg-socket-dir={}", file("sockets")),
            format!("--pg-su-username={}", SUPERUSER.0),
            format!("--pg-su-passwordfile={}", file("superuser.password")),
            format!("--pg-repl-username={REPLICATION_USER}"),
            format!("--pg-repl-passwordfile={}", file("replication.password")),
        ]);
        daemon.words.extend(self.place.keeper_flags.clone());
        Keeper {
            uid,
            daemon,
            pgdata: folder.join("postgres"),
            direct,
        }
    }

    /// The folder of a keeper, started already or not.
    pub(crate) fn keeper_folder(&self, number: usize) -> PathBuf {
        self.place.folder.join(format!("k{number}"))
    }

    /// A folder that the database processes may write to, for whatever a test needs.
    pub(crate) fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// The store loses everything; sentinels and proxy have to be ended before.
    pub(crate) fn lose_store(&self) {
        for name in ["store.db", "store.db-wal", "store.db-shm"] {
            match std::fs::remove_file(self.place.folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("cannot remove {name}: {error}")
                }
                _ => {}
            }
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> Address {
        let network = self.network.as_ref();
        let host = network.map(|network| network.address(self.keepers.len()));
        Address {
            host: host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: self.proxy_port,
            user: SUPERUSER.0.to_owned(),
            password: SUPERUSER.1.to_owned(),
            namespace: network.map(|network| network.namespace(self.keepers.len())),
        }
    }

    /// Stops the store, one server, from running until it is thawed.
    pub(crate) fn freeze_store(&self) {
        match &self.kubernetes {
            Some(kubernetes) => kubernetes.freeze(),
            None => self.signal_store(Signal::STOP),
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw_store(&self) {
        match &self.kubernetes {
            Some(kubernetes) => kubernetes.thaw(),
            None => self.signal_store(Signal::CONT),
        }
    }

    fn signal_store(&self, signal: Signal) {
        let consul = self.consul.as_ref().map(|consul| &consul.process);
        let etcd = || self.etcd.first().and_then(Etcd::process);
        consul.or_else(etcd).expect("a server").signal(signal);
    }

    /// The file of a cluster on the embedded store.
    pub(crate) fn store_file(&self) -> PathBuf {
        self.place.folder.join("store.db")
    }

    /// Runs a command of stolonctl.
    pub(crate) fn try_ctl(&self, words: &[&str]) -> Output {
        self.ctl_command(words).output().expect("stolonctl runs")
    }

    /// The same as a command to be run; on the clients' host, which no test cuts off the store.
    pub(crate) fn ctl_command(&self, words: &[&str]) -> Command {
        let surroundings = Surroundings {
            network: self.address().namespace,
            ..Surroundings::default()
        };
        let mut command = process::command(&self.place.program, &surroundings);
        command.arg("ctl").args(&self.place.store).args(words);
        if let Some(kubeconfig) = &self.place.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }

    /// Runs a command of stolonctl that must succeed; what it printed.
    #[track_caller]
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let output = self.try_ctl(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stolonctl {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The cluster data; none when the store does not answer.
    pub(crate) fn data(&self) -> Option<Value> {
        let output = self.try_ctl(&["--store-timeout=2s", "clusterdata", "read"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The number of the primary's keeper, as the cluster data have it while the proxies are open.
    pub(crate) fn open_primary(&self) -> Option<usize> {
        let data = self.data()?;
        let db = data["proxy"]["spec"]["masterDbUid"]
            .as_str()
            .unwrap_or_default();
        if db.is_empty() || data["cluster"]["status"]["master"] != db {
            return None;
        }
        let uid = data["dbs"][db]["spec"]["keeperUID"].as_str()?;
        self.keepers.iter().position(|keeper| keeper.uid == uid)
    }

    /// The number of the primary's keeper.
    #[track_caller]
    pub(crate) fn primary(&self) -> usize {
        eventually("there is a primary", || self.open_primary())
    }

    /// The numbers of the other keepers.
    #[track_caller]
    pub(crate) fn standbys(&self) -> Vec<usize> {
        let primary = self.primary();
        (0..self.keepers.len()).filter(|n| *n != primary).collect()
    }

    /// Waits for another primary than this.
    #[track_caller]
    pub(crate) fn another_primary_than(&self, old: usize) -> usize {
        eventually("another keeper has the primary", || {
            self.open_primary().filter(|primary| *primary != old)
        })
    }

    /// Waits until there is a primary, writable through the proxy, that every other keeper of the
    /// cluster streams from, with a complete synchronous set.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        self.is_whole_with(self.keepers.len());
    }

    /// The same with this many instances.
    #[track_caller]
    pub(crate) fn is_whole_with(&self, instances: usize) {
        let end = std::time::Instant::now() + 2 * LIMIT;
        loop {
            let seen = self.streaming();
            let data = self.data().unwrap_or_default();
            if seen + 1 == instances && is_settled(&data, instances) && self.is_open() {
                return;
            }
            assert!(
                std::time::Instant::now() < end,
                "not whole with {instances} instances: {seen} stream\n{data:#}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How many standbys stream. A base backup's stream looks the same on the primary, so the
    /// standbys are asked.
    fn streaming(&self) -> usize {
        let sql = "SELECT status FROM pg_stat_wal_receiver";
        let streams = |keeper: &&Keeper| keeper.direct.query(sql).is_ok_and(|r| r == ["streaming"]);
        self.keepers.iter().filter(streams).count()
    }

    /// Whether a writable primary answers through the proxy.
    fn is_open(&self) -> bool {
        let recovering = self.address().query("SELECT pg_is_in_recovery()::text");
        recovering.is_ok_and(|rows| rows == ["false"])
    }

    /// Freezes a keeper and its PostgreSQL. On the one-host store a process that is frozen inside a
    /// transaction takes the store with it; that is another story, so such a moment is passed over.
    pub(crate) fn freeze(&self, keeper: usize) {
        let keeper = &self.keepers[keeper];
        self.freeze_outside_transaction(|| keeper.freeze(), || keeper.thaw());
    }

    /// Freezes a daemon alone, likewise, until it gets `Signal::CONT`.
    #[allow(dead_code, reason = "not all that use the harness freeze daemons")]
    pub(crate) fn freeze_daemon(&self, daemon: &Daemon) {
        let [freeze, thaw] = [Signal::STOP, Signal::CONT];
        self.freeze_outside_transaction(|| daemon.signal(freeze), || daemon.signal(thaw));
    }

    fn freeze_outside_transaction(&self, freeze: impl Fn(), thaw: impl Fn()) {
        eventually("it is frozen outside a transaction", || {
            freeze();
            if self.store_file().exists() && !self.store_is_free() {
                thaw();
                return None;
            }
            Some(())
        });
    }

    fn store_is_free(&self) -> bool {
        let file = rusqlite::Connection::open(self.store_file()).expect("the store's file");
        file.busy_timeout(Duration::from_secs(1)).expect("a limit");
        file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    }

    /// Gives a host another address, and has its keeper know.
    pub(crate) fn move_host(&mut self, number: usize, address: &str) {
        let keeper = &mut self.keepers[number];
        keeper.kill();
        let network = self.network.as_ref().expect("hosts");
        network.readdress(number, address);
        address.clone_into(&mut keeper.direct.host);
        let listen = format!("--pg-listen-address={address}");
        keeper.daemon.words.push(listen);
        keeper.daemon.start();
    }

    /// Asserts that an instance refuses whoever asks it for its WAL from a host, as the replication
    /// user with the right password, in these words.
    #[track_caller]
    pub(crate) fn refuses_replication(&self, keeper: usize, host: usize, mode: &str, why: &str) {
        let surroundings = Surroundings {
            network: Some(self.network.as_ref().expect("hosts").namespace(host)),
            ..Surroundings::default()
        };
        let direct = &self.keepers[keeper].direct;
        let program = process::postgres_program("pg_basebackup");
        let mut copy = process::command(&program, &surroundings);
        copy.env("PGPASSWORD", REPLICATION_PASSWORD);
        copy.arg("-D")
            .arg(self.place.folder.join("stolen"))
            .arg("-d");
        copy.arg(format!(
            "host={} port={} user={REPLICATION_USER} sslmode={mode}",
            direct.host, direct.port
        ));
        let output = copy.output().expect("pg_basebackup runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }

    /// Leaves no room on the disk of a keeper with small disks.
    pub(crate) fn fill_disk(&self, keeper: usize) {
        self.disks[keeper].fill();
    }

    /// Makes room there again.
    pub(crate) fn empty_disk(&self, keeper: usize) {
        self.disks[keeper].empty();
    }

    /// Has the disk of a keeper with disks that can hang do so.
    pub(crate) fn hang_disk(&self, keeper: usize) {
        self.disks[keeper].hang();
    }

    /// Lets it go on.
    pub(crate) fn mend_disk(&self, keeper: usize) {
        self.disks[keeper].go_on();
    }

    /// Turns the disk of a keeper whose disk can hang read-only.
    pub(crate) fn fail_disk(&self, keeper: usize) {
        self.disks[keeper].fail();
    }

    /// Kills a keeper and its instance, mounts its disk anew, and starts it.
    pub(crate) fn start_on_mended_disk(&mut self, keeper: usize) {
        self.keepers[keeper].kill();
        self.disks[keeper].mount_again();
        self.keepers[keeper].daemon.start();
    }

    /// Somebody who reads an instance's WAL for as long as they are there.
    pub(crate) fn receive_wal(&self, keeper: usize, number: usize) -> Process {
        let folder = self.place.folder.join(format!("wal{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        process::give(&folder);
        let program = process::postgres_program("pg_receivewal");
        let mut command = process::command(&program, &Surroundings::default());
        let direct = &self.keepers[keeper].direct;
        command.env("PGPASSWORD", REPLICATION_PASSWORD);
        command.args(["-h", &direct.host, "-U", REPLICATION_USER]);
        command.args(["-p", &direct.port.to_string()]);
        command.arg("-D").arg(&folder);
        let log = self
            .place
            .folder
            .join("log")
            .join(format!("wal{number}.log"));
        Process::start("pg_receivewal", command, &log)
    }

    /// A client that writes.
    pub(crate) fn writer(&self) -> Writer {
        Writer::start(&self.address())
    }

    /// Asserts that every acknowledged row is there, on the primary and on every standby.
    #[track_caller]
    pub(crate) fn has_all(&self, account: &Account) {
        assert!(!account.acknowledged.is_empty(), "nothing was acknowledged");
        let lost = self.lost(account);
        assert!(
            lost.is_empty(),
            "{} acknowledged rows lost: {lost:?}",
            lost.len()
        );
    }

    /// The acknowledged rows that are not there.
    #[track_caller]
    pub(crate) fn lost(&self, account: &Account) -> Vec<i64> {
        let rows = eventually("the rows can be read", || {
            self.address().query("SELECT id FROM written").ok()
        });
        let rows: std::collections::BTreeSet<i64> =
            rows.iter().filter_map(|row| row.parse().ok()).collect();
        account.acknowledged.difference(&rows).copied().collect()
    }

    /// Waits until an instance has what the primary has now.
    #[track_caller]
    pub(crate) fn follows(&self, keeper: usize) {
        let written = eventually("the primary's rows", || {
            self.address()
                .query("SELECT coalesce(max(id), 0) FROM written")
                .ok()
        });
        let wanted: i64 = written[0].parse().expect("a number");
        let sql = "SELECT max(id) FROM written";
        within(2 * LIMIT, "an instance has the primary's rows", || {
            let rows = self.keepers[keeper].direct.query(sql).ok()?;
            (rows.first()?.parse::<i64>().ok()? >= wanted).then_some(())
        });
    }
}

impl Cluster {
    /// Waits until every instance holds the same rows in every table of the users'. Nobody may write
    /// meanwhile.
    #[track_caller]
    pub(crate) fn holds_the_same(&self) {
        let tables = "SELECT oid::regclass::text FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1";
        let primary = &self.keepers[self.primary()].direct;
        let names = primary.query(tables).expect("the tables");
        assert!(!names.is_empty(), "nothing to compare");
        let contents = |address: &Address| {
            let one = |name: &String| {
                let sql = format!(
                    "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '')
                     FROM {name} t"
                );
                Some((name.clone(), address.query(&sql).ok()?.pop()?))
            };
            if address.query(tables).ok()? != names {
                return None;
            }
            names.iter().map(one).collect::<Option<Vec<_>>>()
        };
        let expected = contents(primary).expect("the primary's rows");
        for keeper in &self.keepers {
            within(
                2 * LIMIT,
                "an instance holds what the primary holds",
                || (contents(&keeper.direct)? == expected).then_some(()),
            );
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        for member in &self.etcd {
            member.thaw();
        }
        for disk in &self.disks {
            disk.go_on();
        }
        for keeper in &mut self.keepers {
            keeper.kill();
        }
        remove_leftovers();
        if std::env::var_os("STOLON_KEEP").is_some() {
            eprintln!("kept: {}", self.folder.path().display());
            self.folder.disable_cleanup(true);
        }
    }
}

impl Cluster {
    /// The last lines of every log, for a test that failed.
    pub(crate) fn tell_logs(&self) {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.folder.path().join("log"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        logs.sort();
        for log in logs {
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // A line for every round says nothing here.
            let telling = |line: &&str| !line.contains("\"code\": \"round\"");
            let lines: Vec<&str> = text.lines().filter(telling).collect();
            let last = lines.len().saturating_sub(60);
            eprintln!("--- {}\n{}", log.display(), lines[last..].join("\n"));
        }
    }
}

/// Kubernetes with a pod for every component of a cluster.
fn in_pods(plan: &Plan, folder: &Path) -> Kubernetes {
    let kubernetes = Kubernetes::start_new(folder);
    kubernetes.make_pod("proxy", "proxy");
    for number in 0..plan.sentinels {
        kubernetes.make_pod(&format!("s{number}"), "sentinel");
    }
    for number in 0..plan.keepers {
        kubernetes.make_pod(&format!("k{number}"), "keeper");
    }
    kubernetes
}

impl Place {
    fn daemon(&self, role: &str, name: &str, namespace: Option<String>) -> Daemon {
        let mut words = vec![role.to_owned()];
        words.extend(self.store.clone());
        Daemon {
            name: name.to_owned(),
            place: self.clone(),
            words,
            surroundings: Surroundings {
                network: namespace,
                ..Surroundings::default()
            },
            process: None,
        }
    }

    fn proxy(&self, name: &str, port: u16, namespace: Option<String>) -> Daemon {
        let mut daemon = self.daemon("proxy", name, namespace);
        daemon.words.extend([
            "--listen-address=0.0.0.0".to_owned(),
            format!("--port={port}"),
        ]);
        daemon
    }
}

impl Daemon {
    /// Gives it one more flag, from its next start on; of a flag that is repeated the last one counts.
    pub(crate) fn add_flag(&mut self, flag: &str) {
        self.words.push(flag.to_owned());
    }

    /// Starts it, also again.
    pub(crate) fn start(&mut self) {
        let mut command = process::command(&self.place.program, &self.surroundings);
        command.args(&self.words);
        if let Some(kubeconfig) = &self.place.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
            command.env("POD_NAME", &self.name);
        }
        let log = self
            .place
            .folder
            .join("log")
            .join(format!("{}.log", self.name));
        self.process = Some(Process::start(&self.name, command, &log));
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to stop, and waits until it has done so with status 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("a running daemon");
        let status = process.stop(LIMIT);
        assert!(status.success(), "{}: {status}", self.name);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process
            .as_ref()
            .expect("a running daemon")
            .signal(signal);
    }

    /// The processes that it has started.
    pub(crate) fn children(&self) -> Vec<i32> {
        process::children(self.pid())
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("a running daemon");
        process.wait(LIMIT)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.as_ref().expect("a running daemon").pid()
    }

    /// What it said since the cluster began.
    pub(crate) fn said(&self) -> String {
        let log = self
            .place
            .folder
            .join("log")
            .join(format!("{}.log", self.name));
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }
}

impl Keeper {
    /// The first line of postmaster.pid.
    pub(crate) fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.pgdata.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Copies its PostgreSQL with `pg_basebackup`, which gets more `words`.
    #[track_caller]
    pub(crate) fn copy_to(&self, folder: &Path, words: &[&str]) {
        let program = process::postgres_program("pg_basebackup");
        let mut copy = process::command(&program, &Surroundings::default());
        copy.env("PGPASSWORD", REPLICATION_PASSWORD);
        copy.args(["-h", &self.direct.host, "-U", REPLICATION_USER]);
        copy.args(["-p", &self.direct.port.to_string(), "--checkpoint=fast"]);
        copy.arg("-D").arg(folder).args(words);
        let output = copy.output().expect("pg_basebackup runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    /// How others connect to it as the replication user, as it stands in a configuration file.
    pub(crate) fn replication_conninfo(&self) -> String {
        format!(
            "host={} port={} user={REPLICATION_USER} password=''{REPLICATION_PASSWORD}''",
            self.direct.host, self.direct.port
        )
    }

    /// Data of other clusters that it keeps.
    pub(crate) fn replaced(&self) -> Vec<PathBuf> {
        let folder = self.pgdata.parent().expect("a folder");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let is_kept = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("postgres.replaced-")
        };
        paths.filter(is_kept).collect()
    }

    /// Sends PostgreSQL's postmaster a signal, and nobody else.
    #[track_caller]
    pub(crate) fn signal_postmaster(&self, signal: Signal) {
        process::send(self.postmaster().expect("a postmaster"), signal);
    }

    /// Kills the keeper and all of its PostgreSQL at once, as when the host loses power.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
        self.kill_postgres();
    }

    /// Has it, from its next start on, give this name and a port of its own to others.
    pub(crate) fn rename(&mut self, host: &str) {
        self.direct.port = free_port();
        let words = &mut self.daemon.words;
        words.push(format!("--pg-advertise-address={host}"));
        words.push(format!("--pg-port={}", self.direct.port));
    }

    /// Its `pg_hba.conf`.
    pub(crate) fn access_rules(&self) -> String {
        std::fs::read_to_string(self.pgdata.join("pg_hba.conf")).expect("access rules")
    }

    /// Removes its data.
    pub(crate) fn lose_data(&self) {
        std::fs::remove_dir_all(&self.pgdata).expect("data that can be removed");
    }

    /// Kills all of its PostgreSQL.
    pub(crate) fn kill_postgres(&self) {
        within(LIMIT, "PostgreSQL is killed", || {
            let left = process::working_in(&self.pgdata);
            for pid in &left {
                process::send(*pid, Signal::KILL);
            }
            left.is_empty().then_some(())
        });
    }

    /// Stops all its processes from running, as when the host is paused.
    fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
        for pid in process::working_in(&self.pgdata) {
            process::send(pid, Signal::STOP);
        }
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        for pid in process::working_in(&self.pgdata) {
            process::send(pid, Signal::CONT);
        }
        self.daemon.signal(Signal::CONT);
    }
}

/// Whether at least this many dbs are healthy and have done all they were told, and the synchronous
/// set, where there is to be one, is confirmed.
fn is_settled(data: &Value, instances: usize) -> bool {
    let dbs = data["dbs"].as_object();
    let settled = |db: &&Value| {
        db["status"]["healthy"] == true && db["status"]["currentGeneration"] == db["generation"]
    };
    if dbs.map_or(0, |dbs| dbs.values().filter(settled).count()) < instances {
        return false;
    }
    if data["cluster"]["spec"]["synchronousReplication"] != true {
        return true;
    }
    let master = data["cluster"]["status"]["master"]
        .as_str()
        .unwrap_or_default();
    let db = &data["dbs"][master];
    let set = db["spec"]["synchronousStandbys"].as_array();
    let confirmed = db["status"]["synchronousStandbys"].as_array();
    set.is_some_and(|set| !set.is_empty()) && set == confirmed
}

pub(super) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, format!("{text}\n")).expect("a password file");
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, owner_only).expect("its mode");
    process::give(path);
}
