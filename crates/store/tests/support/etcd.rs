//! Real etcd servers for the tests: started on free loopback ports, ended when they are dropped.

#[path = "../../../../testing/free_port.rs"]
mod free_port;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use free_port::free_port;
use rustix::process::{Pid, Signal, kill_process};
use stolon_store::{Backend, Config, Key, Store, Tls};

/// Bound on everything a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Certificates of a server, and of the authority whose clients it takes.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) authority: std::path::PathBuf,
    pub(crate) certificate: std::path::PathBuf,
    pub(crate) key: std::path::PathBuf,
}

/// One etcd server.
pub(crate) struct Server {
    child: Child,
    command: Command,
    pub(crate) endpoint: String,
}

/// A cluster of etcd servers with a folder of its own.
pub(crate) struct Etcd {
    pub(crate) servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

impl Etcd {
    /// Starts one server.
    pub(crate) async fn single() -> Self {
        Self::start(1, None).await
    }

    /// Starts three servers.
    pub(crate) async fn three() -> Self {
        Self::start(3, None).await
    }

    /// Starts one server that speaks TLS to clients that its authority knows.
    pub(crate) async fn secure(certificates: &Certificates) -> Self {
        Self::start(1, Some(certificates)).await
    }

    async fn start(count: usize, certificates: Option<&Certificates>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports: Vec<u16> = (0..count * 2).map(|_| free_port()).collect();
        let (client_ports, peer_ports) = ports.split_at(count);
        let members: Vec<String> = peer_ports
            .iter()
            .enumerate()
            .map(|(index, port)| format!("m{index}=http://127.0.0.1:{port}"))
            .collect();
        let scheme = if certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let servers = (0..count)
            .map(|index| {
                let endpoint = format!("{scheme}://127.0.0.1:{}", client_ports[index]);
                let peer = format!("http://127.0.0.1:{}", peer_ports[index]);
                let mut command = Command::new("etcd");
                command
                    .args(["--name", &format!("m{index}"), "--logger", "zap"])
                    .args(["--listen-client-urls", &endpoint])
                    .args(["--advertise-client-urls", &endpoint])
                    .args(["--listen-peer-urls", &peer])
                    .args(["--initial-advertise-peer-urls", &peer])
                    .args(["--initial-cluster", &members.join(",")])
                    .arg("--data-dir")
                    .arg(folder.path().join(format!("m{index}")))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null());
                if let Some(files) = certificates {
                    command.arg("--client-cert-auth");
                    command.arg("--trusted-ca-file").arg(&files.authority);
                    command.arg("--cert-file").arg(&files.certificate);
                    command.arg("--key-file").arg(&files.key);
                }
                log_to(&mut command, &folder.path().join(format!("m{index}.log")));
                let child = command.spawn().expect("etcd in the path");
                Server {
                    child,
                    command,
                    endpoint,
                }
            })
            .collect();
        let etcd = Self {
            servers,
            _folder: folder,
        };
        if certificates.is_none() {
            etcd.answers().await;
        }
        etcd
    }

    /// How to reach it; calls may take `timeout`.
    pub(crate) fn config(&self, timeout: Duration) -> Config {
        let endpoints = self.servers.iter().map(|server| server.endpoint.clone());
        config(endpoints.collect(), timeout)
    }

    /// Waits until every server answers.
    pub(crate) async fn answers(&self) {
        for server in &self.servers {
            let config = config(vec![server.endpoint.clone()], Duration::from_secs(2));
            ready(&stolon_store::open(&config).expect("a store")).await;
        }
    }
}

/// Waits until a store can be read.
pub(crate) async fn ready(store: &Arc<dyn Store>) {
    eventually("etcd answers", || async {
        store.get(&Key::ClusterData).await.ok()
    })
    .await;
}

/// How to reach a cluster's store in etcd at these endpoints.
pub(crate) fn config(endpoints: Vec<String>, timeout: Duration) -> Config {
    Config {
        backend: Backend::Etcd3,
        endpoints,
        prefix: "stolon/cluster".to_owned(),
        cluster_name: "test".to_owned(),
        timeout,
        tls: Tls::default(),
    }
}

fn log_to(command: &mut Command, path: &Path) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log");
    command.stderr(log);
}

impl Server {
    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the server is ours");
    }

    /// It no longer answers, and its connections stay open.
    pub(crate) fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// It goes on where it was frozen.
    pub(crate) fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.send(Signal::KILL);
        self.child.wait().expect("it ends");
    }

    /// Starts it again, with the data it had.
    pub(crate) fn restart(&mut self) {
        self.child = self.command.spawn().expect("etcd again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is lost when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
