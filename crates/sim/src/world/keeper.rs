//! Keepers: core's state machine, with the shell that reads, looks, publishes and runs steps.

mod acts;
mod folders;
mod looks;
mod steps;

pub(crate) use looks::history;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::decide::Step;
use stolon_core::keeper::facts::{DbState, Outside as Answer, Process as Processes};
use stolon_core::keeper::{Effect, Event, Keeper, Outcome, Settings};
use stolon_core::model::request::ProgressState;
use stolon_core::model::{BootUuid, ClusterData, KeeperUid, PostgresVersion};
use stolon_core::time::Instant;

use super::calls::Purpose;
use super::event::{Actor, What};
use super::go::without_our_fields;
use super::past::{Known, Origin};
use super::postgres::Data;
use super::store::Operation;
use super::{Process, World};
use crate::chance::Chance;
use acts::{Act, Turn};

/// A step that is under way.
#[derive(Debug)]
struct Work {
    step: Step,
    acts: VecDeque<Act>,
    cancelled: bool,
    began: super::Time,
    /// The life of the server that is copied.
    source_life: Option<u32>,
}

/// A keeper with what it has on disk beside the data.
#[derive(Debug)]
pub(crate) struct KeeperNode {
    pub(crate) process: Process,
    core: Option<Keeper>,
    starts: u32,
    chance: Chance,
    /// `dbstate`.
    pub(crate) state: Option<DbState>,
    /// What it has read last, when that was asked for.
    pub(super) read: Option<(Instant, Origin, Arc<ClusterData>)>,
    pub(crate) known: Known,
    /// The start of it that it published last.
    pub(crate) published_as: BootUuid,
    work: Option<Work>,
    /// Data of another database system, put aside whole.
    kept: Vec<Data>,
    /// Whether it is one of the Go program.
    pub(crate) is_go: bool,
    /// What the server outside answered last, and when it was asked.
    outside: Option<(super::Time, Answer)>,
    /// When it published last.
    pub(super) published_at: Option<super::Time>,
    /// It sees the store no more for an operator's reason: it was removed, with its machine.
    pub(crate) retired: bool,
}

impl KeeperNode {
    /// A keeper that was not started.
    pub(crate) fn new(seed: u64, number: usize, is_go: bool) -> Self {
        Self {
            process: Process::default(),
            core: None,
            starts: 0,
            chance: Chance::of(seed, "keeper", number as u64),
            state: None,
            read: None,
            known: Known::default(),
            published_as: BootUuid::default(),
            work: None,
            kept: Vec::new(),
            is_go,
            outside: None,
            published_at: None,
            retired: false,
        }
    }

    /// The state machine, while the process runs.
    pub(crate) fn core(&self) -> Option<&Keeper> {
        self.core.as_ref().filter(|_| self.process.up)
    }
}

/// The name of a keeper.
pub(crate) fn keeper_uid(k: usize) -> KeeperUid {
    KeeperUid::new(format!("k{k}"))
}

fn settings(k: usize, starts: u32, authentication: &str) -> Settings {
    let address = format!("10.0.0.{}", k + 1);
    Settings {
        uid: keeper_uid(k),
        boot_uuid: BootUuid::new(format!("k{k}-boot{starts}")),
        version: "0".to_owned(),
        postgres_version: PostgresVersion {
            major: 15,
            minor: 0,
        },
        listen_address: address.clone(),
        port: 5432,
        advertise_address: address,
        advertise_port: 5432,
        socket_folder: "/tmp".to_owned(),
        superuser: ("postgres".to_owned(), authentication.to_owned()),
        replication_user: ("repl".to_owned(), "trust".to_owned()),
        requires_tls: false,
        can_be_master: true,
        can_be_synchronous_replica: true,
    }
}

impl World {
    pub(crate) fn start_keeper(&mut self, k: usize) {
        if self.keepers[k].is_go {
            self.stop_at_start(k);
        }
        let server = self.instances[k].server.as_ref();
        let process = match server.map(|server| server.orphaned) {
            Some(false) => Processes::Adopted,
            Some(true) => Processes::Leftovers,
            None => Processes::None,
        };
        if process == Processes::Adopted {
            self.note("adopted");
        }
        let disk = self.inspect(k);
        let now = self.local(Actor::Keeper(k));
        // A rewind needs a superuser with a password.
        let rewinds = self.plan.shape.spec.use_pgrewind == Some(true);
        let authentication = if rewinds { "md5" } else { "trust" };
        let node = &mut self.keepers[k];
        node.starts += 1;
        node.work = None;
        node.core = Some(Keeper::new(
            settings(k, node.starts, authentication),
            now,
            disk,
            process,
        ));
        self.keeper_hears(k, Event::StoreChanged);
    }

    /// Hands an event to the state machine and carries out what it wants. It may be killed between
    /// any two effects.
    pub(crate) fn keeper_hears(&mut self, k: usize, event: Event) {
        let actor = Actor::Keeper(k);
        let now = self.local(actor);
        let Some(core) = self.keepers[k].core.as_mut() else {
            return;
        };
        let effects = core.handle(now, event);
        let document = core
            .document()
            .map(|document| (document.revision, document.sent_at));
        if let Some((revision, sent_at)) = document {
            let node = &mut self.keepers[k];
            if let Some((_, origin, data)) = node.read.take_if(|(at, _, _)| *at == sent_at) {
                node.known.take(origin, &data);
            }
            if let Some((origin, _)) = node.known.taken.as_ref().filter(|_| !effects.is_empty()) {
                let incarnation = origin.incarnation;
                self.check_order(actor, incarnation, revision);
            }
        }
        for effect in effects {
            self.keeper_effect(k, effect);
            if self.may_crash(actor) {
                return;
            }
        }
    }

