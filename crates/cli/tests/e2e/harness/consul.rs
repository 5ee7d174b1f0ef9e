//! A Consul server.

#[path = "../../../../../testing/consul.rs"]
mod program;

use std::path::Path;

#[allow(unused_imports, reason = "the benches share the harness")]
pub(crate) use program::consul_or_not_run;
use serde_json::json;

use super::process::{self, Process, Surroundings};
use super::{LIMIT, free_port, plain_http, within};

/// One Consul server on loopback, and an agent with services.
#[derive(Debug)]
pub(crate) struct Consul {
    pub(crate) process: Process,
    /// Where clients reach it.
    pub(crate) url: String,
    address: String,
}

impl Consul {
    /// Starts it with no data, in this folder.
    pub(crate) fn start_new(folder: &Path) -> Self {
        let own = folder.join("consul");
        std::fs::create_dir_all(&own).expect("Consul's folder");
        let port = free_port();
        let settings = json!({
            "server": true, "bootstrap": true, "bind_addr": "127.0.0.1",
            "data_dir": own.join("data"), "disable_update_check": true,
            "disable_host_node_id": true, "performance": { "raft_multiplier": 1 },
            "ports": {
                "dns": -1, "grpc": -1, "serf_wan": -1, "http": port,
                "server": free_port(), "serf_lan": free_port(),
            },
        });
        std::fs::write(own.join("consul.json"), settings.to_string()).expect("written");
        process::give(&own);
        process::give(&own.join("consul.json"));
        // The user of the database processes may not be able to enter where it was unpacked.
        let unpacked = program::consul().expect("Consul");
        let copy = folder.join("consul-program");
        std::fs::copy(unpacked, &copy).expect("a copy of Consul");
        let mut command = process::command(&copy, &Surroundings::default());
        command.args(["agent", "-config-file"]);
        command.arg(own.join("consul.json"));
        let process = Process::start("consul", command, &folder.join("log/consul.log"));
        let consul = Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            address: format!("127.0.0.1:{port}"),
        };
        within(LIMIT, "Consul has a leader", || {
            let leader = consul.get("/v1/status/leader")?;
            leader.contains(':').then_some(())
        });
        consul
    }

    /// What it answers to a read, without its headers.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        plain_http::ask(&self.address, "GET", path, "")
    }
}
