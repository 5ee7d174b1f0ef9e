//! What a dev cluster has on disk: folders, passwords, and the ports it once chose.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stolon_daemons::runtime::names;

/// The name of every dev cluster.
pub(super) const CLUSTER: &str = "dev";
/// Its superuser.
pub(super) const SUPERUSER: &str = "stolon";

/// A dev cluster's folder.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) folder: PathBuf,
    pub(super) ports: Ports,
    /// The user and group that the daemons run as; none: whoever runs this.
    pub(super) runs_as: Option<(u32, u32)>,
}

/// Chosen once and kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) proxy: u16,
    pub(super) keepers: Vec<u16>,
}

impl Layout {
    /// Makes what is missing.
    pub(super) fn prepare(folder: &str, keepers: usize, user: &str) -> Result<Self, String> {
        let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
        let runs_as = if rustix::process::geteuid().is_root() {
            Some(find_user(user)?)
        } else {
            None
        };
        let failed =
            |error: std::io::Error| format!("cannot prepare {}: {error}", folder.display());
        std::fs::create_dir_all(folder.join("log")).map_err(failed)?;
        let mut layout = Self {
            folder: folder.clone(),
            ports: Ports::default(),
            runs_as,
        };
        layout.ports = layout.keep_ports(keepers)?;
        for file in ["superuser.password", "replication.password"] {
            let path = folder.join(file);
            if !path.exists() {
                std::fs::write(&path, format!("{}{}\n", names::short(), names::short()))
                    .map_err(failed)?;
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .map_err(failed)?;
            layout.give(&path)?;
        }
        layout.give(&folder)?;
        layout.give(&folder.join("log"))?;
        layout.check_reachable(user)?;
        Ok(layout)
    }

    fn keep_ports(&self, keepers: usize) -> Result<Ports, String> {
        let path = self.folder.join("ports.json");
        let mut ports: Ports = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if ports.proxy == 0 {
            ports.proxy = free_port()?;
        }
        while ports.keepers.len() < keepers {
            ports.keepers.push(free_port()?);
        }
        let bytes = serde_json::to_vec(&ports).map_err(|error| error.to_string())?;
        std::fs::write(&path, bytes)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(ports)
    }

    /// Hands a file or folder to the user that the daemons run as.
    fn give(&self, path: &Path) -> Result<(), String> {
        let Some((uid, gid)) = self.runs_as else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(|error| format!("cannot give {} to user {uid}: {error}", path.display()))
    }

    /// As root the folder may lie where the other user cannot go, as below /root.
    fn check_reachable(&self, user: &str) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        if self.runs_as.is_none() {
            return Ok(());
        }
        for path in [&self.folder, &program] {
            for part in path.ancestors().skip(1) {
                let mode = std::fs::metadata(part).map_or(0, |found| found.permissions().mode());
                if mode & 0o001 == 0 {
                    return Err(format!(
                        "user {user} cannot go into {}, and {} lies in it: choose a --data-dir, and \
                         a place for the program, that others may enter",
                        part.display(),
                        path.display()
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn store_file(&self) -> PathBuf {
        self.folder.join("store.db")
    }

    pub(super) fn store(&self) -> stolon_store::Config {
        stolon_store::Config {
            backend: stolon_store::Backend::Sqlite,
            endpoints: vec![self.store_file().display().to_string()],
            prefix: "stolon/cluster".to_owned(),
            cluster_name: CLUSTER.to_owned(),
            timeout: Duration::from_secs(5),
            tls: stolon_store::Tls::default(),
        }
    }

    /// The flags by which every daemon finds the store.
    pub(super) fn store_flags(&self) -> Vec<String> {
        let flags = [("cluster-name", CLUSTER), ("store-backend", "sqlite")];
        let mut words: Vec<String> = flags
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        words.push(format!("--store-endpoints={}", self.store_file().display()));
        words
    }

    pub(super) fn password(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("superuser.password"));
        text.unwrap_or_default().trim().to_owned()
    }

    /// The environment by which clients find the cluster.
    pub(super) fn connection(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.ports.proxy.to_string()),
            ("PGUSER", SUPERUSER.to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
            ("PGPASSWORD", self.password()),
        ]
    }
}

fn free_port() -> Result<u16, String> {
    let failed = |error: std::io::Error| format!("no free port: {error}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

/// The numbers of a user, from /etc/passwd.
fn find_user(name: &str) -> Result<(u32, u32), String> {
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (&found, &uid, &gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
        if found == name {
            Some((uid.parse().ok()?, gid.parse().ok()?))
        } else {
            None
        }
    });
    found.filter(|(uid, _)| *uid != 0).ok_or_else(|| {
        format!(
            "PostgreSQL refuses to run as root, and there is no user {name:?} to run it as: install \
             postgresql, or name another user with --user"
        )
    })
}
