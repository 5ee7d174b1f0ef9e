//! A SQLite file as the store of a cluster whose components all run on one host.
//!
//! Rules that make it safe with several processes (SQLite manual, "Write-Ahead Logging" and
//! "Transaction"): every transaction that may write begins as `IMMEDIATE`, so that it waits for the
//! lock instead of failing when it upgrades; WAL with `synchronous=FULL`, so that an acknowledged
//! write survives a power cut; a local file system only. Keys expire by the boot clock and the boot
//! id, which wall-clock jumps do not touch.

mod file;
mod noticing;
mod rows;

use std::io::PipeWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::watch;

use crate::clock::boot_time;
use crate::keys::Keys;
use crate::leadership::{self, Lease};
use crate::{
    Config, Entry, Error, Everything, Expected, Folder, Key, Leadership, Revision, Store, Watch,
    Written,
};

/// How long a leader holds on after it was last heard.
const LEADER_TTL: Duration = Duration::from_secs(6);
/// What a write outlives.
#[derive(Debug, Clone, Copy)]
enum Durability {
    /// A power cut: whoever wrote it was told that it is there.
    Disk,
    /// The end of this process: for what expires, and is written anew after a reboot anyway. The
    /// lock is held for microseconds, not for as long as a disk takes.
    Process,
}

impl Durability {
    /// As `PRAGMA synchronous` calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "FULL",
            Self::Process => "NORMAL",
        }
    }
}

/// A store in a SQLite file.
#[derive(Debug, Clone)]
pub(crate) struct SqliteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    keys: Keys,
    boot: String,
    timeout: Duration,
    /// Apart, so that no read waits behind a write that waits for the lock.
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
    changes: watch::Sender<u64>,
    /// Ends the thread that looks for changes when it is dropped.
    _watching: PipeWriter,
}

impl Shared {
    fn entry(&self, transaction: &Transaction<'_>, key: &Key) -> rusqlite::Result<Option<Entry>> {
        let found = rows::live(transaction, &self.boot, &self.keys.path(key))?;
        Ok(found.map(|(value, revision)| Entry {
            key: key.clone(),
            value,
            revision,
        }))
    }

    fn entries(
        &self,
        transaction: &Transaction<'_>,
        folder: Folder,
    ) -> rusqlite::Result<Vec<Entry>> {
        let found = rows::live_below(transaction, &self.boot, &self.keys.folder(folder))?;
        let entry = |(path, value, revision): (String, Vec<u8>, Revision)| {
            let key = self.keys.parse(folder, &path)?;
            Some(Entry {
                key,
                value,
                revision,
            })
        };
        Ok(found.into_iter().filter_map(entry).collect())
    }
}

impl SqliteStore {
    pub(crate) fn open(config: &Config, keys: Keys) -> Result<Self, Error> {
        let path = match config.endpoints.as_slice() {
            [path] if Path::new(path).is_absolute() => PathBuf::from(path),
            given => {
                return Err(Error::Config(format!(
                    "--store-endpoints {given:?}: the sqlite store needs one absolute file path, \
                     for example /var/lib/stolon/store.db"
                )));
            }
        };
        let failed = |error: &dyn std::fmt::Display| Error::File {
            path: path.display().to_string(),
            cause: error.to_string(),
        };
        file::refuse_network_file_system(&path)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| failed(&error))?;
        let writer = file::connect(&path, config.timeout).map_err(|error| failed(&error))?;
        file::prepare(&writer).map_err(|cause| failed(&cause))?;
        let reader = file::connect(&path, config.timeout).map_err(|error| failed(&error))?;
        let watcher = file::connect(&path, config.timeout).map_err(|error| failed(&error))?;
        let changes = watch::channel(0).0;
        let watching = noticing::watch(watcher, &path, changes.clone(), noticing::Pace::default())
            .map_err(|error| failed(&error))?;
        let shared = Shared {
            path,
            keys,
            boot: boot.trim().to_owned(),
            timeout: config.timeout,
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            changes,
            _watching: watching,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs a transaction that writes: it takes the lock at its beginning.
    async fn run<T, F>(&self, durability: Durability, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.away(move |shared| {
            let mut writer = lock(&shared.writer);
            writer.pragma_update(None, "synchronous", durability.name())?;
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = work(shared, &transaction)?;
            transaction.commit()?;
            Ok(answer)
        })
        .await
    }

    /// Runs a transaction that only reads: it sees the last commit, and waits for nobody.
    async fn read<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.away(move |shared| {
            let mut reader = lock(&shared.reader);
            work(shared, &reader.transaction()?)
        })
        .await
    }

    /// Works away from the asynchronous threads.
    async fn away<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> rusqlite::Result<T> + Send + 'static,
    {
        let shared = self.shared.clone();
        let limit = self.shared.timeout;
        let task = tokio::task::spawn_blocking(move || work(&shared));
        let failed = |cause: String| Error::File {
            path: self.shared.path.display().to_string(),
            cause,
        };
        // The busy handler ends within the limit; a hung disk does not.
        match tokio::time::timeout(limit.saturating_mul(2), task).await {
            Ok(Ok(answer)) => answer.map_err(|error: rusqlite::Error| failed(error.to_string())),
            Ok(Err(panic)) => Err(failed(panic.to_string())),
            Err(_) => Err(Error::Timeout {
                store: self.describe(),
                limit,
            }),
        }
    }

