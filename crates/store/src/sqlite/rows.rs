//! The rows of the entries: what is live now, and what is written.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::Revision;
use crate::clock::boot_time;

/// A time as the tables have it.
pub(super) fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// A count as the tables have it; they never hold a negative one.
fn counted(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

/// Counts one more write.
pub(super) fn next_revision(transaction: &Transaction<'_>) -> rusqlite::Result<Revision> {
    transaction.query_row(
        "UPDATE counter SET revision = revision + 1 RETURNING revision",
        [],
        |row| row.get(0).map(counted),
    )
}

/// The revision of a key that has not expired in this boot of the host.
pub(super) fn revision_of(
    transaction: &Transaction<'_>,
    boot: &str,
    path: &str,
) -> rusqlite::Result<Option<Revision>> {
    transaction
        .query_row(
            "SELECT revision FROM entries WHERE path = ?1
             AND (expires_ns IS NULL OR (boot = ?2 AND expires_ns > ?3))",
            params![path, boot, nanoseconds(boot_time())],
            |row| row.get(0).map(counted),
        )
        .optional()
}

/// Writes a key.
pub(super) fn store(
    transaction: &Transaction<'_>,
    boot: &str,
    path: &str,
    bytes: &[u8],
    revision: Revision,
    ttl: Option<Duration>,
) -> rusqlite::Result<()> {
    let now = boot_time();
    let expires = ttl.map(|ttl| nanoseconds(now + ttl));
    transaction.execute(
        "INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            path,
            bytes,
            i64::try_from(revision.0).unwrap_or(i64::MAX),
            expires,
            expires.map(|_| boot)
        ],
    )?;
    // What has expired goes when something is written anyway.
    transaction.execute(
        "DELETE FROM entries
         WHERE expires_ns IS NOT NULL AND (boot <> ?1 OR expires_ns <= ?2)",
        params![boot, nanoseconds(now)],
    )?;
    Ok(())
}

/// The value of a key that has not expired, and the revision of its last write.
pub(super) fn live(
    transaction: &Transaction<'_>,
    boot: &str,
    path: &str,
) -> rusqlite::Result<Option<(Vec<u8>, Revision)>> {
    transaction
        .prepare_cached(
            "SELECT path, value, revision FROM entries WHERE path = ?1
             AND (expires_ns IS NULL OR (boot = ?2 AND expires_ns > ?3))",
        )?
        .query_row(params![path, boot, nanoseconds(boot_time())], row)
        .optional()
        .map(|found| found.map(|(_, value, revision)| (value, revision)))
}

/// The live entries whose path begins with `prefix`, by path.
pub(super) fn live_below(
    transaction: &Transaction<'_>,
    boot: &str,
    prefix: &str,
) -> rusqlite::Result<Vec<(String, Vec<u8>, Revision)>> {
    transaction
        .prepare_cached(
            "SELECT path, value, revision FROM entries
             WHERE substr(path, 1, length(?1)) = ?1
             AND (expires_ns IS NULL OR (boot = ?2 AND expires_ns > ?3)) ORDER BY path",
        )?
        .query_map(params![prefix, boot, nanoseconds(boot_time())], row)?
        .collect()
}

fn row(row: &Row<'_>) -> rusqlite::Result<(String, Vec<u8>, Revision)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2).map(counted)?))
}
