//! A real Consul server for the tests.

#[path = "../../../../testing/consul.rs"]
mod program;

use std::process::Command;

pub(crate) use program::consul_or_not_run;
use serde_json::{Value, json};

use crate::etcd::server::{Server, free_port};

/// One Consul server with a folder of its own.
pub(crate) struct Consul {
    pub(crate) server: Server,
    _folder: tempfile::TempDir,
}

impl Consul {
    /// Starts it, with more settings than those it needs on loopback; `https`: it speaks TLS.
    pub(crate) fn start(program: &std::path::Path, more: &Value, https: bool) -> Self {
        Self::start_at(free_port(), program, more, https)
    }

    /// Starts three that are one cluster.
    pub(crate) fn three(program: &std::path::Path) -> Vec<Self> {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let others: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        let start = |port: &u16| {
            let together = json!({
                "bootstrap": false,
                "bootstrap_expect": 3,
                "node_name": format!("n{port}"),
                "retry_join": others,
                "retry_interval": "1s",
            });
            Self::start_at(*port, program, &together, false)
        };
        ports.iter().map(start).collect()
    }

    /// `gossip`: the port by which servers of a cluster find each other.
    fn start_at(gossip: u16, program: &std::path::Path, more: &Value, https: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let mut settings = json!({
            "server": true,
            "bootstrap": true,
            "bind_addr": "127.0.0.1",
            "data_dir": folder.path().join("data"),
            "disable_update_check": true,
            "disable_host_node_id": true,
            "performance": { "raft_multiplier": 1 },
            "log_level": "warn",
            "ports": {
                "dns": -1, "grpc": -1, "serf_wan": -1,
                "http": if https { -1 } else { i32::from(port) },
                "https": if https { i32::from(port) } else { -1 },
                "server": free_port(), "serf_lan": gossip,
            },
        });
        if let (Value::Object(settings), Value::Object(more)) = (&mut settings, more.clone()) {
            settings.extend(more);
        }
        let file = folder.path().join("consul.json");
        std::fs::write(&file, settings.to_string()).expect("written");
        let mut command = Command::new(program);
        command.args(["agent", "-config-file"]).arg(&file);
        let scheme = if https { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{port}");
        let server = Server::start(command, &folder.path().join("consul.log"), endpoint);
        Self {
            server,
            _folder: folder,
        }
    }
}
