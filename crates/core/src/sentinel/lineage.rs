//! Whether one copy of the data is an earlier state of another, as far as the reports tell (I3).
//!
//! Every promotion begins a new timeline. A copy's history is the list of timelines that lead to its
//! own, each with the position at which it was left; reports carry the last two, and those of our
//! primaries many more (PostgreSQL manual, "Timelines"). Our promotions begin no number that another
//! primary may have begun (ADR 11); those of the Go program may.

use std::cmp::Ordering;

use crate::model::{Db, DbStatus, Generation, Lsn, TimelineId};

/// What the reports say of a copy beside the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// It can follow: nothing in it is not in the primary's history.
    Follows,
    /// It has WAL that the primary's history does not.
    Forked,
    /// The reports do not reach back far enough, or there are none.
    Unknown,
}

/// How `db` relates to `source`, the primary.
pub(crate) fn lineage(source: &Db, db: &Db) -> Lineage {
    if db.status.current_generation == Generation::NONE {
        return Lineage::Unknown;
    }
    let (ours, theirs) = (&db.status.system_id, &source.status.system_id);
    if !ours.is_empty() && !theirs.is_empty() && ours != theirs {
        return Lineage::Forked;
    }
    let (db_path, source_path) = (Path::of(&db.status), Path::of(&source.status));
    // One whose data are gone tells no generation any more: what it told last stands.
    let reached = source.status.current_generation;
    let reported = reached == source.generation || reached == Generation::NONE;
    if !reported && db_path.timeline > source_path.timeline {
        // The primary was promoted and lost before it could report that: who follows it is ahead of
        // what it last said, and has all of it.
        return source_path.within(&db_path);
    }
    db_path.within(&source_path)
}

/// Whether `db` is known to have left the history of `source`.
pub(crate) fn is_forked(source: &Db, db: &Db) -> bool {
    lineage(source, db) == Lineage::Forked
}

/// Whether `db` received more than the history of `source` holds, and has replayed none of that.
///
/// A primary that dies sends half a record last. Its standbys received it and cannot replay it; where
/// one of them is promoted, the half record is dropped, and the others drop it when they follow.
pub(crate) fn may_drop_what_is_more(source: &Db, db: &Db, replayed: Lsn) -> bool {
    let mut as_replayed = db.clone();
    as_replayed.status.xlog_pos = replayed;
    replayed != Lsn::UNKNOWN && is_forked(source, db) && !is_forked(source, &as_replayed)
}

/// A timeline, the position on it, and the last switches that led to it, by number.
struct Path {
    timeline: TimelineId,
    position: Lsn,
    switches: Vec<(TimelineId, Lsn)>,
}

/// As many switches as every report carries: fewer are all there are.
const REPORTED_SWITCHES: usize = 2;

impl Path {
    fn of(status: &DbStatus) -> Self {
        let switches = status.timelines_history.iter();
        let mut switches: Vec<_> = switches.map(|s| (s.timeline_id, s.switch_point)).collect();
        switches.sort();
        Self {
            timeline: status.timeline_id,
            position: status.xlog_pos,
            switches,
        }
    }

    /// Whether `later` goes on from this path.
    fn within(&self, later: &Self) -> Lineage {
        let unknown = TimelineId::default();
        if self.timeline == unknown || later.timeline == unknown {
            return Lineage::Unknown;
        }
        match self.timeline.cmp(&later.timeline) {
            Ordering::Greater => Lineage::Forked,
            Ordering::Equal => self.came_by(&later.switches),
            Ordering::Less => self.left_in_time(later),
        }
    }

    /// Whether this path came to its timeline by `switches`, as far back as both are known.
    fn came_by(&self, switches: &[(TimelineId, Lsn)]) -> Lineage {
        let both = self.switches.iter().rev().zip(switches.iter().rev());
        if both.into_iter().all(|(ours, theirs)| ours == theirs) {
            Lineage::Follows
        } else {
            Lineage::Forked
        }
    }

