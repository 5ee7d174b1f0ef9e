//! What operators ask of the sentinels.

use std::collections::BTreeMap;

use super::super::Look;
use crate::model::request::{FEATURE_REQUESTS, ProgressState, Request, RequestId, RequestKind};
use crate::model::{DbUid, SentinelUid};

/// The part of the requests that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The dbs whose data are to be copied anew, whose keepers know that they are to.
    pub resync: BTreeMap<DbUid, RequestId>,
    /// The pause that is asked for.
    pub pause: Option<Pause>,
}

/// A time in which nothing is to be decided automatically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The request.
    pub request: RequestId,
    /// Who asked for it.
    pub by: String,
    /// Sentinels that would not keep it: while there are any it is not in force.
    pub hindered_by: Vec<SentinelUid>,
}

impl Asked {
    /// What a look found.
    pub(super) fn new(look: &Look) -> Self {
        let of_kind = |kind: RequestKind| {
            let requests = look.requests.iter();
            requests.filter(move |r| r.kind.as_ref() == Some(&kind) && r.is_live(look.wall))
        };
        let is_known = |request: &&Request| {
            let mut keepers = request.keepers.iter();
            keepers.all(|keeper| {
                let progress = request.progress_of(keeper);
                let knows = [ProgressState::Known, ProgressState::Running];
                progress.is_some_and(|progress| knows.contains(&progress.state))
            })
        };
        let resync = of_kind(RequestKind::Resync)
            .filter(is_known)
            .map(|request| (request.db_uid.clone(), request.id.clone()));
        let lacks = look.sentinels.iter().filter(|info| {
            let mut features = info.features.iter();
            !features.any(|feature| feature == FEATURE_REQUESTS)
        });
        Self {
            resync: resync.collect(),
            pause: of_kind(RequestKind::Pause).next().map(|request| Pause {
                request: request.id.clone(),
                by: request.asked_by.clone(),
                hindered_by: lacks.map(|info| info.uid.clone()).collect(),
            }),
        }
    }

    /// Whether nothing is to be decided automatically now.
    pub fn is_paused(&self) -> bool {
        let pause = self.pause.as_ref();
        pause.is_some_and(|pause| pause.hindered_by.is_empty())
    }
}
