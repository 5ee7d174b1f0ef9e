//! What a keeper does to the data on its disk as a whole, apart from making them.

use super::acts::{Act, Place, Result, Turn};
use crate::world::World;
use crate::world::postgres::Folder;
use stolon_core::keeper::decide::Wanted;
use stolon_core::keeper::facts::Content;

impl World {
    /// Room is looked for once the source has answered, and the old data go at once where there is none
    /// and they may: who looks before may find another disk, and another source, when the data go.
    pub(super) fn make_room(&mut self, k: usize, may_discard: bool) -> Result {
        let is_full = self.instances[k].ailments.disk_full > 0;
        let has_old = self.instances[k].pgdata.content != Content::Nothing;
        self.instances[k].pgdata.no_room = is_full;
        if (is_full && has_old && may_discard) || self.deletes_first() {
            if let Some(work) = self.keepers[k].work.as_mut() {
                // After this act, which is the first.
                work.acts.insert(1, Act::PutAside);
                work.acts.insert(2, Act::Remove(Place::Beside));
            }
        } else if is_full {
            return Err("no room for the copy");
        }
        Ok(Turn::Done)
    }

    /// What another server outside answered counts no more.
    pub(super) fn write_config(&mut self, k: usize, wanted: &Wanted) {
        let folder = &mut self.instances[k].pgdata;
        let source = |config: &Wanted| config.recovery.get("primary_conninfo").cloned();
        if folder.config.as_ref().and_then(source) != source(wanted) {
            self.keepers[k].outside = None;
        }
        folder.config = Some(wanted.clone());
    }

    /// The operator's command brings the backup.
    pub(super) fn restore_backup(&mut self, k: usize) {
        self.note("restored-from-backup");
        self.instances[k].beside = Folder {
            content: Content::Cluster,
            data: Some(self.outside.backup()),
            ..Folder::default()
        };
    }

    pub(super) fn put_aside(&mut self, k: usize) {
        let instance = &mut self.instances[k];
        instance.pgdata.identity = None;
        instance.beside = std::mem::take(&mut instance.pgdata);
        instance.beside.put_aside = true;
    }

    pub(super) fn begin_rewind(&mut self, k: usize) {
        self.note("rewind");
        let old = std::mem::take(&mut self.instances[k].pgdata);
        self.instances[k].beside.content = Content::Broken;
        self.check_removal(k, &old);
    }

    pub(super) fn advance_slot(&mut self, k: usize, name: &str, to: u64) {
        let data = self.instances[k].pgdata.data.as_mut();
        if let Some(slot) = data.and_then(|data| data.slots.get_mut(name)) {
            *slot = to.max(*slot);
        }
    }

    pub(super) fn pass_over(&mut self, k: usize, last: u64) {
        if let Some(data) = self.instances[k].pgdata.data.as_mut() {
            data.passed_over = last;
        }
        self.note("timeline-passed-over");
    }
}
