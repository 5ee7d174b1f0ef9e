//! What operators ask of this keeper, and what came of it.
//!
//! Nothing is remembered that the store or the instance does not show: a keeper that was killed in
//! the middle of a restart or a copy goes on where the facts are.

use super::facts::{Asked, Health};
use super::{Effect, Keeper};
use crate::model::request::{Progress, ProgressState, Request, RequestId, RequestKind};
use crate::model::{Db, KeeperUid};
use crate::time::Instant;
use std::time::Duration;

/// An instance that did not start so often after a restart that was asked for does not come back by
/// itself.
const MOST_STARTS: u32 = 3;

/// What could not be stored is tried again after this.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// What a keeper is about with requests.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// They are being read.
    pub(super) asking: bool,
    /// What is being read is from before this keeper told something.
    ask_outdated: bool,
    /// When they were read last.
    pub(super) last_asked: Option<Instant>,
    /// What came of a request, on its way to the store.
    noting: Option<(RequestId, Progress)>,
    pub(super) note_again_at: Option<Instant>,
    /// The requests for a reload that this life of the keeper has taken in.
    reloads: Vec<RequestId>,
}

impl Part {
    pub(super) fn ask_ended(&mut self, now: Instant) {
        self.asking = false;
        self.last_asked = Some(now);
    }
}

impl Keeper {
    /// False: there is nothing new in it.
    pub(super) fn take_asked(&mut self, now: Instant, asked: Asked) -> bool {
        self.part.ask_ended(now);
        if std::mem::take(&mut self.part.ask_outdated) {
            // It was read before what this keeper told last.
            self.part.last_asked = None;
            return true;
        }
        for request in &asked.requests {
            let is_new = !self.part.reloads.contains(&request.id);
            if is_new && is_for(request, RequestKind::Reload, &self.settings.uid, &asked) {
                self.part.reloads.push(request.id.clone());
                self.facts.applied = None;
            }
        }
        self.part
            .reloads
            .retain(|id| asked.requests.iter().any(|request| request.id == *id));
        let known = self.facts.asked.replace(asked);
        let said = |asked: Asked| (asked.requests, asked.peers);
        known.map(said) != self.facts.asked.clone().map(said) || self.takes_part()
    }

    /// Has the store told what came of a request, where it does not say so yet.
    pub(super) fn note_progress(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.part.noting.is_some() || self.part.note_again_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(asked) = &self.facts.asked else {
            return;
        };
        let live = asked
            .requests
            .iter()
            .filter(|request| request.is_live(asked.wall));
        let found = live.filter_map(|request| {
            let progress = self.progress(request)?;
            let known = request.progress_of(&self.settings.uid);
            let same = |known: &Progress| {
                known.state == progress.state && known.postmaster == progress.postmaster
            };
            let told = Progress {
                at: asked.wall,
                ..progress.clone()
            };
            (!known.is_some_and(same)).then(|| (request.id.clone(), told))
        });
        if let Some((request, progress)) = found.into_iter().next() {
            self.part.noting = Some((request.clone(), progress.clone()));
            self.part.ask_outdated = self.part.asking;
            effects.push(Effect::Note { request, progress });
        }
    }

    pub(super) fn take_noted(&mut self, now: Instant, stored: bool) {
        let noted = self.part.noting.take().filter(|_| stored);
        self.part.ask_outdated = self.part.asking;
        let asked = self.facts.asked.as_mut();
        if let Some(((id, progress), asked)) = noted.zip(asked) {
            let mut requests = asked.requests.iter_mut();
            if let Some(request) = requests.find(|request| request.id == id) {
                request.progress.insert(self.settings.uid.clone(), progress);
            }
        } else {
            self.part.last_asked = Some(now);
            self.part.note_again_at = Some(now.after(NOTE_PAUSE));
        }
    }

    /// What is to be told of a request; none: nothing yet.
    fn progress(&self, request: &Request) -> Option<Progress> {
        if !request.keepers.contains(&self.settings.uid) {
            return None;
        }
        let data = &self.document.as_ref()?.data;
        if data.db_of(&self.settings.uid).is_none() {
            return Some(Progress::failed("this keeper has no db"));
        }
        match request.kind.as_ref()? {
            RequestKind::Reload => self.reloaded(request),
            RequestKind::Restart => self.restarted(request),
            RequestKind::Resync => self.resynced(request),
            RequestKind::Pause | RequestKind::Unknown(_) => None,
        }
    }

