//! The ways to the server that are compared.

use std::path::Path;
use std::process::Command;

use crate::e2e::harness::cluster::{Cluster, Daemon, SUPERUSER};
use crate::e2e::harness::free_port;
use crate::e2e::harness::process::{Process, Surroundings, command, give};

/// One way to the server.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The process whose time counts; none: there is none between.
    pub(crate) pid: Option<i32>,
    /// Ends with it.
    _process: Option<Process>,
}

impl Way {
    pub(crate) fn is_direct(&self) -> bool {
        self.pid.is_none()
    }
}

/// All of them that this machine has, the direct one first.
pub(crate) fn ways(cluster: &Cluster, second: &Second, direct: u16) -> Vec<Way> {
    let mut ways = transparent(cluster, second, direct);
    if is_installed("pgbouncer", "--version") {
        ways.push(pgbouncer(cluster.folder(), direct));
        super::answers(ways[ways.len() - 1].port);
    }
    ways
}

/// Those that carry whatever comes, to a server at this port.
pub(crate) fn transparent(cluster: &Cluster, second: &Second, direct: u16) -> Vec<Way> {
    let known = |name: &str, port, pid| Way {
        name: name.to_owned(),
        port,
        pid,
        _process: None,
    };
    let mut ways = vec![
        known("direct", direct, None),
        known("stolon", cluster.proxy_port, Some(cluster.proxy.pid())),
        known("stolon 2 threads", second.port, Some(second.proxy.pid())),
    ];
    if is_installed("haproxy", "-v") {
        for (name, threads, splice) in [
            ("haproxy 1 thread", 1, false),
            ("haproxy 2 threads", 2, false),
            ("haproxy splice", 1, true),
        ] {
            ways.push(haproxy(cluster.folder(), name, direct, (threads, splice)));
        }
    }
    for way in &ways {
        super::answers(way.port);
    }
    ways
}

/// A proxy of the cluster with two threads.
pub(crate) struct Second {
    proxy: Daemon,
    port: u16,
}

impl Second {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let (proxy, port) = cluster.another_proxy("proxy-2", &["--threads=2"]);
        super::answers(port);
        Self { proxy, port }
    }
}

fn is_installed(program: &str, flag: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .arg(flag)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let found = command.output().is_ok_and(|output| output.status.success());
    if !found {
        println!("not run: {program} is not installed");
    }
    found
}

fn haproxy(folder: &Path, name: &str, direct: u16, (threads, splice): (u32, bool)) -> Way {
    let port = free_port();
    let splice = if splice { "option splice-auto" } else { "" };
    // HAProxy asks for more than four files for each connection.
    let settings = format!(
        "global\n nbthread {threads}\n maxconn 2000\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n {splice}\n\
         listen postgres\n bind 127.0.0.1:{port}\n server s 127.0.0.1:{direct}\n"
    );
    let file = folder.join(format!("{}.cfg", name.replace(' ', "-")));
    std::fs::write(&file, settings).expect("settings");
    give(&file);
    let mut command = command(Path::new("haproxy"), &Surroundings::default());
    command.arg("-db").arg("-f").arg(&file);
    started(folder, name, port, command)
}

fn pgbouncer(folder: &Path, direct: u16) -> Way {
    let port = free_port();
    let users = folder.join("pgbouncer.users");
    let (user, password) = SUPERUSER;
    std::fs::write(&users, format!("\"{user}\" \"{password}\"\n")).expect("users");
    let settings = format!(
        "[databases]\n* = host=127.0.0.1 port={direct}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = md5\nauth_file = {}\n\
         pool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = 100\n\
         server_reset_query =\nlog_connections = 0\nlog_disconnections = 0\n",
        users.display()
    );
    let file = folder.join("pgbouncer.ini");
    std::fs::write(&file, settings).expect("settings");
    for path in [&users, &file] {
        give(path);
    }
    let mut command = command(Path::new("pgbouncer"), &Surroundings::default());
    command.arg(&file);
    started(folder, "pgbouncer session", port, command)
}

fn started(folder: &Path, name: &str, port: u16, command: Command) -> Way {
    let log = folder
        .join("log")
        .join(format!("{}.log", name.replace(' ', "-")));
    let process = Process::start(name, command, &log);
    Way {
        name: name.to_owned(),
        port,
        pid: Some(process.pid()),
        _process: Some(process),
    }
}