    fn keeper_effect(&mut self, k: usize, effect: Effect) {
        let actor = Actor::Keeper(k);
        match effect {
            Effect::Read => {
                let sent_at = self.local(actor);
                self.call(actor, Purpose::Read(sent_at), Operation::Get);
            }
            Effect::Observe => self.observe(k),
            Effect::Run(step) => self.begin_step(k, *step),
            Effect::Cancel => {
                if let Some(work) = self.keepers[k].work.as_mut() {
                    work.cancelled = true;
                    let soon = self.now + Duration::from_millis(2);
                    let life = self.keepers[k].process.life;
                    self.queue.put(soon, What::Act(k, life));
                }
            }
            Effect::Publish(info, ttl) => {
                if !self.is_publication_due(k) {
                    return;
                }
                let mut info = *info;
                if self.keepers[k].is_go {
                    info = without_our_fields(info);
                }
                info.info_uid = self.info_uid();
                self.keepers[k].published_as = info.boot_uuid.clone();
                self.tamper_with_report(k, &mut info);
                let operation = Operation::PublishKeeper(Arc::new(info), self.now + ttl);
                self.call(actor, Purpose::Publish, operation);
            }
            Effect::Ask { peers } => self.call(actor, Purpose::Ask(peers), Operation::Asked),
            Effect::Note { request, progress } => {
                self.note(match progress.state {
                    ProgressState::Done => "request-done",
                    _ => "request-begun",
                });
                let operation = Operation::Note(keeper_uid(k), request, progress);
                self.call(actor, Purpose::Note, operation);
            }
            Effect::Log(reason) => self.take_reason(actor, &reason),
            Effect::WakeAt(at) => self.wake_at(actor, at),
        }
    }

    fn begin_step(&mut self, k: usize, step: Step) {
        self.say(|| format!("k{k} does: {}", steps::name_of(&step)));
        self.check_permission(k, &step);
        self.check_boot_rule(k, &step);
        self.check_replacement(k, &step);
        let acts = self.acts_of(k, &step);
        self.keepers[k].work = Some(Work {
            step,
            acts,
            cancelled: false,
            began: self.now,
            source_life: None,
        });
        self.next_act(k, Duration::from_millis(1));
    }

    fn next_act(&mut self, k: usize, pause: Duration) {
        let life = self.keepers[k].process.life;
        self.queue.put(self.now + pause, What::Act(k, life));
    }

    /// The next small change of the step under way.
    pub(crate) fn work_on(&mut self, k: usize) {
        let Some(work) = self.keepers[k].work.as_mut() else {
            return;
        };
        if work.cancelled {
            self.end_step(k, None);
            return;
        }
        let Some(act) = work.acts.front().cloned() else {
            self.end_step(k, None);
            return;
        };
        match self.act(k, &act) {
            Ok(Turn::Done) => {
                let pause = self.keepers[k].chance.millis(0, 6);
                let Some(work) = self.keepers[k].work.as_mut() else {
                    return;
                };
                work.acts.pop_front();
                let is_over = work.acts.is_empty();
                if self.may_crash(Actor::Keeper(k)) {
                    return;
                }
                if is_over {
                    self.end_step(k, None);
                } else {
                    self.next_act(k, pause);
                }
            }
            Ok(Turn::Again(pause)) => self.next_act(k, pause),
            Err(why) => self.end_step(k, Some(why)),
        }
    }

    fn end_step(&mut self, k: usize, error: Option<&str>) {
        let Some(work) = self.keepers[k].work.take() else {
            return;
        };
        let disk = self.inspect(k);
        let cancelled = work.cancelled && !work.acts.is_empty();
        let outcome = match (error, &work.step) {
            _ if cancelled => Outcome::Cancelled(disk),
            (Some(error), _) => {
                self.say(|| format!("k{k} fails: {error}"));
                Outcome::Failed(error.to_owned(), disk)
            }
            (None, Step::Start { .. }) => Outcome::Started(disk),
            (None, _) => Outcome::Done(disk),
        };
        let life = self.keepers[k].process.life;
        let what = What::Keeper(k, life, Box::new(Event::StepEnded(outcome)));
        self.queue.put(self.now, what);
    }

    /// The keeper's process is gone; children that copy go with it.
    pub(crate) fn forget_keeper(&mut self, k: usize) {
        let node = &mut self.keepers[k];
        node.core = None;
        node.work = None;
        node.read = None;
        node.outside = None;
    }

    /// The disk of a keeper is lost.
    pub(crate) fn lose_data(&mut self, k: usize) {
        self.keepers[k].state = None;
        self.keepers[k].kept.clear();
        self.instances[k].pgdata = super::postgres::Folder::default();
        self.instances[k].beside = super::postgres::Folder::default();
    }

    /// All data on a keeper's disk that are whole.
    pub(crate) fn whole_data(&self, k: usize) -> impl Iterator<Item = &Data> {
        let instance = &self.instances[k];
        let folders = [instance.pgdata.data.as_ref(), instance.beside.data.as_ref()];
        folders.into_iter().flatten().chain(&self.keepers[k].kept)
    }
}
