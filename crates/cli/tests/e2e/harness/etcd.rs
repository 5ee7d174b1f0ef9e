//! etcd servers.

use std::path::Path;
use std::process::Command;

use super::process::{self, Process, Surroundings};
use super::{LIMIT, free_port, within};

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
        let mut members = Self::members(folder, &[("127.0.0.1".to_owned(), None)]);
        members.remove(0)
    }

    /// A member on each host.
    pub(crate) fn members(folder: &Path, hosts: &[(String, Option<String>)]) -> Vec<Self> {
        let ports: Vec<(u16, u16)> = hosts.iter().map(|_| (free_port(), free_port())).collect();
        let places: Vec<_> = hosts.iter().zip(ports).enumerate().collect();
        let names: Vec<String> = places
            .iter()
            .map(|(n, ((address, _), (peer, _)))| format!("e{n}=http://{address}:{peer}"))
            .collect();
        let initial = names.join(",");
        let start = |(n, ((address, namespace), (peer, client))): (
            usize,
            (&(String, Option<String>), (u16, u16)),
        )| {
            let data = folder.join(format!("etcd{n}"));
            std::fs::create_dir_all(&data).expect("etcd's folder");
            process::give(&data);
            let (peer_url, url) = (
                format!("http://{address}:{peer}"),
                format!("http://{address}:{client}"),
            );
            let words = [
                format!("--name=e{n}"),
                format!("--data-dir={}/data", data.display()),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
                format!("--initial-cluster={initial}"),
            ];
            let mut member = Self {
                words: words.to_vec(),
                namespace: namespace.clone(),
                log: folder.join("log").join(format!("etcd{n}.log")),
                process: None,
                url,
            };
            member.start();
            member
        };
        let members: Vec<Self> = places.into_iter().map(start).collect();
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
