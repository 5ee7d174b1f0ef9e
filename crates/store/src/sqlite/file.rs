//! The file itself: what it may lie on, and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::Error;

/// The version of the tables below.
const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE entries (
        path TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL,
        expires_ns INTEGER,
        boot TEXT
    ) WITHOUT ROWID;
    CREATE TABLE leaders (
        path TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        uid TEXT NOT NULL,
        expires_ns INTEGER NOT NULL,
        boot TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE counter (revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    PRAGMA user_version = 1;";
/// Magic numbers of file systems on which SQLite's locks or shared memory do not work between
/// hosts (statfs(2)): NFS, SMB, SMB2, CIFS, 9P, FUSE (which sshfs and others are), Ceph, AFS.
const NETWORK_FILE_SYSTEMS: [u64; 8] = [
    0x6969,
    0x517B,
    0xFE53_4D42,
    0xFF53_4D42,
    0x0102_1997,
    0x6573_5546,
    0x00C3_6400,
    0x5346_414F,
];

/// Refuses a file on which the locks of several processes would not work.
pub(super) fn refuse_network_file_system(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let cause = |cause: String| Error::File {
        path: path.display().to_string(),
        cause,
    };
    let status = rustix::fs::statfs(folder)
        .map_err(|error| cause(format!("cannot look at its folder: {error}")))?;
    #[allow(clippy::cast_sign_loss, reason = "magic numbers are bit patterns")]
    let magic = status.f_type as u64 & 0xFFFF_FFFF;
    if NETWORK_FILE_SYSTEMS.contains(&magic) {
        return Err(cause(
            "it lies on a network file system, where its locks do not work: use a local one, or \
             etcd for a cluster of several hosts"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Opens the file, and makes it if there is none.
pub(super) fn connect(path: &Path, timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(timeout)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Makes the tables, once.
pub(super) fn prepare(connection: &Connection) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    connection.execute_batch("BEGIN IMMEDIATE").map_err(text)?;
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(text)?;
    let made = match version {
        0 => connection.execute_batch(SCHEMA).map_err(text),
        SCHEMA_VERSION => Ok(()),
        newer => Err(format!(
            "its format is version {newer}, and this program knows version {SCHEMA_VERSION}"
        )),
    };
    connection
        .execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })
        .map_err(text)?;
    made
}
