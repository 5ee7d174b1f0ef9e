//! I2, I2a and I7: what clients were told or saw is in whatever is opened as primary, and no data are
//! destroyed that alone have it.

use std::collections::HashSet;

use crate::world::World;
use crate::world::postgres::{Data, Folder};

fn rows_of(data: &Data) -> HashSet<u64> {
    let records = data.wal.iter().map(|record| record.txn);
    records.filter(|txn| *txn != 0).collect()
}

impl World {
    /// A proxy's client comes to an instance: once in each of its writable lives all that was promised
    /// is looked for.
    pub(crate) fn opened_to_users(&mut self, k: usize) {
        let life = self.instances[k].writable_lives;
        if !self.instances[k].is_writable() || !self.checks.opened.insert((k, life)) {
            return;
        }
        self.check_nothing_lost(k);
    }

    /// What was promised is in the data of an instance.
    pub(crate) fn check_nothing_lost(&mut self, k: usize) {
        let Some(data) = &self.instances[k].pgdata.data else {
            return;
        };
        let present = rows_of(data);
        let floor = self.checks.floor.unwrap_or(u64::MAX);
        let rows = self.history.rows.iter();
        let of_interest = rows.filter(|(_, row)| !row.lost || row.counts());
        let missing = of_interest.filter(|(txn, _)| !present.contains(*txn));
        let mut lost = Vec::new();
        let mut found = None;
        for (txn, row) in missing {
            let may_be_lost = row.committed != Some(true) && row.end > floor;
            if may_be_lost {
                lost.push(*txn);
            } else if row.counts() {
                let rule = match row.committed {
                    Some(true) => "I2-lost-commit",
                    Some(false) | None => "I2a-lost-more-than-the-lag",
                };
                found = Some((rule, *txn, row.end));
                break;
            }
        }
        if let Some((rule, txn, end)) = found {
            let text = format!(
                "row {txn}, committed at {end:x}, is not in pg{k}, which is opened to clients (all up \
                 to {floor:x} must be)"
            );
            self.fail(rule, text);
            return;
        }
        self.lose(&lost);
        // A deposed primary that started again may be opened once more before its proxies close: what
        // the election allows to be lost is still to come.
        let data = self.store.data();
        let primary = data.and_then(|(_, data)| Some(data.primary()?.uid.clone()));
        let is_primary = primary.and_then(|uid| self.keeper_of(&uid)) == Some(k);
        if is_primary && !self.checks.is_unsettled {
            self.checks.floor = None;
        }
    }

    fn lose(&mut self, rows: &[u64]) {
        let mut told = 0;
        for txn in rows {
            if let Some(row) = self.history.rows.get_mut(txn) {
                told += u64::from(row.counts());
                row.lost = true;
            }
        }
        if told > 0 {
            self.note("asynchronous-loss");
            self.history.lost += told;
        }
    }

    /// When the cluster is well again, all that was promised is in its primary.
    pub(crate) fn check_at_the_end(&mut self) {
        if self.follows_outside() {
            return self.check_history_of_source();
        }
        let primary = self
            .store
            .data()
            .and_then(|(_, data)| Some(data.primary()?.uid.clone()));
        if let Some(k) = primary.and_then(|uid| self.keeper_of(&uid)) {
            self.check_nothing_lost(k);
        }
    }

    /// I7: a folder was removed.
    pub(crate) fn check_removal(&mut self, k: usize, removed: &Folder) {
        let Some(data) = &removed.data else {
            return;
        };
        self.note("data-removed");
        if !removed.no_room && removed.put_aside && self.whole_data(k).next().is_none() {
            let text = format!("k{k} removes its data and has no others yet");
            self.fail("I7-removed-first", text);
        }
        let keepers = 0..self.keepers.len();
        let others: Vec<HashSet<u64>> = keepers
            .flat_map(|k| self.whole_data(k))
            .map(rows_of)
            .collect();
        let here = rows_of(data);
        let alone = self
            .history
            .promised()
            .map(|(txn, _)| txn)
            .find(|txn| here.contains(txn) && !others.iter().any(|other| other.contains(txn)));
        if let Some(txn) = alone {
            let text = format!("k{k} removes the only data that have row {txn}");
            self.fail("I7-last-copy", text);
        }
    }
}
