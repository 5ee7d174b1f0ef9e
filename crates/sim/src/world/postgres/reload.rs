//! A server reads its configuration again.

use std::time::Duration;

use super::PostgresEvent;
use super::follow::source_of;
use crate::world::World;

impl World {
    /// The files are read as they are by then.
    pub(super) fn reloaded(&mut self, k: usize) {
        let config = self.instances[k].pgdata.config.clone();
        let Some((server, config)) = self.instances[k].server.as_mut().zip(config) else {
            return;
        };
        let names = config.parameters.get("synchronous_standby_names");
        server.names = names.cloned().unwrap_or_default();
        let follows_another = source_of(&server.config, k) != source_of(&config, k);
        server.config = config;
        self.note_caught_up(k);
        let Some(server) = self.instances[k].server.as_ref() else {
            return;
        };
        if server.names.is_empty() {
            // Who waits is let go (syncrep.c, SyncRepUpdateSyncStandbysDefined).
            self.release(k, true);
        }
        if follows_another && !self.instances[k].is_writable() {
            self.leave_source(k);
            self.postgres_later(k, Duration::from_millis(20), PostgresEvent::Follows);
        }
    }
}
