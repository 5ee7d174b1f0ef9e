//! The smallest changes of the world that a keeper's death can fall between.

use std::time::Duration;

use stolon_core::keeper::decide::Wanted;
use stolon_core::keeper::facts::{Content, DbState};
use stolon_core::model::DbUid;

use crate::world::World;
use crate::world::event::{Actor, PostgresEvent};
use crate::world::postgres::{Data, Ending, Folder};

/// Bound on a query of a step.
const QUERY_LIMIT: Duration = Duration::from_secs(10);
/// A copy that does not get on for this long is given up.
const COPY_PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pgdata,
    Beside,
}

/// What comes of a small change.
pub(super) enum Turn {
    Done,
    /// Not yet: look again after this.
    Again(Duration),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// What an unfinished making left does not say whose it is any more.
    Disown(DbState),
    SaveState(DbState),
    /// What lies beside says no more whose it is; data of another system than that of this keeper's
    /// instance are put aside.
    Clear(Option<usize>),
    Remove(Place),
    /// Looks whether there is room for a copy beside the old data, which may go first or not.
    MakeRoom(bool),
    PutAside,
    MakePart,
    MakeWhole,
    Connect(usize),
    CopyPart(usize, String),
    CopyWhole(usize),
    /// The data in place are moved beside it, where from now on they are neither the old nor the new.
    BeginRewind,
    SignalBeside,
    Signal(bool),
    Identity(Place, DbUid),
    Swap,
    Write(Box<Wanted>),
    Reload,
    Spawn,
    BeginStop,
    AwaitStop,
    KillOrphans,
    /// Something is asked over a connection.
    Ask,
    CreateSlot(String),
    DropSlot(String),
    AdvanceSlot(String, u64),
    /// Has no promotion begin this timeline, nor one below it.
    PassOver(u64),
    Promote,
    Stir,
    /// Puts the backup in its place beside.
    Restore,
    /// The data in place are those that were here before.
    TakeOver,
    /// Something was done that is to be done sometimes.
    Note(&'static str),
    Fail(&'static str),
}

pub(super) type Result = std::result::Result<Turn, &'static str>;

impl World {
    pub(super) fn act(&mut self, k: usize, act: &Act) -> Result {
        match act {
            Act::Disown(state) => self.disown(k, state),
            Act::SaveState(state) => {
                if self.instances[k].ailments.disk_full > 0 {
                    return Err("no space left on device");
                }
                self.keepers[k].state = Some(state.clone());
            }
            Act::Clear(source) => self.clear(k, *source),
            Act::Remove(place) => {
                let folder = self.folder(k, *place);
                let removed = std::mem::take(folder);
                self.check_removal(k, &removed);
            }
            Act::MakeRoom(may_discard) => return self.make_room(k, *may_discard),
            Act::PutAside => self.put_aside(k),
            Act::MakePart => self.instances[k].beside.content = Content::Broken,
            Act::MakeWhole => return self.make_whole(k),
            Act::Connect(source) => return self.connect_to_source(k, *source),
            Act::CopyPart(source, slot) => return self.copy_part(k, *source, slot),
            Act::CopyWhole(source) => return self.copy_whole(k, *source),
            Act::BeginRewind => self.begin_rewind(k),
            Act::SignalBeside => self.instances[k].beside.signal = true,
            Act::Signal(standby) => self.instances[k].pgdata.signal = *standby,
            Act::Identity(place, db) => self.folder(k, *place).identity = Some(db.clone()),
            Act::Swap => {
                self.note("swap");
                let instance = &mut self.instances[k];
                std::mem::swap(&mut instance.pgdata, &mut instance.beside);
            }
            Act::Write(wanted) => {
                if self.instances[k].ailments.disk_full > 0 {
                    return Err("no space left on device");
                }
                self.write_config(k, wanted);
            }
            Act::Reload => self.reload(k),
            Act::Spawn => return self.spawn(k),
            Act::BeginStop => self.begin_stop(k),
            Act::AwaitStop => return Ok(self.await_stop(k)),
            Act::KillOrphans => self.end_server(k, Ending::Crash),
            Act::Fail(why) => return Err(why),
            Act::Ask => return self.ask(k),
            Act::CreateSlot(name) => self.set_slot(k, name, true),
            Act::DropSlot(name) => self.set_slot(k, name, false),
            Act::AdvanceSlot(name, to) => self.advance_slot(k, name, *to),
            Act::PassOver(last) => self.pass_over(k, *last),
            Act::Promote => return self.promote(k),
            Act::Restore => self.restore_backup(k),
            Act::TakeOver => self.note("data-taken-over"),
            Act::Note(what) => self.note(what),
            Act::Stir => {
                if self.instances[k].is_writable() {
                    self.append(k, 0);
                    self.flush_soon(k);
                }
            }
        }
        Ok(Turn::Done)
    }

    fn set_slot(&mut self, k: usize, name: &str, present: bool) {
        if let Some(data) = self.instances[k].pgdata.data.as_mut() {
            if present {
                let from = data.oldest_wal;
                data.slots.entry(name.to_owned()).or_insert(from);
            } else {
                data.slots.remove(name);
            }
        }
    }

    fn folder(&mut self, k: usize, place: Place) -> &mut Folder {
        let instance = &mut self.instances[k];
        match place {
            Place::Pgdata => &mut instance.pgdata,
            Place::Beside => &mut instance.beside,
        }
    }

    fn disown(&mut self, k: usize, state: &DbState) {
        let unfinished = self.keepers[k]
            .state
            .clone()
            .filter(|noted| noted.initializing);
        let Some(unfinished) = unfinished.filter(|_| state.initializing) else {
            return;
        };
        for place in [Place::Pgdata, Place::Beside] {
            let folder = self.folder(k, place);
            if folder.identity.as_ref() == Some(&unfinished.uid) {
                folder.identity = None;
            }
        }
    }

    fn clear(&mut self, k: usize, source: Option<usize>) {
        let present = source.and_then(|source| self.instances[source].pgdata.data.as_ref());
        let present = present.map(|data| data.system.clone());
        let beside = &mut self.instances[k].beside;
        let is_whole = beside.identity.is_some();
        if let Some(data) = beside.data.as_ref().filter(|_| is_whole)
            && present.as_ref() != Some(&data.system)
        {
            let kept = data.clone();
            *beside = Folder::default();
            self.keepers[k].kept.push(kept);
            self.note("data-put-aside");
        }
        self.instances[k].beside.identity = None;
    }

    fn make_whole(&mut self, k: usize) -> Result {
        if self.instances[k].ailments.disk_full > 0 {
            return Err("no space left on device");
        }
        self.serial += 1;
        let system = format!("70{:017}", self.serial);
        self.instances[k].beside = Folder {
            content: Content::Cluster,
            data: Some(Data {
                system,
                timeline: 1,
                ending: Ending::Shutdown,
                ..Data::default()
            }),
            ..Folder::default()
        };
        self.note("initdb");
        Ok(Turn::Done)
    }

    pub(in crate::world) fn reaches(&self, k: usize, source: usize) -> bool {
        let (here, there) = (
            self.host_of(Actor::Keeper(k)),
            self.host_of(Actor::Postgres(source)),
        );
        let frozen = self.resumes_at(Actor::Postgres(source)).is_some();
        !self.network.is_cut(here, there) && !self.network.is_cut(there, here) && !frozen
    }

    fn connect_to_source(&mut self, k: usize, source: usize) -> Result {
        if !self.reaches(k, source) {
            let began = self.keepers[k]
                .work
                .as_ref()
                .map_or(self.now, |work| work.began);
            if self.now.saturating_sub(began) > QUERY_LIMIT {
                return Err("no answer of the source");
            }
            return Ok(Turn::Again(Duration::from_secs(1)));
        }
        let server = self.instances[source].server.as_ref();
        if !server.is_some_and(super::super::postgres::Server::accepts) {
            return Err("the source does not accept connections");
        }
        let life = self.instances[source].life;
        if let Some(work) = self.keepers[k].work.as_mut() {
            work.source_life = Some(life);
        }
        Ok(Turn::Done)
    }

    fn copy_part(&mut self, k: usize, source: usize, slot: &str) -> Result {
        let there = self.instances[source].pgdata.data.as_ref();
        let has_slot = |data: &Data| slot.is_empty() || data.slots.contains_key(slot);
        if !there.is_some_and(has_slot) {
            return Err("the replication slot does not exist");
        }
        let node = &mut self.keepers[k];
        let is_begun = self.instances[k].beside.content == Content::Cluster;
        self.instances[k].beside.content = Content::Cluster;
        if is_begun {
            return Ok(Turn::Done);
        }
        let seconds = if node.chance.happens(150) {
            20_000
        } else {
            3000
        };
        Ok(Turn::Again(node.chance.millis(300, seconds)))
    }

    /// Ends a copy: it holds all that the source had on disk when it ended.
    fn copy_whole(&mut self, k: usize, source: usize) -> Result {
        let work = self.keepers[k].work.as_ref();
        let (began, life) = work.map_or((self.now, None), |work| (work.began, work.source_life));
        if life != Some(self.instances[source].life) {
            return Err("the source ended while it was copied");
        }
        if self.instances[k].ailments.disk_full > 0 {
            return Err("no space left on device");
        }
        if !self.reaches(k, source) {
            if self.now.saturating_sub(began) > COPY_PATIENCE {
                return Err("no progress of pg_basebackup");
            }
            return Ok(Turn::Again(Duration::from_secs(1)));
        }
        let Some(mut data) = self.instances[source].pgdata.data.clone() else {
            return Err("the source has no data");
        };
        data.wal.truncate(data.flushed);
        data.half = 0;
        data.ending = Ending::Crash;
        data.min_recovery = data.flush_lsn();
        data.slots.clear();
        if !self.plan.has_go() {
            data.oldest_wal = data.flush_lsn();
        }
        self.instances[k].beside = Folder {
            content: Content::Cluster,
            data: Some(data),
            ..Folder::default()
        };
        self.note("resync");
        Ok(Turn::Done)
    }

    fn reload(&mut self, k: usize) {
        if self.instances[k].has_postmaster() {
            let pause = self.instances[k].chance.millis(1, 60);
            self.postgres_later(k, pause, PostgresEvent::Reloaded);
        }
    }

    fn spawn(&mut self, k: usize) -> Result {
        if self.instances[k].server.is_some() {
            return Err("another postmaster runs");
        }
        if self.instances[k].pgdata.data.is_none() {
            return Err("no data to start on");
        }
        self.start_server(k);
        Ok(Turn::Done)
    }

    fn begin_stop(&mut self, k: usize) {
        let is_hung = self.instances[k].hung_until > self.now;
        let pause = self.instances[k].chance.millis(20, 900);
        let Some(server) = self.instances[k].server.as_mut() else {
            return;
        };
        if is_hung || server.orphaned {
            // It hears no signal: it is killed, with all its children.
            self.end_server(k, Ending::Crash);
            self.tell_of_the_end(k);
            return;
        }
        server.stopping = true;
        // Sessions are ended: commits that wait for standbys are there, and told to nobody.
        server.waiting.clear();
        let is_recovering = !server.ready && server.writable;
        self.end_sessions(k);
        self.postgres_later(k, pause, PostgresEvent::StopEnds(!is_recovering));
    }

    fn end_sessions(&mut self, k: usize) {
        let here = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.target == k);
        let ids: Vec<_> = here.map(|(id, _)| *id).collect();
        for id in ids {
            self.answer_client(k, id, crate::world::client::Response::Closed);
        }
    }

    fn await_stop(&mut self, k: usize) -> Turn {
        if self.instances[k].server.is_none() {
            return Turn::Done;
        }
        if self.instances[k].hung_until > self.now {
            self.end_server(k, Ending::Crash);
            self.tell_of_the_end(k);
            return Turn::Done;
        }
        Turn::Again(Duration::from_millis(5))
    }

    /// Whether the server answers over a connection.
    fn ask(&mut self, k: usize) -> Result {
        let server = self.instances[k].server.as_ref();
        if !server.is_some_and(super::super::postgres::Server::accepts) {
            return Err("no connection");
        }
        if self.instances[k].hung_until > self.now {
            let began = self.keepers[k]
                .work
                .as_ref()
                .map_or(self.now, |work| work.began);
            if self.now.saturating_sub(began) > QUERY_LIMIT {
                return Err("no answer");
            }
            return Ok(Turn::Again(Duration::from_millis(100)));
        }
        Ok(Turn::Done)
    }

    fn promote(&mut self, k: usize) -> Result {
        let slow = self.instances[k].ailments.slow_disk * 10;
        let pause = self.instances[k].chance.millis(30, 500 + slow);
        let Some(server) = self.instances[k].server.as_mut() else {
            return Err("no connection");
        };
        if !server.writable && !server.promoting {
            server.promoting = true;
            self.postgres_later(k, pause, PostgresEvent::Promotes(0));
        }
        Ok(Turn::Done)
    }
}
