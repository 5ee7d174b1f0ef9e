//! What operators ask the daemons for, as `stolonctl` does it, and how it gets on in the store.

use std::sync::Arc;

use stolon_core::keeper::Event;
use stolon_core::keeper::facts::Asked;
use stolon_core::model::request::{Progress, Request, RequestId, RequestKind, State};
use stolon_core::model::{KeeperInfo, KeeperUid};

use super::World;
use super::event::Actor;
use super::keeper::keeper_uid;
use super::store::Store;
use crate::plan::Wish;

impl Store {
    /// A keeper tells what came of a request.
    pub(super) fn note_progress(
        &mut self,
        keeper: &KeeperUid,
        id: &RequestId,
        progress: &Progress,
    ) {
        let mut requests = self.requests.iter_mut();
        if let Some(request) = requests.find(|request| request.id == *id) {
            request.progress.insert(keeper.clone(), progress.clone());
        }
    }
}

impl World {
    /// An operator asks for something; false: `stolonctl` refuses it.
    pub(super) fn take_wish(&mut self, wish: &Wish) -> bool {
        let Some((_, data)) = self.store.data.clone() else {
            return false;
        };
        let wall = self.clock_of(Actor::Client(0)).wall(self.now);
        let is_live = |kind: RequestKind, request: &Request| {
            request.kind == Some(kind) && request.is_live(wall)
        };
        let primary = data.primary();
        let mut request = Request {
            id: RequestId::new(format!("r{}", self.store.requests.len())),
            asked_at: wall,
            ..Request::default()
        };
        match wish {
            Wish::Restart(k) => {
                let all = data.dbs.values().map(|db| db.spec.keeper_uid.clone());
                let wanted = all.filter(|uid| k.is_none_or(|k| *uid == keeper_uid(k)));
                request.keepers = wanted.collect();
                let last = primary.map(|db| db.spec.keeper_uid.clone());
                request
                    .keepers
                    .sort_by_key(|uid| (Some(uid) == last.as_ref(), uid.clone()));
                request.keepers.dedup();
                if request.keepers.is_empty() {
                    return false;
                }
                request.kind = Some(RequestKind::Restart);
                let mut requests = self.store.requests.iter();
                if requests.any(|request| is_live(RequestKind::Restart, request)) {
                    return false;
                }
            }
            Wish::Resync(k) => {
                let db = data.db_of(&keeper_uid(*k));
                let Some(db) = db.filter(|db| primary.is_some_and(|p| p.uid != db.uid)) else {
                    return false;
                };
                request.db_uid = db.uid.clone();
                request.keepers = vec![keeper_uid(*k)];
                request.kind = Some(RequestKind::Resync);
            }
            Wish::Pause => request.kind = Some(RequestKind::Pause),
        }
        // Who does not know of requests would never carry it out: `stolonctl` names them.
        let lacks = |k: &usize| {
            self.keepers[*k].is_go && request.keepers.iter().any(|uid| *uid == keeper_uid(*k))
        };
        if (0..self.keepers.len()).any(|k| lacks(&k)) {
            return false;
        }
        self.store.requests.push(request);
        true
    }

    /// An operator ends every pause.
    pub(super) fn resume(&mut self) {
        let wall = self.clock_of(Actor::Client(0)).wall(self.now);
        for request in &mut self.store.requests {
            if request.kind == Some(RequestKind::Pause) && request.ended_at.is_zero() {
                request.ended_at = wall;
            }
        }
        self.wake_watchers(false);
    }

    pub(super) fn keeper_is_told(
        &mut self,
        k: usize,
        told: Option<(Vec<Request>, Vec<Arc<KeeperInfo>>)>,
        peers: bool,
    ) {
        let wall = self.clock_of(Actor::Keeper(k)).wall(self.now);
        let event = told.map_or(Event::AskFailed, |(requests, infos)| {
            let infos = infos.iter().map(|info| KeeperInfo::clone(info));
            let knows = !self.keepers[k].is_go;
            Event::Asked(Box::new(Asked {
                wall,
                requests: if knows { requests } else { Vec::new() },
                peers: peers.then(|| infos.collect()),
            }))
        });
        self.keeper_hears(k, event);
    }

    /// A request that is at no end and should be: all that it waits for is well.
    pub(crate) fn request_unmet(&self) -> Option<String> {
        let wall = self.clock_of(Actor::Client(0)).wall(self.now);
        let (_, data) = self.store.data()?;
        let primary = data.primary()?;
        let is_there = |uid: &KeeperUid| {
            let mut keepers = 0..self.keepers.len();
            keepers.any(|k| keeper_uid(k) == *uid && !self.keepers[k].retired)
        };
        let waits = |request: &&Request| {
            // Commits wait for it, and it for somebody to take its place.
            let is_needed = primary.spec.synchronous_standbys.contains(&request.db_uid);
            let has_dbs = request.keepers.iter().all(|uid| data.db_of(uid).is_some());
            matches!(request.state(wall), State::Waiting | State::Running)
                && !is_needed
                && has_dbs
                && request.keepers.iter().all(is_there)
        };
        let found = self.store.requests.iter().find(waits)?;
        Some(format!(
            "request {} has not come to an end: {found:?}",
            found.id
        ))
    }
}
