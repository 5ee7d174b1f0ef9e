//! Which document a keeper acts on.

use std::sync::Arc;

use super::{Document, Effect, Keeper};
use crate::model::{BootUuid, ClusterData, ClusterSpec, Db, DbUid, ExtSettings};
use crate::reason::Reason;
use crate::time::Instant;

impl Keeper {
    pub(super) fn read_ended(&mut self, now: Instant, failed: bool) {
        self.reading = false;
        self.last_read = Some(now);
        self.read_failed = failed;
    }

    pub(super) fn read(&mut self, effects: &mut Vec<Effect>) {
        if self.reading {
            self.read_again = true;
        } else {
            self.reading = true;
            effects.push(Effect::Read);
        }
    }

    /// Nobody acts on an older document after a newer one (I5). When revisions fall the store is
    /// another one (restored): its document counts once it was read a second time, and then, as
    /// where an older document was written over a newer one, the boot rule holds again: the instance
    /// is left as it is until a sentinel has looked at it and says so in the document.
    pub(super) fn take_document(
        &mut self,
        sent_at: Instant,
        revision: u64,
        data: Option<Arc<ClusterData>>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(data) = data else {
            // The instance is left as it is, and nothing is decided without a document.
            self.document = None;
            self.spec = ClusterSpec::default().effective();
            return;
        };
        if let Some((known_revision, known)) = &self.last {
            let older = revision < *known_revision;
            if older && self.fallen != Some(revision) {
                self.fallen = Some(revision);
                let text = "the store went back to an older revision; reading it again";
                let reason = Reason::warn("revision-fell", text).with("revision", revision);
                effects.push(Effect::Log(reason.with("known", known_revision)));
                self.read(effects);
                return;
            }
            if older || has_fallen(known, &data) {
                let text = "the cluster data are older ones than were seen, or another cluster's: \
                            leaving the instance as it is until a sentinel has looked at it";
                effects.push(Effect::Log(Reason::warn("data-fell", text)));
                self.give_up_admission();
            }
        }
        self.fallen = None;
        let changed = self
            .document
            .as_ref()
            .is_none_or(|known| known.revision != revision);
        if changed {
            self.round_closed = false;
            self.failures = 0;
            self.retry_at = None;
        }
        let told = |data: &ClusterData| {
            let db = data.db_of(&self.settings.uid)?;
            Some((db.uid.clone(), db.generation))
        };
        let before = self.document.as_ref().and_then(|known| told(&known.data));
        // What fails to start is not tried faster because the store is busy.
        if before != told(&data) {
            self.start_at = None;
            self.awaiting_since = None;
        }
        self.note_followers(&data);
        self.last = Some((revision, Arc::clone(&data)));
        let spec = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref());
        self.spec = spec.map_or_else(
            || ClusterSpec::default().effective(),
            ClusterSpec::effective,
        );
        let settings = self.document.as_ref().map(|known| known.settings);
        let settings = settings.unwrap_or_default();
        self.document = Some(Document {
            sent_at,
            revision,
            data,
            settings,
        });
    }

    /// What was known still holds where the settings could not be read.
    pub(super) fn take_settings(&mut self, settings: Option<ExtSettings>) {
        if let (Some(document), Some(settings)) = (&mut self.document, settings)
            && document.settings != settings
        {
            document.settings = settings;
            self.round_closed = false;
        }
    }

    /// Takes another name for this start of the keeper, which no document knows yet.
    fn give_up_admission(&mut self) {
        let first = self.settings.boot_uuid.as_str();
        let first = first.split_once('.').map_or(first, |(first, _)| first);
        self.falls = self.falls.saturating_add(1);
        // It waits for the sentinel's word anyway, and revisions begin anew.
        self.facts.released_at = None;
        self.settings.boot_uuid = BootUuid::new(format!("{first}.{}", self.falls));
    }
}

/// Whether a document has smaller counters than one seen before: somebody wrote an older one over it.
/// That of another cluster may be one of long ago too.
fn has_fallen(known: &ClusterData, new: &ClusterData) -> bool {
    let (Some(before), Some(after)) = (&known.cluster, &new.cluster) else {
        return false;
    };
    let db_fell = |(uid, db): (&DbUid, &Db)| {
        let later = new.dbs.get(uid);
        later.is_some_and(|later| later.generation < db.generation)
    };
    before.uid != after.uid
        || after.generation < before.generation
        || new.proxy.generation < known.proxy.generation
        || known.dbs.iter().any(db_fell)
}
