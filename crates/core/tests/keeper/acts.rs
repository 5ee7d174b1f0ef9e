//! What the steps of a keeper do to the world, in the smallest changes.

use std::collections::VecDeque;
use std::time::Duration;

use stolon_core::keeper::Event;
use stolon_core::keeper::decide::{Start, Step, Wanted};
use stolon_core::keeper::facts::{Content, DbState};
use stolon_core::model::DbUid;

use super::{Data, Folder, SYSTEM, Server, Slot, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pgdata,
    Beside,
}

/// The smallest changes that a keeper's death can fall between.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    SaveState(DbState),
    Clear(Place),
    RemovePart(Place),
    Remove(Place),
    PutAside,
    MakePart(DbUid),
    MakeWhole(DbUid),
    RestorePart,
    RestoreWhole(DbUid, bool),
    CopyPart,
    RewindPart,
    CopyWhole,
    Signal(Place, bool),
    Identity(Place, DbUid),
    Swap,
    KeepConfig,
    Write(Box<Wanted>),
    Reload,
    Spawn,
    Stop,
    KillOrphans,
    MakeRoles,
    CreateSlot(String),
    DropSlot(String),
    AdvanceSlot(String, u64),
    PassOver(u64),
    Promote,
    Stir,
    Fail(&'static str),
}

impl World {
    /// What a step does, in the daemon's order.
    pub(super) fn acts_of(&self, step: &Step) -> VecDeque<Act> {
        use Place::{Beside, Pgdata};
        let discard = [
            Act::Clear(Beside),
            Act::RemovePart(Beside),
            Act::Remove(Beside),
        ];
        let running = self.server.is_some();
        let acts: Vec<Act> = match step {
            Step::SaveState(state) => vec![Act::SaveState(state.clone())],
            Step::Initialize { db, .. } => discard
                .into_iter()
                .chain([
                    Act::MakePart(db.clone()),
                    Act::MakeWhole(db.clone()),
                    Act::Identity(Beside, db.clone()),
                ])
                .collect(),
            Step::Copy {
                db, may_discard, ..
            } => self.acts_of_copy(db, *may_discard),
            Step::Rewind { db, .. } => self.acts_of_rewind(db),
            Step::FromOutside { db, rewind, .. } => {
                if *rewind {
                    self.acts_of_rewind(db)
                } else {
                    self.acts_of_copy(db, false)
                }
            }
            Step::Restore { db, standby, .. } => self.acts_of_restore(db, *standby),
            Step::Swap { .. } => vec![Act::Swap],
            Step::Discard => discard.to_vec(),
            Step::Claim { db } => vec![Act::Identity(Pgdata, db.clone())],
            Step::TakeOver { db, standby } => {
                let signal = self.pgdata.signal || *standby;
                let signal = signal.then_some(Act::Signal(Pgdata, true));
                let keep = std::iter::once(Act::KeepConfig).chain(signal);
                keep.chain([Act::Identity(Pgdata, db.clone())]).collect()
            }
            Step::Configure(wanted) => {
                let last = if running {
                    Act::Reload
                } else if wanted.start == Start::Recovery {
                    return vec![Act::Write(wanted.clone())].into();
                } else {
                    Act::Signal(Pgdata, wanted.start == Start::Standby)
                };
                vec![Act::Write(wanted.clone()), last]
            }
            Step::Start { .. } => vec![Act::Spawn],
            Step::Checkpoint => Vec::new(),
            Step::Stop { .. } => vec![Act::Stop],
            Step::KillAll => vec![Act::KillOrphans],
            Step::SetUpRoles => vec![Act::MakeRoles],
            Step::Slots { .. } if self.faults.slots_fail => vec![Act::Fail("no free slot")],
            Step::Slots {
                drop,
                create,
                advance,
            } => {
                let drop = drop.iter().cloned().map(Act::DropSlot);
                let create = create.iter().cloned().map(Act::CreateSlot);
                let advance = advance.iter().cloned();
                drop.chain(create)
                    .chain(advance.map(|(name, to)| Act::AdvanceSlot(name, to.0)))
                    .collect()
            }
            Step::Stir => vec![Act::Stir],
            // That the slots cannot be made is allowed for.
            Step::Promote { slots, taken } => {
                let last = taken.iter().map(|timeline| timeline.0).max();
                let create = slots.iter().filter(|_| !self.faults.slots_fail);
                last.map(Act::PassOver)
                    .into_iter()
                    .chain(create.cloned().map(Act::CreateSlot))
                    .chain([Act::Promote])
                    .collect()
            }
            Step::Release { .. } => panic!("the core does this itself"),
        };
        acts.into()
    }

    pub(super) fn acts_of_copy(&self, db: &DbUid, may_discard: bool) -> Vec<Act> {
        use Place::{Beside, Pgdata};
        let discard = [
            Act::Clear(Beside),
            Act::RemovePart(Beside),
            Act::Remove(Beside),
        ];
        let mut acts = discard.to_vec();
        if self.faults.no_room && self.pgdata.content != Content::Nothing {
            if !may_discard {
                return vec![Act::Fail("no room for the copy")];
            }
            acts.extend([Act::Clear(Pgdata), Act::PutAside]);
            acts.extend(discard);
        }
        acts.push(Act::CopyPart);
        if self.faults.copy_fails {
            acts.push(Act::Fail("the copy failed"));
            return acts;
        }
        acts.extend(acts_of_whole_data(db));
        acts
    }

