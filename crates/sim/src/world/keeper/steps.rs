//! Steps: the small changes they are made of, in the daemon's order, and their names in a story.

use std::collections::VecDeque;

use stolon_core::keeper::decide::{Start, Step};
use stolon_core::model::{DbUid, Lsn, TimelineId};

use super::acts::{Act, Place};
use crate::world::World;
use crate::world::outside::server_at;
use crate::world::proxy::keeper_at;

fn acts_of_restore(db: &DbUid) -> Vec<Act> {
    vec![
        Act::Clear(None),
        Act::Remove(Place::Beside),
        Act::MakePart,
        Act::Restore,
        Act::SignalBeside,
        Act::Identity(Place::Beside, db.clone()),
    ]
}

impl World {
    /// What a step does, in the order in which the daemon does it.
    pub(super) fn acts_of(&self, k: usize, step: &Step) -> VecDeque<Act> {
        let acts = match step {
            Step::SaveState(state) => {
                vec![Act::Disown(state.clone()), Act::SaveState(state.clone())]
            }
            Step::Initialize { db, .. } => vec![
                Act::Clear(None),
                Act::Remove(Place::Beside),
                Act::MakePart,
                Act::MakeWhole,
                Act::Identity(Place::Beside, db.clone()),
            ],
            Step::Copy {
                db,
                source,
                may_discard,
            } => {
                let from = keeper_at(&source.host).unwrap_or(k);
                self.acts_of_copy(k, db, (from, &source.name), *may_discard)
            }
            Step::Rewind { db, source, .. } => {
                let from = keeper_at(&source.host).unwrap_or(k);
                self.acts_of_rewind(k, db, from)
            }
            Step::Restore { db, .. } => acts_of_restore(db),
            Step::FromOutside {
                db,
                conninfo,
                rewind,
                ..
            } => self.acts_from_outside(k, db, conninfo, *rewind),
            Step::Swap { .. } => vec![Act::Swap],
            Step::Discard => vec![Act::Clear(Some(k)), Act::Remove(Place::Beside)],
            Step::Claim { db } | Step::TakeOver { db, standby: false } => {
                vec![Act::Identity(Place::Pgdata, db.clone())]
            }
            Step::TakeOver { db, standby: true } => vec![
                Act::Signal(true),
                Act::TakeOver,
                Act::Identity(Place::Pgdata, db.clone()),
            ],
            Step::Configure(wanted) => {
                let last = if self.instances[k].has_postmaster() {
                    Act::Reload
                } else {
                    Act::Signal(wanted.start == Start::Standby)
                };
                vec![Act::Write(wanted.clone()), last]
            }
            Step::Start { .. } => vec![Act::Spawn],
            Step::Checkpoint => vec![],
            Step::Stop { .. } => vec![Act::BeginStop, Act::AwaitStop],
            Step::KillAll => vec![Act::KillOrphans],
            Step::SetUpRoles => vec![Act::Ask],
            Step::Slots {
                drop,
                create,
                advance,
            } => acts_of_slots(drop, create, advance),
            Step::Stir => vec![Act::Ask, Act::Stir],
            Step::Promote { slots, taken } => self.acts_of_promotion(slots, taken),
            // Core does it itself.
            Step::Release { .. } => Vec::new(),
        };
        acts.into()
    }

    fn acts_of_promotion(&self, slots: &[String], taken: &[TimelineId]) -> Vec<Act> {
        let create = slots.iter().cloned().map(Act::CreateSlot);
        let taken = taken.iter().map(|timeline| timeline.0).max();
        let taken = taken.filter(|_| !self.reuses_timelines());
        taken
            .map(Act::PassOver)
            .into_iter()
            .chain([Act::Ask])
            .chain(create)
            .chain([Act::Ask, Act::Promote])
            .collect()
    }

