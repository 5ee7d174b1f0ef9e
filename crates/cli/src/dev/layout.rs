//! What a dev cluster has on disk: folders, passwords, and the ports it once chose.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stolon_daemons::runtime::names;

use super::lock::Lock;
use super::remains;
use crate::output;

/// The name of every dev cluster.
pub(super) const CLUSTER: &str = "dev";
/// Its superuser.
pub(super) const SUPERUSER: &str = "stolon";

/// Where it lies when nothing is said.
pub(super) const FOLDER: &str = "stolon-dev";
/// Where it lies then for root, when the other user may not go where root is, as below /root.
const FOLDER_OF_ROOT: &str = "/var/lib/stolon-dev";
/// Below the ports that the kernel takes for outgoing connections, which would get in the way
/// between two starts.
const PORTS: std::ops::Range<u16> = 25432..30000;
/// A proxy and at most nine keepers.
const PORTS_OF_A_CLUSTER: usize = 10;

/// A dev cluster's folder, held for this process.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) folder: PathBuf,
    pub(super) ports: Ports,
    /// The user and group that the daemons run as; none: whoever runs this.
    pub(super) runs_as: Option<(u32, u32)>,
    _lock: Lock,
}

/// Chosen once and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) proxy: u16,
    pub(super) keepers: Vec<u16>,
}

impl Layout {
    /// Makes what is missing. Ends what an earlier run left behind when it was killed, telling it.
    pub(super) fn prepare(
        folder: Option<&String>,
        keepers: usize,
        user: &str,
    ) -> Result<Self, String> {
        let runs_as = if rustix::process::geteuid().is_root() {
            Some(find_user(user)?)
        } else {
            None
        };
        let folder = choose_folder(folder, runs_as.map(|_| user))?;
        let failed =
            |error: std::io::Error| format!("cannot prepare {}: {error}", folder.display());
        for part in ["log", "pid"] {
            std::fs::create_dir_all(folder.join(part)).map_err(failed)?;
        }
        let lock = Lock::take(&folder)?;
        if remains::end(&folder) > 0 {
            let text = "ended what an earlier run left behind when it was killed";
            output::line(text).map_err(|error| error.to_string())?;
        }
        let mut layout = Self {
            folder: folder.clone(),
            ports: Ports::default(),
            runs_as,
            _lock: lock,
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
        Ok(layout)
    }

    /// The ports of an earlier run, or others where there is none or another program has it now.
    fn keep_ports(&self, keepers: usize) -> Result<Ports, String> {
        let path = self.folder.join("ports.json");
        let kept: Ports = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut chosen = Vec::new();
        let wanted = std::iter::once(kept.proxy).chain(kept.keepers.iter().copied());
        for wanted in wanted
            .chain(std::iter::repeat(0))
            .take(1 + keepers.max(kept.keepers.len()))
        {
            let port = if wanted != 0 && !chosen.contains(&wanted) && is_free(wanted) {
                wanted
            } else {
                free_port(&self.folder, &chosen)?
            };
            if wanted != 0 && port != wanted {
                let text = format!("another program uses port {wanted}: using {port} instead");
                output::line(&text).map_err(|error| error.to_string())?;
            }
            chosen.push(port);
        }
        let ports = Ports {
            proxy: chosen.remove(0),
            keepers: chosen,
        };
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

    pub(super) fn store_file(&self) -> PathBuf {
        store_file(&self.folder)
    }

    /// What a daemon says.
    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    /// The number of a daemon's process, while there is one.
    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.folder.join("pid").join(name)
    }

    /// The number of a keeper's postmaster, in the first line, while there is one.
    pub(super) fn postmaster_file(&self, keeper: &str) -> PathBuf {
        self.folder.join(keeper).join("postgres/postmaster.pid")
    }

    pub(super) fn store(&self) -> stolon_store::Config {
        stolon_store::Config {
            backend: stolon_store::Backend::Sqlite,
            endpoints: vec![self.store_file().display().to_string()],
            prefix: "stolon/cluster".to_owned(),
            cluster_name: CLUSTER.to_owned(),
            timeout: Duration::from_secs(5),
            tls: stolon_store::Tls::default(),
            access: stolon_store::Access::default(),
            kube: stolon_store::Kube::default(),
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

    /// How the client that writes all the time connects.
    pub(super) fn client(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.ports.proxy)
            .user(SUPERUSER);
        config
            .password(self.password())
            .dbname("postgres")
            .application_name("stolonctl dev");
        config
    }

    /// What is where, in one line.
    pub(super) fn describe(&self, is_new: bool, keepers: usize) -> String {
        let ports = self.ports.keepers.iter().take(keepers);
        let ports: Vec<String> = ports.map(ToString::to_string).collect();
        format!(
            "{} of {keepers} keepers in {}: the proxy on port {}, PostgreSQL on {}",
            if is_new {
                "a new cluster"
            } else {
                "going on with the cluster"
            },
            self.folder.display(),
            self.ports.proxy,
            ports.join(", "),
        )
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

/// The store of the cluster in a folder.
pub(super) fn store_file(folder: &Path) -> PathBuf {
    folder.join("store.db")
}

/// The folder asked for, or where it lies by default; `user`: who must be able to enter it.
fn choose_folder(wanted: Option<&String>, user: Option<&str>) -> Result<PathBuf, String> {
    let absolute = |path: &str| {
        std::path::absolute(path).map_err(|error| format!("invalid --data-dir {path:?}: {error}"))
    };
    let folder = absolute(wanted.map_or(FOLDER, String::as_str))?;
    match (user, barred_at(&folder), wanted) {
        (Some(_), Some(_), None) => absolute(FOLDER_OF_ROOT),
        (Some(user), Some(closed), Some(_)) => Err(format!(
            "user {user}, which PostgreSQL runs as, cannot go into {}, and --data-dir {} lies in \
             it: give a --data-dir that others may enter",
            closed.display(),
            folder.display()
        )),
        _ => Ok(folder),
    }
}

/// The folder above this one that not everybody may enter, when there is one.
fn barred_at(folder: &Path) -> Option<&Path> {
    folder.ancestors().skip(1).find(|part| {
        let found = std::fs::metadata(part);
        found.is_ok_and(|found| found.permissions().mode() & 0o001 == 0)
    })
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A free port, by preference one that belongs to the folder: clusters of two folders that are made
/// at the same moment would take the same one, since PostgreSQL listens only when its data are made.
fn free_port(folder: &Path, taken: &[u16]) -> Result<u16, String> {
    // FNV-1a: the same folder has the same ports again when it was removed.
    let hash = folder
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    let blocks = (PORTS.len() / PORTS_OF_A_CLUSTER).max(1);
    let block = usize::try_from(hash).unwrap_or(0) % blocks;
    let from = block * PORTS_OF_A_CLUSTER;
    let ports = PORTS.skip(from).chain(PORTS.take(from));
    ports
        .filter(|port| !taken.contains(port))
        .find(|port| is_free(*port))
        .ok_or_else(|| format!("no free port on 127.0.0.1 in {PORTS:?}"))
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