    fn reloaded(&self, request: &Request) -> Option<Progress> {
        let is_done = self.part.reloads.contains(&request.id) && !self.needs_reload();
        is_done.then(|| Progress::new(ProgressState::Done))
    }

    fn restarted(&self, request: &Request) -> Option<Progress> {
        if !request.is_turn_of(&self.settings.uid) {
            return None;
        }
        let begun = restart_of(self.facts.asked.as_ref()?, &self.settings.uid);
        let begun = begun.filter(|(id, _)| **id == request.id);
        let Some((_, begun)) = begun else {
            let oldest = oldest_restart(self.facts.asked.as_ref()?)?;
            let running = self
                .facts
                .health
                .postmaster()
                .filter(|_| oldest.id == request.id)?;
            return Some(Progress {
                postmaster: running.to_owned(),
                ..Progress::new(ProgressState::Running)
            });
        };
        if self.facts.starts_failed >= MOST_STARTS {
            return Some(Progress::failed(
                self.facts.error.clone().unwrap_or_default(),
            ));
        }
        let is_new = self.facts.is_health_fresh
            && matches!(&self.facts.health, Health::Running(observation)
                if observation.postmaster != begun.postmaster
                    && (!observation.in_recovery || observation.streams_from.is_some()));
        is_new.then(|| Progress::new(ProgressState::Done))
    }

    fn resynced(&self, request: &Request) -> Option<Progress> {
        let data = &self.document.as_ref()?.data;
        let db = data.db_of(&self.settings.uid)?;
        if db.uid == request.db_uid {
            let is_primary = data.primary().is_some_and(|primary| primary.uid == db.uid);
            // The sentinel acts once this keeper knows that it is to copy.
            return Some(if is_primary {
                Progress::failed("its db is the primary now")
            } else {
                Progress::new(ProgressState::Known)
            });
        }
        // Other data have taken their place: a copy, or another cluster's, whose primary it may be.
        let is_there = self.holds_converged(db)
            && matches!(&self.facts.health, Health::Running(observation)
                if observation.streams_from.is_some() || !observation.in_recovery);
        Some(Progress::new(if is_there {
            ProgressState::Done
        } else {
            ProgressState::Running
        }))
    }

    fn holds_converged(&self, db: &Db) -> bool {
        let state = self.facts.disk.state.as_ref();
        state.is_some_and(|state| state.uid == db.uid && state.generation == db.generation)
    }
}

/// Whether a request of a kind is still to be carried out by a keeper.
fn is_for(request: &Request, kind: RequestKind, keeper: &KeeperUid, asked: &Asked) -> bool {
    let is_done = request.progress_of(keeper).is_some();
    request.kind == Some(kind)
        && request.is_live(asked.wall)
        && request.keepers.contains(keeper)
        && !is_done
}

/// Whether an operator wants the data of this db replaced by a copy, whatever they are.
pub(super) fn wants_copy(asked: &Asked, keeper: &KeeperUid, held: &str) -> bool {
    let mut requests = asked.requests.iter();
    requests.any(|request| {
        request.kind == Some(RequestKind::Resync)
            && request.is_live(asked.wall)
            && request.keepers.contains(keeper)
            && request.db_uid.as_str() == held
    })
}

/// The restart that is carried out now: one after the other, or two would restart at the same time.
pub(super) fn oldest_restart(asked: &Asked) -> Option<&Request> {
    let live = asked.requests.iter().filter(|request| {
        request.kind == Some(RequestKind::Restart) && request.is_live(asked.wall)
    });
    live.min_by_key(|request| (request.asked_at, &request.id))
}

/// The restart that it is a keeper's turn to do, which it has told that it begins.
pub(super) fn restart_of<'a>(
    asked: &'a Asked,
    keeper: &KeeperUid,
) -> Option<(&'a RequestId, &'a Progress)> {
    let request = oldest_restart(asked).filter(|request| request.is_turn_of(keeper))?;
    let begun = request.progress_of(keeper)?;
    (begun.state == ProgressState::Running).then_some((&request.id, begun))
}

/// Why no instance is to be restarted automatically now, whatever the others are about.
pub(super) fn holds_back(asked: &Asked) -> Option<&'static str> {
    if oldest_restart(asked).is_some() {
        return Some("an operator has instances restarted");
    }
    is_paused(asked).then_some("the cluster is paused")
}

/// Whether an operator has the cluster paused.
pub(super) fn is_paused(asked: &Asked) -> bool {
    let mut live = asked
        .requests
        .iter()
        .filter(|request| request.is_live(asked.wall));
    live.any(|request| request.kind == Some(RequestKind::Pause))
}
