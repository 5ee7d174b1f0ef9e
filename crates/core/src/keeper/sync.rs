//! Who is in sync, by a rule that needs no trust in `sync_state` (contract, section 7).
//!
//! A standby is in sync when the list that names it is in force, and it has flushed what the
//! primary had flushed after that. PostgreSQL's processes take a new configuration in one after the
//! other, so the list counts as in force from the second look that shows it.

use std::collections::BTreeMap;

use super::facts::Observation;
use crate::model::{DbUid, List, Lsn};

/// What is remembered between looks at a primary.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SyncTracker {
    names: String,
    seen: bool,
    /// The primary's flush position that each listed standby must reach.
    markers: BTreeMap<DbUid, Lsn>,
    in_sync: Vec<DbUid>,
    /// Whether users may come in: once open after a start, it stays open (I9).
    open: bool,
    /// The list came into force, and commits may wait that only a standby's next word releases.
    stirring: bool,
}

impl SyncTracker {
    /// Nothing is known; users are let in at once only where they were in already.
    pub const fn new(open: bool) -> Self {
        Self {
            names: String::new(),
            seen: false,
            markers: BTreeMap::new(),
            in_sync: Vec::new(),
            open,
            stirring: false,
        }
    }

    /// Takes in a look at the primary, whose list is to be `names`, naming `listed`.
    pub fn observe(&mut self, names: &str, listed: &List<DbUid>, observation: &Observation) {
        if self.names != names {
            names.clone_into(&mut self.names);
            self.seen = false;
            // Who stays in the list has had everything, and goes on having it.
            self.markers.retain(|uid, _| listed.contains(uid));
            self.in_sync.retain(|uid| listed.contains(uid));
        }
        if observation.synchronous_standby_names != names {
            self.seen = false;
            return;
        }
        if self.seen {
            self.stirring |= listed.iter().any(|uid| !self.markers.contains_key(uid));
            for uid in listed.iter() {
                self.markers
                    .entry(uid.clone())
                    .or_insert(observation.flush_lsn);
            }
        }
        self.seen = true;
        let has_all = |uid: &DbUid| {
            let Some(marker) = self.markers.get(uid) else {
                return false;
            };
            let name = uid.replication_name();
            observation.peers.iter().any(|peer| {
                peer.name == name && peer.state == "streaming" && peer.flush_lsn >= *marker
            })
        };
        self.in_sync = listed.iter().filter(|uid| has_all(uid)).cloned().collect();
        self.open |= self.is_complete(listed);
    }

    /// Whether a little WAL is to be written: PostgreSQL releases commits that wait only when a
    /// standby reports, and one that has everything reports nothing new.
    pub const fn wants_stir(&self) -> bool {
        self.stirring
    }

    /// Notes that it was written.
    pub const fn stirred(&mut self) {
        self.stirring = false;
    }

    fn is_complete(&self, listed: &List<DbUid>) -> bool {
        listed.iter().all(|uid| self.in_sync.contains(uid))
    }

    /// Who is in sync.
    pub fn in_sync(&self) -> &[DbUid] {
        &self.in_sync
    }

    /// Whether users may come in.
    pub fn is_open(&self, listed: &List<DbUid>) -> bool {
        self.open || listed.is_empty()
    }

    /// Whether the next look may bring somebody into sync.
    pub fn is_awaiting(&self, listed: &List<DbUid>) -> bool {
        !self.is_complete(listed)
    }
}

impl super::Keeper {
    /// Takes in what the primary says of its standbys.
    pub(super) fn observe_sync(&mut self, observation: &Observation) {
        let Some((document, db)) = self.document.as_ref().and_then(|document| {
            let db = document.data.db_of(&self.settings.uid)?;
            Some((document, db))
        }) else {
            return;
        };
        let is_primary = document
            .data
            .primary()
            .is_some_and(|primary| primary.uid == db.uid);
        if is_primary && !observation.in_recovery {
            let names = super::decide::synchronous_standby_names(&db.spec);
            self.sync
                .observe(&names, &db.spec.synchronous_standbys, observation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SyncTracker;
    use crate::keeper::facts::{Observation, Peer};
    use crate::model::{DbUid, List, Lsn};

    fn look(names: &str, flushed: u64, standby: u64) -> Observation {
        let peer = Peer {
            name: "stolon_b".into(),
            state: "streaming".into(),
            flush_lsn: Lsn(standby),
            replay_lsn: Lsn(standby),
            sync_state: "sync".into(),
        };
        Observation {
            synchronous_standby_names: names.into(),
            flush_lsn: Lsn(flushed),
            peers: vec![peer],
            ..Observation::default()
        }
    }

    #[test]
    fn a_standby_far_behind_is_not_in_sync_until_it_has_caught_up() {
        let listed: List<DbUid> = [DbUid::from("b")].into_iter().collect();
        let mut sync = SyncTracker::new(false);
        // Scenario A14: named, streaming, sync_state says sync, and far behind.
        let steps = [
            ("", 100, 10, false),
            ("stolon_b", 100, 10, false),
            ("stolon_b", 100, 10, false),
            ("stolon_b", 200, 99, false),
            ("stolon_b", 300, 100, true),
            ("stolon_b", 900, 200, true),
        ];
        for (names, flushed, standby, expected) in steps {
            sync.observe("stolon_b", &listed, &look(names, flushed, standby));
            assert_eq!(
                !sync.in_sync().is_empty(),
                expected,
                "{names} {flushed} {standby}"
            );
            assert_eq!(sync.is_open(&listed), expected);
        }
    }

    #[test]
    fn the_gate_stays_open_once_it_is_open_and_has_no_use_without_a_list() {
        let listed: List<DbUid> = [DbUid::from("b")].into_iter().collect();
        assert!(SyncTracker::new(false).is_open(&List::NULL));
        assert!(!SyncTracker::new(false).is_open(&listed));
        assert!(SyncTracker::new(true).is_open(&listed));
    }
}
