//! What members published, and how old it is at the most.
//!
//! Publications carry no time that another host could trust. What a read shows and the one before it
//! did not was published after that one was sent: so much is certain by this host's clock alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::report::FEATURE_READS;
use crate::model::{
    ClusterData, Db, InfoUid, KeeperInfo, KeeperUid, Lsn, PostgresState, SentinelInfo, TimelineId,
};
use crate::time::Instant;

/// The most positions of primaries that are remembered; the oldest ones are forgotten first.
const LONGEST_TRAIL: usize = 256;

/// What members published, as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reports {
    /// Of the keepers.
    pub keepers: Vec<KeeperInfo>,
    /// Of the sentinels.
    pub sentinels: Vec<SentinelInfo>,
}

/// What is remembered of it.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the last read was sent.
    read_at: Option<Instant>,
    keepers: BTreeMap<KeeperUid, Word>,
    sentinels: Vec<SentinelInfo>,
    trail: VecDeque<Mark>,
}

/// What a keeper published last.
#[derive(Debug)]
struct Word {
    info_uid: InfoUid,
    state: Option<PostgresState>,
    /// It was published after this; none: nobody knows when.
    since: Option<Instant>,
}

/// Where a primary was, at this moment or after it.
#[derive(Debug)]
struct Mark {
    timeline: TimelineId,
    lsn: Lsn,
    at: Instant,
}

/// How far a standby is behind what is known of its primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag {
    pub(super) bytes: u64,
    /// Its primary was no further than it at this moment or later; none: not for as long as is known.
    pub(super) level_at: Option<Instant>,
}

impl Heard {
    /// Takes in what was read by a read sent at `sent_at`; positions count for as long as `keep`.
    pub(super) fn note(
        &mut self,
        sent_at: Instant,
        reports: Reports,
        data: Option<&ClusterData>,
        keep: Duration,
    ) {
        let cluster = data.and_then(|data| data.cluster.as_ref());
        let ours = |info: &KeeperInfo| cluster.is_some_and(|own| own.uid == info.cluster_uid);
        let primary = data.and_then(ClusterData::primary);
        let before = std::mem::take(&mut self.keepers);
        for info in reports.keepers.into_iter().filter(ours) {
            let known = before
                .get(&info.uid)
                .map(|word| (&word.info_uid, word.since));
            let since = match known {
                Some((uid, since)) if *uid == info.info_uid => since,
                Some(_) | None => self.read_at,
            };
            if let (Some(at), Some(state)) = (since, &info.postgres_state)
                && primary.is_some_and(|primary| primary.uid == state.uid)
                && state.healthy
            {
                self.mark(at, state);
            }
            let word = Word {
                info_uid: info.info_uid,
                state: info.postgres_state,
                since,
            };
            self.keepers.insert(info.uid, word);
        }
        self.sentinels = reports.sentinels;
        self.read_at = Some(sent_at);
        let is_old = |mark: &Mark| sent_at.since(mark.at) > keep;
        while self.trail.len() > LONGEST_TRAIL || self.trail.front().is_some_and(is_old) {
            self.trail.pop_front();
        }
    }

    /// Notes where a primary was. One that rests is there again.
    fn mark(&mut self, at: Instant, state: &PostgresState) {
        let mark = Mark {
            timeline: state.timeline_id,
            lsn: state.xlog_pos,
            at,
        };
        match self.trail.back_mut() {
            Some(last) if last.timeline == mark.timeline && last.lsn == mark.lsn => {
                last.at = last.at.max(at);
            }
            Some(_) | None if mark.lsn == Lsn::UNKNOWN => {}
            Some(_) | None => self.trail.push_back(mark),
        }
    }

    /// Forgets it all: the cluster data are of another history than what was published.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// When the last read that was answered was sent.
    pub(super) const fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    /// The sentinels that would promote a standby without asking whether clients read from it.
    pub(super) fn careless_sentinels(&self) -> impl Iterator<Item = &SentinelInfo> {
        let cares = |info: &SentinelInfo| info.features.iter().any(|name| name == FEATURE_READS);
        self.sentinels.iter().filter(move |info| !cares(info))
    }

    /// What its keeper published of a db, and after which moment.
    pub(super) fn state(&self, db: &Db) -> Option<(&PostgresState, Instant)> {
        let word = self.keepers.get(&db.spec.keeper_uid)?;
        let state = word.state.as_ref().filter(|state| state.uid == db.uid)?;
        Some((state, word.since?))
    }

    /// How far one that has replayed up to `replayed` is behind; none: nothing is known of a primary of
    /// its timeline.
    pub(super) fn lag(&self, timeline: TimelineId, replayed: Lsn) -> Option<Lag> {
        let of_timeline = self.trail.iter().filter(|mark| mark.timeline == timeline);
        let furthest = of_timeline.clone().map(|mark| mark.lsn).max()?;
        let passed = of_timeline.filter(|mark| mark.lsn <= replayed);
        Some(Lag {
            bytes: furthest.bytes_ahead_of(replayed),
            level_at: passed.map(|mark| mark.at).max(),
        })
    }
}
