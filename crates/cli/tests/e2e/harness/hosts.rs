//! Hosts with addresses of their own: network namespaces joined by a bridge, with links that can be
//! cut. They have no way out of this machine.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Several hosts and the switch between them, gone at the end.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    /// Hosts 0 to `hosts - 1`, all linked.
    pub(crate) fn new(hosts: usize) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("st{}n{number}", std::process::id()),
            hosts,
        };
        let switch = network.switch();
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add br0 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        for host in 0..hosts {
            let name = network.namespace(host);
            let address = network.address(host);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!(
                "link add eth0 netns {name} type veth peer name v{host} netns {switch}"
            ));
            ip(&format!("-n {switch} link set v{host} master br0 up"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        network
    }

    /// The name of a host's network namespace.
    pub(crate) fn namespace(&self, host: usize) -> String {
        format!("{}h{host}", self.prefix)
    }

    /// A host's address.
    #[allow(
        clippy::unused_self,
        reason = "every network has the same addresses, in its own world"
    )]
    pub(crate) fn address(&self, host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// Gives a host another address in the place of its own.
    pub(crate) fn readdress(&self, host: usize, address: &str) {
        let name = self.namespace(host);
        ip(&format!("-n {name} addr flush dev eth0"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
    }

    /// Pulls a host's cable.
    pub(crate) fn cut(&self, host: usize) {
        ip(&format!("-n {} link set v{host} down", self.switch()));
    }

    /// Plugs it in again.
    pub(crate) fn heal(&self, host: usize) {
        ip(&format!("-n {} link set v{host} up", self.switch()));
    }

    /// Drops what two hosts send one another, both ways.
    pub(crate) fn block(&self, one: usize, other: usize) {
        let address = self.address(other);
        self.rules(
            one,
            &format!(
                "add table inet cut{other}
                 add chain inet cut{other} i {{ type filter hook input priority 0; }}
                 add chain inet cut{other} o {{ type filter hook output priority 0; }}
                 add rule inet cut{other} i ip saddr {address} drop
                 add rule inet cut{other} o ip daddr {address} drop"
            ),
        );
    }

    /// Lets them talk again.
    pub(crate) fn unblock(&self, one: usize, other: usize) {
        self.rules(one, &format!("delete table inet cut{other}"));
    }

    fn rules(&self, host: usize, rules: &str) {
        let status = Command::new("ip")
            .args(["netns", "exec", &self.namespace(host), "nft", rules])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .status()
            .expect("nft");
        assert!(status.success(), "nft {rules}: {status}");
    }

    fn switch(&self) -> String {
        format!("{}sw", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = (0..self.hosts).map(|host| self.namespace(host));
        for name in names.chain([self.switch()]) {
            let removed = Command::new("ip").args(["netns", "del", &name]).status();
            drop(removed);
        }
    }
}

fn ip(words: &str) {
    let status = Command::new("ip")
        .args(words.split(' '))
        .status()
        .expect("ip");
    assert!(status.success(), "ip {words}: {status}");
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(namespace: &str) {
    use std::os::fd::AsFd as _;
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    rustix::thread::move_into_link_name_space(
        file.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .expect("this thread moves into the namespace");
}
