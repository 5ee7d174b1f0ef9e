//! I9: after a restart a synchronous primary lets users in only when its synchronous set has what it
//! had then: they would read what no standby has.

use crate::world::World;
use crate::world::postgres::{Server, named};

/// The standbys that are waited for; the placeholder for those that are missing is none.
fn members(server: &Server) -> impl Iterator<Item = &str> {
    let names = named(&server.names).into_iter();
    names.filter(|name| name.starts_with("stolon_"))
}

impl World {
    /// Looks whether those that are waited for have what the server had when it was started; once they
    /// had, it is open.
    pub(crate) fn note_caught_up(&mut self, k: usize) {
        let Some(server) = self.instances[k].server.as_mut() else {
            return;
        };
        let Some(start) = server.restarted_at else {
            return;
        };
        let has_all = |name: &str| {
            let peer = server.peers.get(name);
            peer.is_some_and(|peer| peer.flushed >= start)
        };
        if members(server).all(has_all) {
            server.restarted_at = None;
        }
    }

    /// A user is let in.
    pub(crate) fn check_gate(&mut self, k: usize) {
        let Some(server) = self.instances[k].server.as_ref() else {
            return;
        };
        if let Some(start) = server.restarted_at {
            let names = &server.names;
            let text = format!(
                "pg{k} lets users in after a restart, and not all of {names} have what it had by \
                 {start:x}"
            );
            self.fail("I9-let-in-early", text);
        }
    }
}