    /// This path's timeline must be one that `later` came through, and left at or after our position.
    fn left_in_time(&self, later: &Self) -> Lineage {
        let mut known = later.switches.iter().enumerate();
        if let Some((index, (_, left_at))) = known.find(|(_, s)| s.0 == self.timeline) {
            let before = later.switches.get(..index).unwrap_or_default();
            return if self.position > *left_at {
                Lineage::Forked
            } else {
                self.came_by(before)
            };
        }
        // It is not among the switches that are known: `later` went past it, or came
        // through it before what is known.
        match later.switches.first() {
            None => Lineage::Unknown,
            Some((first, point)) => {
                let complete = later.switches.len() < REPORTED_SWITCHES;
                // Whatever came before the first known switch ended at or before it.
                if self.timeline > *first || complete || self.position > *point {
                    Lineage::Forked
                } else {
                    Lineage::Unknown
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lineage, REPORTED_SWITCHES, lineage};
    use crate::model::{Db, Generation, Lsn, TimelineId, TimelineSwitch};
    use proptest::prelude::*;

    /// A copy as it truly is: the timelines it came through, told apart by who began them, each
    /// with the position it goes to.
    #[derive(Debug, Clone)]
    struct Copy(Vec<(usize, u64, u64)>);

    impl Copy {
        fn last(&mut self) -> &mut (usize, u64, u64) {
            self.0.last_mut().expect("a timeline")
        }

        fn report(&self) -> Db {
            let (last, before) = self.0.split_last().expect("a timeline");
            let mut db = Db {
                generation: Generation(3),
                ..Db::default()
            };
            db.status.current_generation = Generation(3);
            db.status.timeline_id = TimelineId(last.1);
            db.status.xlog_pos = Lsn(last.2);
            let known = before.iter().rev().take(REPORTED_SWITCHES).rev();
            db.status.timelines_history = known
                .map(|(_, timeline, end)| TimelineSwitch {
                    timeline_id: TimelineId(*timeline),
                    switch_point: Lsn(*end),
                    ..TimelineSwitch::default()
                })
                .collect();
            db
        }

        /// Whether this is an earlier state of `other`, which may be ahead on its last timeline.
        fn is_within(&self, other: &Self) -> bool {
            let depth = self.0.len();
            let (Some(ours), Some(theirs)) = (self.0.last(), other.0.get(depth - 1)) else {
                return false;
            };
            let open = other.0.len() == depth;
            self.0[..depth - 1] == other.0[..depth - 1]
                && ours.0 == theirs.0
                && (open || ours.2 <= theirs.2)
        }
    }

    /// Three copies of one cluster after things happened to them: written to, promoted, following.
    fn copies() -> impl Strategy<Value = Vec<Copy>> {
        let deed = (0..3_usize, 0..3_usize, 0..3_usize, 1..40_u64);
        proptest::collection::vec(deed, 0..25).prop_map(|deeds| {
            let mut copies = vec![Copy(vec![(0, 1, 100)]); 3];
            for (number, (copy, other, deed, bytes)) in deeds.into_iter().enumerate() {
                match deed {
                    0 => copies[copy].last().2 += bytes,
                    1 => {
                        let (_, timeline, at) = *copies[copy].last();
                        // Sometimes a number is passed over, that of a history file seen.
                        let next = timeline + 1 + u64::from(bytes > 30);
                        copies[copy].0.push((number + 1, next, at + bytes));
                    }
                    _ => {
                        if copies[copy].is_within(&copies[other]) {
                            let own = *copies[copy].last();
                            let source = copies[other].clone();
                            copies[copy] = source;
                            let ours = copies[copy].last();
                            if ours.0 == own.0 {
                                ours.2 = ours.2.max(own.2);
                            }
                        }
                    }
                }
            }
            copies
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_said_of_a_lineage_is_true(copies in copies()) {
            for source in &copies {
                for copy in &copies {
                    let said = lineage(&source.report(), &copy.report());
                    let follows = copy.is_within(source);
                    prop_assert!(said != Lineage::Forked || !follows, "{copy:?} of {source:?}");
                    // What reports cannot tell: promotions to one number from one parent at one
                    // position, and what lies before the switches that are known.
                    if said == Lineage::Follows && !follows {
                        prop_assert!(looks_alike(source, copy), "{copy:?} of {source:?}");
                    }
                    if said == Lineage::Unknown {
                        prop_assert!(source.0.len() > REPORTED_SWITCHES + 1, "{copy:?} of {source:?}");
                    }
                }
            }
        }
    }

    /// Whether a fork cannot be seen in the reports: both went the same way by number and position
    /// as far as both tell.
    fn looks_alike(source: &Copy, copy: &Copy) -> bool {
        let (source, copy) = (source.report().status, copy.report().status);
        let mut way = source.timelines_history.clone();
        way.push(TimelineSwitch {
            timeline_id: source.timeline_id,
            switch_point: Lsn(u64::MAX),
            ..TimelineSwitch::default()
        });
        let Some(at) = way.iter().position(|s| s.timeline_id == copy.timeline_id) else {
            return false;
        };
        let shared = way[..at]
            .iter()
            .rev()
            .zip(copy.timelines_history.iter().rev());
        way[at].switch_point >= copy.xlog_pos && shared.into_iter().all(|(a, b)| a == b)
    }
}