    pub(super) fn acts_of_rewind(&self, db: &DbUid) -> Vec<Act> {
        use Place::{Beside, Pgdata};
        if self.faults.rewind_refused {
            return vec![Act::Fail("the source does not answer")];
        }
        let mut acts = vec![
            Act::Clear(Beside),
            Act::RemovePart(Beside),
            Act::Remove(Beside),
            Act::Clear(Pgdata),
            Act::PutAside,
            Act::RemovePart(Beside),
            Act::RewindPart,
        ];
        if self.faults.rewind_fails {
            acts.push(Act::Fail("pg_rewind failed"));
            return acts;
        }
        acts.extend(acts_of_whole_data(db));
        acts
    }

    /// The command writes into a place of its own: what is beside PGDATA goes only when it is done.
    fn acts_of_restore(&self, db: &DbUid, standby: bool) -> Vec<Act> {
        let mut acts = vec![Act::RestorePart];
        if self.faults.restore_fails {
            acts.push(Act::Fail("the restore failed"));
            return acts;
        }
        acts.extend([
            Act::Clear(Place::Beside),
            Act::Remove(Place::Beside),
            Act::RestoreWhole(db.clone(), standby),
        ]);
        acts
    }

    pub(super) fn folder(&mut self, place: Place) -> &mut Folder {
        match place {
            Place::Pgdata => &mut self.pgdata,
            Place::Beside => &mut self.beside,
        }
    }

