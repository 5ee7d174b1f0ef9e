//! Replication slots.

use stolon_core::model::Lsn;

use super::{Session, Slot, literal, lsn};
use crate::Error;

impl Session {
    /// All replication slots.
    pub async fn slots(&self) -> Result<Vec<Slot>, Error> {
        let rows = self.rows("slots", SLOTS).await?;
        let slot = |row: &Vec<Option<String>>| {
            let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            Slot {
                name: text(0),
                physical: text(1) == "physical",
                active: text(2) == "t",
                temporary: text(3) == "t",
                restart_lsn: lsn(&text(4)),
                wal_status: text(5),
            }
        };
        Ok(rows.iter().map(slot).collect())
    }

    /// Makes a physical slot that reserves WAL at once; one that is there already is fine.
    pub async fn create_slot(&self, name: &str) -> Result<(), Error> {
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({name}, true) WHERE NOT EXISTS
             (SELECT 1 FROM pg_replication_slots WHERE slot_name = {name})",
            name = literal(name)
        );
        self.execute("create a slot", &sql).await
    }

    /// Drops a slot; one that is in use cannot be dropped, and is tried again later.
    pub async fn drop_slot(&self, name: &str) -> Result<(), Error> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
             WHERE slot_name = {} AND NOT active",
            literal(name)
        );
        self.execute("drop a slot", &sql).await
    }

    /// Has a slot that nobody uses keep no WAL from before `to` any more; one that keeps none, or has
    /// gone further, stays as it is. Also on a standby, as far as that has replayed.
    pub async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), Error> {
        let sql = format!(
            "SELECT pg_replication_slot_advance(slot_name, '{to}') FROM pg_replication_slots
             WHERE slot_name = {} AND slot_type = 'physical' AND NOT active
             AND restart_lsn < '{to}'",
            literal(name)
        );
        self.execute("advance a slot", &sql).await
    }
}

// wal_status came with PostgreSQL 13.
const SLOTS: &str = "SELECT slot_name, slot_type, active, temporary, restart_lsn,
    to_jsonb(slot) ->> 'wal_status'
    FROM pg_replication_slots slot ORDER BY slot_name";
