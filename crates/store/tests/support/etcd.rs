//! Real etcd servers for the tests: started on free loopback ports, ended when they are dropped.

#[path = "server.rs"]
pub(crate) mod server;

use std::process::Command;
use std::time::Duration;

use server::free_port;
#[allow(unused_imports, reason = "not every test needs all of it")]
pub(crate) use server::{LIMIT, Server, eventually, ready};
use stolon_store::{Backend, Config};

/// Certificates of a server, and of the authority whose clients it takes.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) authority: std::path::PathBuf,
    pub(crate) certificate: std::path::PathBuf,
    pub(crate) key: std::path::PathBuf,
}

/// A cluster of etcd servers with a folder of its own.
pub(crate) struct Etcd {
    pub(crate) servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

impl Etcd {
    /// Starts one server.
    pub(crate) async fn single() -> Self {
        Self::single_with(&[]).await
    }

    /// Starts one server with these flags besides.
    pub(crate) async fn single_with(flags: &[&str]) -> Self {
        Self::start(1, None, flags).await
    }

    /// Starts three servers.
    pub(crate) async fn three() -> Self {
        Self::start(3, None, &[]).await
    }

    /// Starts one server that speaks TLS to clients that its authority knows.
    pub(crate) async fn secure(certificates: &Certificates) -> Self {
        Self::start(1, Some(certificates), &[]).await
    }

    async fn start(count: usize, certificates: Option<&Certificates>, flags: &[&str]) -> Self {
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
                    // Used by its own tests; it costs nothing.
                    .arg("--enable-v2=true")
                    .args(flags);
                if let Some(files) = certificates {
                    command.arg("--client-cert-auth");
                    command.arg("--trusted-ca-file").arg(&files.authority);
                    command.arg("--cert-file").arg(&files.certificate);
                    command.arg("--key-file").arg(&files.key);
                }
                Server::start(
                    command,
                    &folder.path().join(format!("m{index}.log")),
                    endpoint,
                )
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

/// How to reach a cluster's store in etcd at these endpoints.
pub(crate) fn config(endpoints: Vec<String>, timeout: Duration) -> Config {
    server::reach(Backend::Etcd3, endpoints, timeout)
}
