//! A whole proxy on a store of its own, with the test as its sentinel.

#[path = "../../../../testing/free_port.rs"]
mod free_port;

use std::sync::Arc;
use std::time::Duration;

pub(super) use free_port::free_port;
use stolon_core::model::report::ProxyInfo;
use stolon_core::model::{ClusterData, ClusterSpec, ClusterUid, Db, Generation, wire};
use stolon_core::time::Timestamp;
use stolon_store::{Folder, Key, Store, Written};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::config::{Config, Keepalive};
use crate::runtime::shutdown::Shutdown;

const LIMIT: Duration = Duration::from_secs(20);

/// A proxy on a free port, whose store is this file.
pub(super) fn config(file: &str, keepalive: Keepalive) -> Config {
    let store = stolon_store::Config {
        backend: stolon_store::Backend::Sqlite,
        endpoints: vec![file.to_owned()],
        prefix: "stolon/cluster".to_owned(),
        cluster_name: "test".to_owned(),
        timeout: LIMIT,
        tls: stolon_store::Tls::default(),
        access: stolon_store::Access::default(),
        kube: stolon_store::Kube::default(),
    };
    let log = crate::runtime::logging::LogConfig {
        level: tracing::Level::ERROR,
        color: false,
        format: crate::runtime::logging::LogFormat::Text,
    };
    let common = crate::config::CommonConfig {
        cluster_name: "test".to_owned(),
        store,
        metrics_listen_address: None,
        log,
    };
    Config {
        common,
        listen_address: "127.0.0.1".into(),
        port: free_port(),
        stop_listening: true,
        hold_timeout: Duration::ZERO,
        most_held: 1000,
        drain_timeout: Duration::ZERO,
        upgrade_drain_timeout: LIMIT,
        threads: None,
        keepalive,
        proxy_protocol_from: Vec::new(),
        reading: None,
        tls: None,
    }
}

/// Waits until `look` finds something.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn published(store: &Arc<dyn Store>) -> Option<ProxyInfo> {
    let entries = store.list(Folder::Proxies).await.expect("a store");
    let entry = entries.first()?;
    Some(wire::read(&entry.value).expect("an info"))
}

async fn write(store: &Arc<dyn Store>, data: &ClusterData) {
    let bytes = wire::write(data).expect("a document");
    let written = store.put(&Key::ClusterData, &bytes).await;
    assert!(matches!(written, Written::Yes(_)), "{written:?}");
}

fn document(port: u16, timeout: Duration) -> ClusterData {
    let spec = ClusterSpec {
        proxy_check_interval: Some((timeout / 4).into()),
        proxy_timeout: Some(timeout.into()),
        ..ClusterSpec::default()
    };
    let mut data = ClusterData::new(ClusterUid::from("c"), spec, Timestamp::ZERO);
    let mut db = Db {
        uid: "db1".into(),
        ..Db::default()
    };
    db.status.listen_address = "127.0.0.1".to_owned();
    db.status.port = port.to_string();
    data.dbs.insert("db1".into(), db);
    data.proxy.generation = Generation::FIRST;
    data
}

