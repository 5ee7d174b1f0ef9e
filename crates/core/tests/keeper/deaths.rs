//! What can die, and what is left then.

use std::time::Duration;

use stolon_core::keeper::Event;

use super::World;

/// What can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Keeper,
    Postmaster,
    Both,
    Machine,
}

impl World {
    /// The keeper's process dies; its instance goes on.
    pub(crate) fn kill_keeper(&mut self) {
        self.keeper = None;
        self.work = None;
        self.inbox.clear();
        self.wake_at = None;
        self.admit_at = None;
        self.last_step = None;
        self.say("keeper killed");
    }

    /// The postmaster dies; its children go on for a while.
    pub(crate) fn kill_postmaster(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        self.say("postmaster killed");
        if server.writable {
            self.writable_until = self.now;
        }
        self.orphans = true;
        self.inbox
            .push((self.now + Duration::from_millis(2), Event::PostmasterGone));
    }

    /// The machine stops: nothing of all that runs is left.
    pub(crate) fn kill_machine(&mut self) {
        self.kill_postmaster();
        self.orphans = false;
        self.kill_keeper();
    }

    /// Something dies; a keeper that died is started again a little later.
    pub(crate) fn die(&mut self, death: Death) {
        match death {
            Death::Keeper => self.kill_keeper(),
            Death::Postmaster => self.kill_postmaster(),
            Death::Both => {
                self.kill_postmaster();
                self.kill_keeper();
            }
            Death::Machine => self.kill_machine(),
        }
        if self.keeper.is_none() {
            self.restart_at = Some(self.now + Duration::from_millis(200));
        }
    }
}
