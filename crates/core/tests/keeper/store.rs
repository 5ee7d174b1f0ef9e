//! The store: the document with all that it ever was, and what the keeper publishes.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::Event;
use stolon_core::keeper::facts::Asked;
use stolon_core::model::request::{Progress, RequestId};
use stolon_core::model::{ClusterData, ClusterSpec, DbUid, KeeperInfo};
use stolon_core::time::Timestamp;

use super::{US, World};

impl World {
    /// Changes the stored document.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut ClusterData)) {
        let mut data = self.data.clone().unwrap_or_else(empty);
        change(&mut data);
        self.store(Some(data));
    }

    pub(crate) fn store(&mut self, data: Option<ClusterData>) {
        for db in data.iter().flat_map(|data| data.dbs.values()) {
            self.specs
                .insert((db.uid.clone(), db.generation), db.clone());
        }
        self.revision += 1;
        self.history.insert(self.revision, data.clone());
        self.data = data;
        // What failed may be tried again at once.
        self.last_step = None;
        self.tell_of_change();
    }

    /// The store is restored to what it was so many revisions ago.
    pub(crate) fn restore(&mut self, revisions: u64) {
        self.revision = self.revision.saturating_sub(revisions).max(1);
        self.data = self.history.get(&self.revision).cloned().flatten();
        self.tell_of_change();
    }

    /// Somebody writes a document of so many revisions ago over the present one.
    pub(crate) fn write_back(&mut self, revisions: u64) {
        let then = self.revision.saturating_sub(revisions).max(1);
        self.store(self.history.get(&then).cloned().flatten());
    }

    fn tell_of_change(&mut self) {
        if self.keeper.is_some() {
            self.inbox
                .push((self.now + Duration::from_millis(1), Event::StoreChanged));
        }
    }

    pub(super) fn answer(&self, peers: bool) -> Event {
        if self.faults.store_down {
            return Event::AskFailed;
        }
        Event::Asked(Box::new(Asked {
            wall: Timestamp::ZERO,
            requests: self.requests.clone(),
            peers: peers.then(|| self.peer_infos.clone()),
        }))
    }

    /// Takes what came of a request into it; false: the store cannot be reached.
    pub(super) fn note(&mut self, id: &RequestId, progress: Progress) -> bool {
        if self.faults.store_down {
            return false;
        }
        let state = &progress.state;
        let reason = if progress.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", progress.reason)
        };
        let text = format!("notes: request {id} {state}{reason}");
        self.say(&text);
        let mut requests = self.requests.iter_mut();
        if let Some(request) = requests.find(|request| request.id == *id) {
            request.progress.insert(US.into(), progress);
        }
        true
    }

    pub(super) fn read(&self) -> Event {
        if self.faults.store_down {
            return Event::ReadFailed;
        }
        Event::Document {
            sent_at: self.instant(),
            revision: self.revision,
            data: self.data.clone().map(Arc::new),
            settings: Some(self.settings),
        }
    }

    pub(super) fn take_publication(&mut self, info: KeeperInfo) {
        let state = info.postgres_state.as_ref();
        let told = state.map_or_else(
            || "no db".to_owned(),
            |state| {
                let instance = state.instance.as_ref();
                let condition = instance.and_then(|instance| instance.condition.clone());
                let condition = condition.map_or_else(String::new, |c| c.as_str().to_owned());
                let released = instance.and_then(|instance| instance.released_at_revision);
                let released = released.map_or_else(String::new, |_| " released".to_owned());
                let useless = instance.is_some_and(|own| !own.data_unusable.is_empty());
                let useless = if useless { " asks for other data" } else { "" };
                let healthy = if state.healthy { " healthy" } else { "" };
                let sync: Vec<&str> = state
                    .synchronous_standbys
                    .iter()
                    .map(DbUid::as_str)
                    .collect();
                let sync = if sync.is_empty() {
                    String::new()
                } else {
                    format!(" in sync {}", sync.join(","))
                };
                let (uid, generation) = (&state.uid, state.generation);
                format!(
                    "{uid} generation {generation} {condition}{healthy}{released}{sync}{useless}"
                )
            },
        );
        if told != self.told {
            self.say(&format!("tells: {told}"));
            self.told.clone_from(&told);
        }
        let known = self
            .data
            .as_ref()
            .and_then(|data| data.keepers.get(US))
            .is_some_and(|keeper| keeper.status.boot_uuid == info.boot_uuid);
        // A sentinel answers a new start of the keeper, and a released primary without a successor, by
        // another document.
        let asks = !known || told.ends_with(" released");
        if asks && !self.faults.not_admitting && self.admit_at.is_none() {
            self.admit_at = Some(self.now + Duration::from_millis(300));
        }
        self.published = Some(info);
    }
}

fn empty() -> ClusterData {
    let spec = ClusterSpec {
        sleep_interval: Some(Duration::from_secs(1).into()),
        ..ClusterSpec::default()
    };
    let mut data = ClusterData::new("c1".into(), spec, Timestamp::ZERO);
    data.keepers
        .insert(US.into(), stolon_core::model::Keeper::default());
    data
}
