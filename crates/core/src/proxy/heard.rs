//! What members published, and how old it is at the most.
//!
//! Publications carry no time that another host could trust. What a read shows and the one before it
//! did not was published after that one was sent: so much is certain by this host's clock alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::report::FEATURE_READS;
use crate::model::{
    ClusterData, ClusterUid, Db, InfoUid, KeeperInfo, KeeperUid, Lsn, PostgresState, SentinelInfo,
    SentinelUid, TimelineId,
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
    /// A sentinel is there that names a standby before it is promoted.
    cares: bool,
    /// Those that do not, and the revision of the cluster data when each was seen last.
    careless: BTreeMap<SentinelUid, u64>,
    trail: VecDeque<Mark>,
}

/// What a keeper published last.
#[derive(Debug)]
struct Word {
    info_uid: InfoUid,
    cluster: ClusterUid,
    state: Option<PostgresState>,
    /// It was published after this; none: nobody knows when.
    since: Option<Instant>,
}

impl Word {
    /// What it says was so at this moment or later: it was published after `since`, and old by then.
    fn seen_at(&self) -> Option<Instant> {
        let since = self.since?;
        let Some(instance) = &self.state.as_ref()?.instance else {
            // One of the Go program, which tells nothing that a standby could be judged by.
            return Some(since);
        };
        let age = Duration::from_millis(instance.looked_ago_millis?);
        Some(Instant::from_boot(since.since_boot().saturating_sub(age)))
    }
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
        (data, revision): (Option<&ClusterData>, u64),
        keep: Duration,
    ) {
        // Also those that are not of this cluster, or not yet known to be: how old one is, is known only
        // of who was there to see it come.
        let before = std::mem::take(&mut self.keepers);
        for info in reports.keepers {
            let known = before
                .get(&info.uid)
                .map(|word| (&word.info_uid, word.since));
            let since = match known {
                Some((uid, since)) if *uid == info.info_uid => since,
                Some(_) | None => self.read_at,
            };
            let word = Word {
                info_uid: info.info_uid,
                cluster: info.cluster_uid,
                state: info.postgres_state,
                since,
            };
            self.keepers.insert(info.uid, word);
        }
        self.mark_primary(data);
        self.note_sentinels(reports.sentinels, revision);
        self.read_at = Some(sent_at);
        let is_old = |mark: &Mark| sent_at.since(mark.at) > keep;
        while self.trail.len() > LONGEST_TRAIL || self.trail.front().is_some_and(is_old) {
            self.trail.pop_front();
        }
    }

    /// Notes where the primary was. One that rests is there again.
    fn mark_primary(&mut self, data: Option<&ClusterData>) {
        let primary = data.and_then(ClusterData::primary);
        let told = primary.and_then(|primary| self.state(data?, primary));
        // The Go program does not say how old what it tells is: its standbys are judged by nothing.
        let told = told.filter(|(state, _)| state.healthy && state.instance.is_some());
        let Some((state, at)) = told else {
            return;
        };
        let (timeline, lsn) = (state.timeline_id, state.xlog_pos);
        let mark = Mark { timeline, lsn, at };
        match self.trail.back_mut() {
            Some(last) if last.timeline == mark.timeline && last.lsn == mark.lsn => {
                last.at = last.at.max(mark.at);
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

    /// Notes which sentinels there are. One that is careless may be frozen between what it decided and
    /// its writing it: it counts until a document is there that somebody wrote after it was seen last.
    fn note_sentinels(&mut self, sentinels: Vec<SentinelInfo>, revision: u64) {
        let cares = |info: &SentinelInfo| info.features.iter().any(|name| name == FEATURE_READS);
        let (caring, careless): (Vec<_>, Vec<_>) = sentinels.into_iter().partition(cares);
        self.cares = !caring.is_empty();
        let seen = careless.into_iter().map(|info| (info.uid, revision));
        self.careless.retain(|_, seen_at| *seen_at >= revision);
        self.careless.extend(seen);
    }

    /// Why a standby might be promoted without a word while clients read from it; none: it is not.
    pub(super) fn danger(&self) -> Option<String> {
        let names: Vec<&str> = self.careless.keys().map(SentinelUid::as_str).collect();
        if !names.is_empty() {
            let names = names.join(" ");
            return Some(format!(
                "sentinels that promote a standby while clients read from it are running: {names}"
            ));
        }
        let nobody =
            || "no sentinel is running that names a standby before it is promoted".to_owned();
        (!self.cares).then(nobody)
    }

    /// What its keeper published of a db, and at or after which moment that was so.
    pub(super) fn state(&self, data: &ClusterData, db: &Db) -> Option<(&PostgresState, Instant)> {
        let cluster = data.cluster.as_ref()?;
        let word = self.keepers.get(&db.spec.keeper_uid);
        let word = word.filter(|word| word.cluster == cluster.uid)?;
        let state = word.state.as_ref().filter(|state| state.uid == db.uid)?;
        Some((state, word.seen_at()?))
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
