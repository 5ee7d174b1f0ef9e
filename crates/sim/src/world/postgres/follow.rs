//! Whom a standby follows: a member of its cluster, or a server outside.

use super::stream::Receiver;
use super::{PostgresEvent, Wanted};
use crate::world::World;
use crate::world::event::{Actor, What};
use crate::world::network::Way;
use crate::world::outside::server_at;
use crate::world::proxy::keeper_at;

/// The source that a configuration names, and by which name the standby of that number comes there.
pub(super) fn source_of(config: &Wanted, k: usize) -> Option<(usize, String)> {
    if let Some(follow) = &config.follow {
        return Some((keeper_at(&follow.host)?, follow.name.clone()));
    }
    let conninfo = config.recovery.get("primary_conninfo")?;
    Some((server_at(conninfo)?, format!("from-elsewhere-{k}")))
}

/// Whether who comes by a name comes through a slot of this name; others have none.
pub(super) fn has_slot(name: &str) -> bool {
    name.starts_with("stolon_")
}

impl World {
    /// A standby looks for its source.
    pub(super) fn follows(&mut self, k: usize) {
        let Some((server, data)) = self.server_and_data(k) else {
            return;
        };
        if server.writable || server.promoting || server.receiver.is_some() || !server.ready {
            return;
        }
        let Some((source, name)) = source_of(&server.config, k) else {
            return;
        };
        let (from, life) = (data.wal.len(), self.instances[k].life);
        let last = data.last_of(from);
        self.serial += 1;
        let session = self.serial;
        let receiver = Receiver::new(source, name.clone(), session, self.now);
        if let Some(server) = self.instances[k].server.as_mut() {
            server.receiver = Some(receiver);
        }
        let asked = PostgresEvent::Asked {
            standby: k,
            life,
            name,
            from,
            last,
            session,
        };
        let what = What::Postgres(source, self.instances[source].life, asked);
        self.send(
            Actor::Postgres(k),
            Actor::Postgres(source),
            Way::Stream,
            what,
        );
    }
}
