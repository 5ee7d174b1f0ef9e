//! etcd servers.

use std::path::Path;
use std::process::Command;

use super::process::{self, Process, Surroundings};
use super::{LIMIT, free_port, within};

/// Where a member runs.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) address: String,
    /// Its network namespace; none: this one.
    pub(crate) namespace: Option<String>,
}

/// One member of an etcd cluster.
#[derive(Debug)]
pub(crate) struct Etcd {
    words: Vec<String>,
    namespace: Option<String>,
    log: std::path::PathBuf,
    process: Option<Process>,
    /// Where clients reach it.
    pub(crate) url: String,
}

impl Etcd {
    /// A cluster of one on loopback.
    pub(crate) fn single(folder: &Path) -> Self {
        let host = Host {
            address: "127.0.0.1".to_owned(),
            namespace: None,
        };
        Self::members(folder, &[host]).remove(0)
    }

    /// A member on each host.
    pub(crate) fn members(folder: &Path, hosts: &[Host]) -> Vec<Self> {
        let peers: Vec<String> = hosts
            .iter()
            .map(|host| format!("http://{}:{}", host.address, free_port()))
            .collect();
        let named = peers.iter().enumerate();
        let initial: Vec<String> = named.map(|(n, url)| format!("e{n}={url}")).collect();
        let mut members = Vec::new();
        for (n, (host, peer_url)) in hosts.iter().zip(&peers).enumerate() {
            let data = folder.join(format!("etcd{n}"));
            std::fs::create_dir_all(&data).expect("etcd's folder");
            process::give(&data);
            let url = format!("http://{}:{}", host.address, free_port());
            let words = [
                format!("--name=e{n}"),
                format!("--data-dir={}/data", data.display()),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
                format!("--initial-cluster={}", initial.join(",")),
                // For the clusters that use it; it costs the others nothing.
                "--enable-v2=true".to_owned(),
            ];
            let mut member = Self {
                words: words.to_vec(),
                namespace: host.namespace.clone(),
                log: folder.join("log").join(format!("etcd{n}.log")),
                process: None,
                url,
            };
            member.start();
            members.push(member);
        }
        for member in &members {
            within(LIMIT, "etcd answers", || {
                member.control(&["endpoint", "health"]).then_some(())
            });
        }
        members
    }

    /// Starts it, also again with its data.
    pub(crate) fn start(&mut self) {
        let surroundings = Surroundings {
            network: self.namespace.clone(),
            ..Surroundings::default()
        };
        let mut command = process::command(Path::new("/usr/bin/etcd"), &surroundings);
        command.args(&self.words);
        self.process = Some(Process::start("etcd", command, &self.log));
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it from running until it is thawed.
    pub(crate) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        self.process
            .as_ref()
            .expect("a running etcd")
            .signal(signal);
    }

    /// Runs etcdctl on it.
    pub(crate) fn control(&self, words: &[&str]) -> bool {
        let mut command = match &self.namespace {
            None => Command::new("etcdctl"),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "etcdctl"]);
                command
            }
        };
        let output = command
            .env("ETCDCTL_API", "3")
            .args([&format!("--endpoints={}", self.url), "--command-timeout=2s"])
            .args(words)
            .output()
            .expect("etcdctl");
        output.status.success()
    }
}
