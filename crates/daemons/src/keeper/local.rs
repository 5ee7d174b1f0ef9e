//! What a keeper keeps on its own disk (contract, section 4).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};
use serde::{Deserialize, Serialize};
use stolon_core::keeper::facts::DbState;
use stolon_core::model::{DbUid, Generation};
use stolon_postgres::data_dir;

use super::Error;
use super::config::Config;
use super::replaced;
use crate::runtime::names;

/// The keeper's folder.
#[derive(Debug)]
pub(super) struct LocalState {
    folder: PathBuf,
    keeper: Mutex<KeeperState>,
    /// Holds the lock; closing it would give it up.
    _lock: Option<File>,
}

/// `keeperstate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperState {
    #[serde(rename = "UID")]
    uid: String,
    #[serde(rename = "ClusterUID", default)]
    cluster_uid: String,
}

/// `dbstate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDbState {
    #[serde(rename = "UID")]
    uid: String,
    #[serde(rename = "Generation")]
    generation: i64,
    #[serde(rename = "Initializing")]
    initializing: bool,
    #[serde(rename = "InitPGParameters")]
    init_parameters: Option<std::collections::BTreeMap<String, String>>,
}

impl LocalState {
    /// Makes the folder private, locks it, and takes or makes the keeper's name.
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let folder = config.data_dir.clone();
        data_dir::make_private(&folder)?;
        let lock = if config.disable_data_dir_locking {
            None
        } else {
            Some(lock(&folder)?)
        };
        let path = folder.join("keeperstate");
        let saved: Option<KeeperState> = read_json(&path)?;
        let saved_uid = saved
            .as_ref()
            .map(|state| state.uid.clone())
            .filter(|uid| !uid.is_empty());
        let uid = match (&config.uid, saved_uid) {
            (Some(given), Some(saved)) if *given != saved => {
                return Err(Error::DataDir(format!(
                    "saved uid {saved:?} differs from the configuration's {given:?}: the data \
                     directory {} belongs to another keeper",
                    folder.display()
                )));
            }
            (_, Some(saved)) => saved,
            (Some(given), None) => given.clone(),
            (None, None) => names::short(),
        };
        let cluster_uid = saved.map(|state| state.cluster_uid).unwrap_or_default();
        let keeper = KeeperState { uid, cluster_uid };
        write_json(&path, &keeper)?;
        Ok(Self {
            folder,
            keeper: Mutex::new(keeper),
            _lock: lock,
        })
    }

    pub(super) fn keeper_uid(&self) -> String {
        self.keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .uid
            .clone()
    }

    /// Notes the cluster that the keeper belongs to, before it tells anybody so.
    pub(super) fn note_cluster(&self, uid: &str) -> Result<(), Error> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.cluster_uid == uid {
            return Ok(());
        }
        if !keeper.cluster_uid.is_empty() {
            replaced::disown(&self.pgdata(), &keeper.cluster_uid)?;
        }
        let noted = KeeperState {
            cluster_uid: uid.to_owned(),
            ..keeper.clone()
        };
        write_json(&self.folder.join("keeperstate"), &noted)?;
        *keeper = noted;
        Ok(())
    }

    /// The cluster that the keeper belongs to; empty: none yet.
    pub(super) fn cluster_uid(&self) -> String {
        let keeper = self.keeper.lock();
        let keeper = keeper.unwrap_or_else(PoisonError::into_inner);
        keeper.cluster_uid.clone()
    }

    /// PGDATA.
    pub(super) fn pgdata(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// Where new data are made.
    pub(super) fn beside(&self) -> PathBuf {
        self.folder.join("postgres.new")
    }

    /// Says, while it is there, that what is beside PGDATA is not whole.
    pub(super) fn making(&self) -> PathBuf {
        self.folder.join("postgres.making")
    }

    /// Where data are restored.
    pub(super) fn restored(&self) -> PathBuf {
        self.folder.join("postgres.restored")
    }

    /// Where data wait for their removal.
    pub(super) fn trash(&self) -> PathBuf {
        self.folder.join("postgres.removed")
    }

    fn db_state_path(&self) -> PathBuf {
        self.folder.join("dbstate")
    }

    /// `dbstate`. One that makes no sense is told of and counts as none: the data directory says too
    /// what it holds.
    pub(super) fn db_state(&self) -> Result<Option<DbState>, Error> {
        let path = self.db_state_path();
        let understand = |bytes: Vec<u8>| {
            understood(&path, &bytes)
                .inspect_err(|error| tracing::error!(%error, "ignoring the db state"))
                .ok()
        };
        let stored: Option<StoredDbState> = read(&path)?.and_then(understand);
        Ok(stored.and_then(StoredDbState::meant))
    }

    pub(super) fn save_db_state(&self, state: &DbState) -> Result<(), Error> {
        write_json(&self.db_state_path(), &StoredDbState::of(state))
    }
}

impl StoredDbState {
    pub(crate) fn of(state: &DbState) -> Self {
        let parameters = Some(state.init_parameters.clone()).filter(|map| !map.is_empty());
        Self {
            uid: state.uid.to_string(),
            generation: state.generation.0,
            initializing: state.initializing,
            init_parameters: parameters,
        }
    }

    /// The state; none when it names no db.
    pub(crate) fn meant(self) -> Option<DbState> {
        if self.uid.is_empty() {
            return None;
        }
        Some(DbState {
            uid: DbUid::new(self.uid),
            generation: Generation(self.generation),
            initializing: self.initializing,
            init_parameters: self.init_parameters.unwrap_or_default(),
        })
    }
}

/// An fcntl(2) write lock, as the Go program takes, so that the two exclude each other.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let failed = |error: &dyn std::fmt::Display| {
        Error::DataDir(format!(
            "cannot take exclusive lock on data dir {}: {error}",
            folder.display()
        ))
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| failed(&error))?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(&error))?;
    tracing::info!("exclusive lock on data dir taken");
    Ok(file)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    read(path)?
        .map(|bytes| understood(path, &bytes))
        .transpose()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            Err(Error::DataDir(text))
        }
    }
}

/// Reads a file that a keeper wrote, perhaps one of the Go program.
pub(crate) fn understood<T: serde::de::DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::DataDir(format!("cannot understand {}: {error}", path.display())))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::DataDir(format!("cannot write {}: {error}", path.display())))?;
    Ok(data_dir::replace_file(path, &bytes)?)
}