    fn acts_of_copy(
        &self,
        k: usize,
        db: &DbUid,
        source: (usize, &str),
        may_discard: bool,
    ) -> Vec<Act> {
        let mut acts = vec![
            Act::Connect(source.0),
            Act::Clear(Some(source.0)),
            Act::Remove(Place::Beside),
            Act::MakeRoom(may_discard),
            Act::CopyPart(source.0, source.1.to_owned()),
        ];
        if self.instances[k].ailments.copies_fail > 0 {
            acts.push(Act::Fail("the copy broke off"));
            return acts;
        }
        acts.extend([
            Act::CopyWhole(source.0),
            Act::SignalBeside,
            Act::Identity(Place::Beside, db.clone()),
        ]);
        acts
    }

    /// As [`Self::acts_of_copy`] and [`Self::acts_of_rewind`], without a slot there.
    fn acts_from_outside(&self, k: usize, db: &DbUid, conninfo: &str, rewind: bool) -> Vec<Act> {
        let Some(from) = server_at(conninfo) else {
            return vec![Act::Fail("there is no such server outside")];
        };
        let mut acts = if rewind {
            self.acts_of_rewind(k, db, from)
        } else {
            self.acts_of_copy(k, db, (from, ""), false)
        };
        let what = if rewind {
            "source-rewound-to"
        } else {
            "source-copied"
        };
        acts.push(Act::Note(what));
        acts
    }

    /// From the move to where copies are made on, until all is well, what lies there counts as
    /// destroyed, whatever happens (ADR 12).
    fn acts_of_rewind(&self, k: usize, db: &DbUid, source: usize) -> Vec<Act> {
        let mut acts = vec![
            Act::Connect(source),
            Act::Clear(Some(source)),
            Act::Remove(Place::Beside),
            Act::BeginRewind,
        ];
        if self.instances[k].ailments.copies_fail > 0 {
            acts.push(Act::Fail("the rewind failed half way"));
            return acts;
        }
        acts.extend([
            Act::CopyWhole(source),
            Act::SignalBeside,
            Act::Identity(Place::Beside, db.clone()),
        ]);
        acts
    }
}

fn acts_of_slots(drop: &[String], create: &[String], advance: &[(String, Lsn)]) -> Vec<Act> {
    let drop = drop.iter().cloned().map(Act::DropSlot);
    let create = create.iter().cloned().map(Act::CreateSlot);
    let advance = advance.iter().cloned();
    std::iter::once(Act::Ask)
        .chain(drop)
        .chain(create)
        .chain(advance.map(|(name, to)| Act::AdvanceSlot(name, to.0)))
        .collect()
}

/// A step in words.
pub(super) fn name_of(step: &Step) -> String {
    match step {
        Step::SaveState(state) => {
            let making = if state.initializing {
                ", being made"
            } else {
                ""
            };
            format!("note {} generation {}{making}", state.uid, state.generation)
        }
        Step::Initialize { db, .. } => format!("initdb for {db}"),
        Step::Copy { db, source, .. } => format!("copy {} for {db}", source.host),
        Step::Rewind { db, source, .. } => format!("rewind to {} for {db}", source.host),
        Step::Restore { db, .. } => format!("restore {db}"),
        Step::FromOutside { db, .. } => format!("take {db} from outside"),
        Step::Swap { db } => format!("put {db} in place"),
        Step::Discard => "remove the old copy".to_owned(),
        Step::Claim { db } => format!("claim the data for {db}"),
        Step::TakeOver { db, .. } => format!("take the data over for {db}"),
        Step::Configure(wanted) => {
            let names = wanted.parameters.get("synchronous_standby_names");
            let names = names.cloned().unwrap_or_default();
            match &wanted.follow {
                Some(follow) => format!("configure to follow {}", follow.host),
                None => format!("configure as primary, names [{names}]"),
            }
        }
        Step::Start { db } => format!("start {db}"),
        Step::Checkpoint => "write a checkpoint".to_owned(),
        Step::Stop { why, .. } => format!("stop: {why}"),
        Step::KillAll => "end what is left".to_owned(),
        Step::SetUpRoles => "make the roles".to_owned(),
        Step::Slots {
            drop,
            create,
            advance,
        } => format!("slots +{create:?} -{drop:?} >{advance:?}"),
        Step::Stir => "write a little WAL".to_owned(),
        Step::Promote { .. } => "promote".to_owned(),
        Step::Release { .. } => "release".to_owned(),
    }
}