    async fn write(
        &self,
        key: &Key,
        expected: Option<Expected>,
        value: Option<(&[u8], Option<Duration>)>,
    ) -> Written {
        let path = self.shared.keys.path(key);
        let durability = match value {
            Some((_, Some(_))) => Durability::Process,
            Some((_, None)) | None => Durability::Disk,
        };
        let value = value.map(|(bytes, ttl)| (bytes.to_vec(), ttl));
        let outcome = self
            .run(durability, move |shared, transaction| {
                if let Some(expected) = expected {
                    let present = rows::revision_of(transaction, &shared.boot, &path)?;
                    let wanted = match expected {
                        Expected::Absent => None,
                        Expected::At(revision) => Some(revision),
                    };
                    if present != wanted {
                        return Ok(None);
                    }
                }
                let revision = rows::next_revision(transaction)?;
                match value {
                    Some((bytes, ttl)) => {
                        rows::store(transaction, &shared.boot, &path, &bytes, revision, ttl)?;
                    }
                    None => {
                        transaction.execute("DELETE FROM entries WHERE path = ?1", [&path])?;
                    }
                }
                Ok(Some(revision))
            })
            .await;
        match outcome {
            Ok(Some(revision)) => Written::Yes(revision),
            Ok(None) => Written::Conflict,
            // Whether a failed commit reached the disk is not known.
            Err(error) => Written::Unknown(error),
        }
    }
}

fn lock(connection: &Mutex<Connection>) -> std::sync::MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let key = key.clone();
        self.read(move |shared, transaction| shared.entry(transaction, &key))
            .await
    }

    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        self.write(key, Some(expected), Some((value, None))).await
    }

    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        self.write(key, None, Some((value, None))).await
    }

    async fn delete(&self, key: &Key) -> Written {
        self.write(key, None, None).await
    }

    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        match self.write(key, None, Some((value, Some(ttl)))).await {
            Written::Yes(_) | Written::Conflict => Ok(()),
            Written::No(error) | Written::Unknown(error) => Err(error),
        }
    }

    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        self.read(move |shared, transaction| shared.entries(transaction, folder))
            .await
    }

    async fn read_all(&self) -> Result<Everything, Error> {
        self.read(|shared, transaction| {
            Ok(Everything {
                data: shared.entry(transaction, &Key::ClusterData)?,
                keepers: shared.entries(transaction, Folder::Keepers)?,
                proxies: shared.entries(transaction, Folder::Proxies)?,
                sentinels: shared.entries(transaction, Folder::Sentinels)?,
                requests: shared.entries(transaction, Folder::Requests)?,
            })
        })
        .await
    }

    fn watch(&self) -> Watch {
        Watch::new(self.shared.changes.subscribe())
    }

    fn lead(&self, uid: &str) -> Leadership {
        let token = uuid::Uuid::new_v4().to_string();
        leadership::keep(self.clone(), uid, token, LEADER_TTL)
    }

    async fn leader(&self) -> Result<Option<String>, Error> {
        let path = self.shared.keys.leader();
        self.read(move |shared, transaction| {
            transaction
                .query_row(
                    "SELECT uid FROM leaders
                     WHERE path = ?1 AND boot = ?2 AND expires_ns > ?3",
                    params![path, shared.boot, rows::nanoseconds(boot_time())],
                    |row| row.get(0),
                )
                .optional()
        })
        .await
    }

    fn describe(&self) -> String {
        format!("sqlite {}", self.shared.path.display())
    }
}

#[async_trait::async_trait]
impl Lease for SqliteStore {
    async fn hold(&self, token: &str, uid: &str, ttl: Duration) -> Result<bool, Error> {
        let (path, token) = (self.shared.keys.leader(), token.to_owned());
        let uid = uid.to_owned();
        self.run(Durability::Process, move |shared, transaction| {
            let now = boot_time();
            let changed = transaction.execute(
                "INSERT INTO leaders VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (path) DO UPDATE SET
                     token = excluded.token, uid = excluded.uid,
                     expires_ns = excluded.expires_ns, boot = excluded.boot
                 WHERE token = excluded.token OR boot <> excluded.boot OR expires_ns <= ?6",
                params![
                    path,
                    token,
                    uid,
                    rows::nanoseconds(now + ttl),
                    shared.boot,
                    rows::nanoseconds(now)
                ],
            )?;
            Ok(changed > 0)
        })
        .await
    }

    async fn release(&self, token: &str) -> Result<(), Error> {
        let (path, token) = (self.shared.keys.leader(), token.to_owned());
        self.run(Durability::Process, move |_, transaction| {
            transaction.execute(
                "DELETE FROM leaders WHERE path = ?1 AND token = ?2",
                [path, token],
            )?;
            Ok(())
        })
        .await
    }
}