/// A client and the server's end of its session, as soon as the proxy carries one.
async fn session(port: u16, server: &TcpListener) -> (TcpStream, TcpStream) {
    let (mut client, (mut session, _)) = eventually("carried", async || {
        let client = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let soon = tokio::time::timeout(Duration::from_millis(200), server.accept());
        Some((client, soon.await.ok()?.ok()?))
    })
    .await;
    client.write_all(b"hello").await.expect("written");
    let mut buffer = [0; 5];
    session.read_exact(&mut buffer).await.expect("read");
    (client, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_cut_off_before_the_proxy_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    let config = config(&file.to_string_lossy(), Keepalive::default());
    let (port, store) = (config.port, stolon_store::open(&config.common.store));
    let store = store.expect("a store");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let mut data = document(server.local_addr().expect("an address").port(), LIMIT);
    write(&store, &data).await;
    let shutdown = Shutdown::default();
    let running = tokio::spawn(super::run(config, shutdown.clone()));

    let info = eventually("published", async || published(&store).await).await;
    data.proxy.spec.primary_db_uid = "db1".into();
    data.proxy.spec.enabled_proxies = vec![info.uid];
    for generation in 2..6 {
        data.proxy.spec.primary_db_uid = "db1".into();
        data.proxy.generation = Generation(generation * 2);
        write(&store, &data).await;
        let (mut client, session) = session(port, &server).await;
        let mut buffer = [0; 5];

        data.proxy.spec.primary_db_uid = "".into();
        data.proxy.generation = Generation(generation * 2 + 1);
        write(&store, &data).await;
        eventually("acknowledged", async || {
            let info = published(&store).await?;
            (info.generation == data.proxy.generation).then_some(())
        })
        .await;
        // I6: gone by now, and not only soon.
        let sent = rustix::io::write(&session, b"an answer");
        assert!(sent.is_err(), "the server's side was still there");
        let gone = client.read(&mut buffer).await;
        assert!(gone.is_err(), "the client's side was still there");
    }
    shutdown.request();
    let ended = tokio::time::timeout(LIMIT, running).await.expect("in time");
    ended.expect("a task").expect("it stopped well");
    assert_eq!(published(&store).await, None);
}

/// Tells a process of this program that it is the proxy to be paused: its port and its store's file.
const PAUSED: &str = "STOLON_TEST_PAUSED_PROXY";

/// A proxy in a process of its own, which ends with the test.
struct Paused(std::process::Child);

impl Paused {
    fn start(port: u16, file: &str) -> Self {
        let child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .arg("a_proxy_that_was_paused_hands_nothing_over_when_it_goes_on")
            .env(PAUSED, format!("{port}:{file}"))
            .stdout(std::process::Stdio::null())
            .spawn();
        Self(child.expect("a process"))
    }

    /// Suspends it, and waits until none of its threads runs any more.
    async fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        let tasks = format!("/proc/{}/task", self.0.id());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a task").path().join("stat"));
            let stat = stat.unwrap_or_default();
            stat.rsplit_once(')')
                .is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        let all_stopped = || std::fs::read_dir(&tasks).expect("tasks").all(is_stopped);
        eventually("suspended", async || all_stopped().then_some(())).await;
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("a signal");
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy in a process of its own that forwards to this server, its port, its store, and what that says.
async fn elsewhere(
    folder: &std::path::Path,
    server: &TcpListener,
    timeout: Duration,
) -> (Paused, u16, Arc<dyn Store>, ClusterData) {
    let file = folder.join("store.db");
    let config = config(&file.to_string_lossy(), Keepalive::default());
    let store = stolon_store::open(&config.common.store).expect("a store");
    let mut data = document(server.local_addr().expect("an address").port(), timeout);
    data.proxy.spec.primary_db_uid = "db1".into();
    write(&store, &data).await;
    let proxy = Paused::start(config.port, &file.to_string_lossy());
    let info = eventually("published", async || published(&store).await).await;
    data.proxy.spec.enabled_proxies = vec![info.uid];
    data.proxy.generation = Generation(2);
    write(&store, &data).await;
    (proxy, config.port, store, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_had_not_delivered_when_it_died_is_not_delivered_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let (proxy, port, _store, _) = elsewhere(folder.path(), &server, LIMIT).await;
    let (mut client, mut session) = session(port, &server).await;
    // Until nobody takes any more: some of it is with the proxy's kernel, and the server reads nothing.
    let words = vec![b'.'; 64 * 1024];
    while let Ok(written) = tokio::time::timeout(LIMIT / 20, client.write_all(&words)).await {
        written.expect("written");
    }
    proxy.signal(rustix::process::Signal::KILL);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, session.read_to_end(&mut rest)).await;
    let end = end.expect("in time");
    assert!(end.is_err(), "I1: {end:?}, an end in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_paused_hands_nothing_over_when_it_goes_on() {
    use rustix::process::Signal;
    if let Some((port, file)) = std::env::var(PAUSED).ok().and_then(|given| {
        let (port, file) = given.split_once(':')?;
        Some((port.parse().expect("a port"), file.to_owned()))
    }) {
        let mut config = config(&file, Keepalive::default());
        config.port = port;
        super::run(config, Shutdown::default()).await.expect("run");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let timeout = Duration::from_secs(2);
    let (proxy, port, store, mut data) = elsewhere(folder.path(), &server, timeout).await;
    let (mut client, mut old) = session(port, &server).await;

    proxy.pause().await;
    client.write_all(b"insert").await.expect("it waits");
    tokio::time::sleep(timeout.mul_f64(1.05) + Duration::from_millis(500)).await;
    // Nobody waits for the proxy any more: another primary is open, or the same one again.
    data.proxy.generation = Generation(5);
    write(&store, &data).await;
    proxy.signal(Signal::CONT);
    let mut buffer = [0; 16];
    let got = tokio::time::timeout(LIMIT, old.read(&mut buffer)).await;
    let got = got.expect("in time");
    assert!(!matches!(got, Ok(1..)), "I1: {got:?} came through");
    session(port, &server).await;
}