    pub(super) fn act(&mut self, act: &Act, step: &Step) -> Result<(), &'static str> {
        match act {
            Act::SaveState(state) => self.save_state(state),
            Act::Clear(place) => {
                let may = matches!(
                    step,
                    Step::Rewind { .. }
                        | Step::FromOutside { rewind: true, .. }
                        | Step::Copy {
                            may_discard: true,
                            ..
                        }
                );
                let folder = self.folder(*place);
                folder.identity = None;
                folder.given_up |= may || *place == Place::Beside;
            }
            Act::RemovePart(place) => self.remove_part(*place, step),
            Act::Remove(place) => {
                *self.folder(*place) = Folder::default();
                self.beside_is_replaced &= *place != Place::Beside;
            }
            Act::PutAside => {
                assert_eq!(self.beside.content, Content::Nothing);
                self.beside = std::mem::take(&mut self.pgdata);
            }
            Act::MakePart(_) => self.beside.content = Content::Broken,
            Act::MakeWhole(db) => self.make_whole(db),
            // The first files of the source are there, and with them its name.
            Act::RewindPart => self.beside.identity = Some(DbUid::from("d2")),
            Act::RestoreWhole(db, standby) => self.restore_whole(db, *standby),
            Act::CopyPart => {
                self.beside.content = Content::Cluster;
                self.beside.identity = Some(DbUid::from("d2"));
            }
            Act::CopyWhole => self.copy_whole(),
            Act::Signal(place, standby) => {
                let folder = self.folder(*place);
                folder.signal = *standby;
                folder.recovery_signal = false;
            }
            Act::Identity(_, db) if matches!(step, Step::TakeOver { .. }) => {
                assert!(self.pgdata.whole, "took over a part");
                self.pgdata.identity = Some(db.clone());
                self.pgdata.data.owner = db.clone();
            }
            Act::Identity(place, db) => self.set_identity(*place, db),
            Act::KeepConfig => self.pgdata.config = None,
            Act::PassOver(last) => self.pgdata.data.passed_over = *last,
            Act::Swap => {
                std::mem::swap(&mut self.pgdata, &mut self.beside);
                self.beside_is_replaced = self.beside.content == Content::Cluster;
            }
            Act::Write(wanted) => self.pgdata.config = Some((**wanted).clone()),
            Act::Spawn => self.spawn(),
            Act::Stop => self.stop(),
            Act::KillOrphans => self.kill_orphans(),
            Act::RestorePart | Act::Fail(_) => {}
            act => return self.act_on_server(act),
        }
        Ok(())
    }

    pub(super) fn act_on_server(&mut self, act: &Act) -> Result<(), &'static str> {
        let names = |wanted: &Wanted| wanted.parameters.clone();
        let Some(server) = &mut self.server else {
            // A reload of nobody is no error; all else is asked over a connection.
            return if *act == Act::Reload {
                Ok(())
            } else {
                Err("no connection")
            };
        };
        match act {
            Act::Reload => {
                let config = self.pgdata.config.clone().expect("a configuration");
                let restart = "max_connections";
                let (old, new) = (names(&server.in_force), names(&config));
                if old.get(restart) != new.get(restart) {
                    server.pending_restart = vec![restart.to_owned()];
                }
                server.in_force = config;
            }
            Act::MakeRoles => self.pgdata.data.roles = true,
            Act::CreateSlot(name) => {
                let data = &mut self.pgdata.data;
                let slot = Slot {
                    from: data.lsn,
                    lost: false,
                };
                data.slots.entry(name.clone()).or_insert(slot);
            }
            Act::AdvanceSlot(name, to) => {
                let data = &mut self.pgdata.data;
                let slot = data.slots.get_mut(name).expect("a slot");
                assert!(!slot.lost && slot.from < *to && *to <= data.lsn, "{slot:?}");
                slot.from = *to;
            }
            Act::DropSlot(name) => {
                self.pgdata.data.slots.remove(name);
            }
            Act::Promote if !server.writable => {
                server.promoted_at = Some(self.now + Duration::from_millis(150));
            }
            Act::Promote => {}
            Act::Stir => {
                assert!(server.writable, "a standby cannot write");
                self.pgdata.data.lsn += 8;
            }
            other => panic!("not on a server: {other:?}"),
        }
        Ok(())
    }

    pub(super) fn make_whole(&mut self, db: &DbUid) {
        self.beside = Folder {
            content: Content::Cluster,
            whole: true,
            data: Data {
                owner: db.clone(),
                system: format!("{SYSTEM}{db}"),
                timeline: 1,
                lsn: 100,
                clean: true,
                ..Data::default()
            },
            ..Folder::default()
        };
    }

    pub(super) fn restore_whole(&mut self, db: &DbUid, standby: bool) {
        self.beside = Folder {
            content: Content::Cluster,
            whole: true,
            identity: Some(db.clone()),
            signal: standby,
            recovery_signal: !standby,
            data: Data {
                owner: db.clone(),
                system: SYSTEM.to_owned(),
                timeline: 1,
                lsn: 700,
                ..Data::default()
            },
            ..Folder::default()
        };
    }

    pub(super) fn copy_whole(&mut self) {
        self.beside = Folder {
            content: Content::Cluster,
            whole: true,
            // A copy brings its source's identity along.
            identity: Some(DbUid::from("d2")),
            data: Data {
                owner: DbUid::from("d2"),
                system: SYSTEM.to_owned(),
                timeline: 2,
                lsn: self.source_lsn,
                roles: true,
                ..Data::default()
            },
            ..Folder::default()
        };
    }

    pub(super) fn set_identity(&mut self, place: Place, db: &DbUid) {
        if place == Place::Pgdata {
            let folder = &self.pgdata;
            let (data, source) = (&folder.data, self.source_lsn);
            assert!(folder.whole && data.clean, "claimed: {data:?}");
            assert!(data.lsn <= source, "claimed what is ahead of its source");
        }
        let folder = self.folder(place);
        folder.identity = Some(db.clone());
        folder.data.owner = db.clone();
    }

    pub(super) fn spawn(&mut self) {
        assert!(self.server.is_none(), "a second postmaster");
        assert!(!self.orphans, "started beside what is left of the last one");
        let folder = &self.pgdata;
        assert!(folder.whole, "started on {folder:?}");
        let config = folder
            .config
            .clone()
            .expect("started without configuration");
        let signals = match config.start {
            Start::Primary => (false, false),
            Start::Standby => (true, false),
            Start::Recovery => (false, true),
        };
        let found = (folder.signal, folder.recovery_signal);
        assert_eq!(signals, found, "half configured");
        let recovers = folder.recovery_signal;
        assert!(!recovers || folder.data.recoveries == 0, "recovered again");
        let writable = !folder.signal && !recovers;
        self.server = Some(Server {
            writable,
            ready_at: self.now + Duration::from_millis(100),
            recovers: !folder.data.clean,
            in_force: config,
            pending_restart: Vec::new(),
            promoted_at: recovers.then(|| self.now + Duration::from_millis(700)),
        });
        self.pgdata.data.clean = false;
        self.pgdata.data.interrupted = false;
    }

    /// PostgreSQL does not start a standby that has less than its primary had.
    pub(super) fn is_below_its_primary(&self) -> bool {
        let Some(server) = self.server.as_ref().filter(|server| !server.writable) else {
            return false;
        };
        let own = server.in_force.parameters.get("max_connections");
        own.is_some_and(|own| own.parse::<u64>().expect("a number") < self.pgdata.data.connections)
    }

    pub(super) fn stop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let recovering = server.recovers && server.ready_at > self.now;
        self.pgdata.data.interrupted = recovering;
        self.pgdata.data.clean = !recovering;
        if server.writable {
            self.writable_until = self.now;
        }
        self.inbox
            .push((self.now + Duration::from_millis(1), Event::PostmasterGone));
    }

    pub(super) fn kill_orphans(&mut self) {
        assert!(self.server.is_none(), "a running postmaster is killed");
        if self.orphans {
            // An orphan could commit until now.
            self.writable_until = self.now;
        }
        self.orphans = false;
    }
}

/// How a copy and a rewind end: whole data beside, that begin as a standby.
fn acts_of_whole_data(db: &DbUid) -> [Act; 4] {
    use Place::Beside;
    [
        Act::CopyWhole,
        Act::Clear(Beside),
        Act::Signal(Beside, true),
        Act::Identity(Beside, db.clone()),
    ]
}
