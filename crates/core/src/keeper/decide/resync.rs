//! A standby whose data are not here yet: taken over as they are where they are a prefix of the
//! source's history, rewound where that is wanted and possible, copied beside the old ones otherwise
//! (I7, scenario A3).

use super::super::facts::{Content, Control};
use super::super::requests::wants_copy;
use super::rewind::{self, Verdict};
use super::unusable::MOST_FAILED_STARTS;
use super::{Decision, Follow, Patience, Situation, Step, act, wait};
use crate::model::{Db, DbUid, Lsn};
use crate::reason::Reason;

/// The next step towards a standby's data.
pub(super) fn make(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    if facts.process.is_running() {
        let why = "the data are to be those of a standby of the present primary".to_owned();
        let patience = Patience::Short;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    if facts.disk.beside.as_ref() == Some(&db.uid) {
        return act(Step::Swap { db: db.uid.clone() }, Vec::new());
    }
    let source = match source(situation, db) {
        Ok(source) => source,
        Err(reason) => return wait(reason),
    };
    let relation = match relation_that_counts(situation, source) {
        Ok(relation) => relation,
        Err(reason) => return wait(reason),
    };
    if relation == Relation::Prefix {
        let text = "the local data are a prefix of the primary's history: no copy is needed";
        let reason = Reason::info("clean-prefix", text).with("db", &db.uid);
        return act(Step::Claim { db: db.uid.clone() }, vec![reason]);
    }
    // The source is the primary, healthy, and has worked in what it was told: it has every commit
    // that was acknowledged.
    let primary = situation.document.data.primary();
    let is_primary = primary.is_some_and(|primary| primary.uid == source.uid);
    let may_discard = is_primary
        && source.status.healthy
        && source.status.current_generation == source.generation
        && !facts.disk.of_other_cluster;
    let mut reasons = Vec::new();
    if is_primary && relation == Relation::Other {
        match rewind::consider(situation, db, source, may_discard) {
            Verdict::Now(step, reason) => return act(step, vec![reason]),
            Verdict::Later(reason) => return wait(reason),
            Verdict::No(reason) => reasons.extend(reason),
        }
    }
    let text = "copying the primary's data beside the old ones";
    let reason = Reason::info("copying", text).with("source", &source.uid);
    let reason = reason.with("host", &source.status.listen_address);
    reasons.push(reason.with("port", &source.status.port));
    let copy = Step::Copy {
        db: db.uid.clone(),
        source: follow(db, source),
        may_discard,
    };
    act(copy, reasons)
}

/// The db to follow, when it can be copied from now.
fn source<'a>(situation: &Situation<'a>, db: &Db) -> Result<&'a Db, Reason> {
    let follows = db
        .spec
        .follow_config
        .as_ref()
        .map(|follow| follow.db_uid.clone());
    let waiting = |text: &str| {
        let source = follows.clone().unwrap_or_default();
        Err(Reason::info("no-source", text).with("source", source))
    };
    let found = follows
        .as_ref()
        .and_then(|uid| situation.document.data.dbs.get(uid));
    let Some(source) = found else {
        return waiting("the db to copy from does not exist");
    };
    if source.status.listen_address.is_empty() || !source.status.healthy {
        return waiting("waiting for the db to copy from to be healthy");
    }
    if !source.spec.followers.contains(&db.uid) {
        return waiting("waiting for the db to copy from to know of this standby");
    }
    Ok(source)
}

pub(super) fn follow(db: &Db, source: &Db) -> Follow {
    Follow {
        name: DbUid::replication_name(&db.uid),
        host: source.status.listen_address.clone(),
        port: source.status.port.clone(),
    }
}

/// How the local data are to the source's history, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// Everything in the local WAL is in it: the instance can follow as it is.
    Prefix,
    /// The same, and the source has removed what comes next.
    PrefixWithoutWal,
    /// It left it, or that cannot be ruled out.
    Other,
    /// It does not matter: an operator wants them replaced by a copy.
    Unwanted,
}

fn relation_that_counts(situation: &Situation<'_>, source: &Db) -> Result<Relation, Reason> {
    // Whoever asked for a copy may have asked a moment ago.
    let Some(asked) = &situation.facts.asked else {
        let text = "reading what operators ask for before anything is copied";
        return Err(Reason::debug("reading-requests", text));
    };
    let held = situation.facts.disk.state.as_ref().map(|state| &state.uid);
    let keeper = &situation.settings.uid;
    if held.is_some_and(|held| wants_copy(asked, keeper, held.as_str())) {
        return Ok(Relation::Unwanted);
    }
    Ok(relation(situation, source))
}

/// Only data at rest whose end is known are trusted: those of a clean stop.
fn relation(situation: &Situation<'_>, source: &Db) -> Relation {
    let disk = &situation.facts.disk;
    let Some(control) = disk
        .control
        .as_ref()
        .filter(|_| disk.content == Content::Cluster)
    else {
        return Relation::Other;
    };
    let initializing = disk.state.as_ref().is_none_or(|state| state.initializing);
    // As they are no instance starts on them.
    if situation.facts.starts_failed >= MOST_FAILED_STARTS {
        return Relation::Other;
    }
    if initializing || control.system_id != source.status.system_id {
        return Relation::Other;
    }
    if disk.of_other_cluster && control.timeline >= source.status.timeline_id {
        // The source may have begun from an older copy, and gone on without what is here.
        return Relation::Other;
    }
    if control.shut_down && control.timeline >= source.status.timeline_id {
        // Who ran as a primary on its timeline follows nobody who runs on the same.
        return Relation::Other;
    }
    let is_prefix = match branch_point(control, source) {
        // The shutdown checkpoint is the last record: whoever has more than its beginning has it.
        Some(point) if control.shut_down => point > control.checkpoint,
        // A primary that was stopped while it recovered from a crash says so too, and nothing of
        // where its WAL ends.
        Some(point) if control.shut_down_in_recovery && disk.standby_signal => {
            control.min_recovery > Lsn::UNKNOWN && point >= control.min_recovery
        }
        Some(_) | None => false,
    };
    // What follows is to come from the source, which may have removed it. More may lie in the local
    // WAL than is known here: then a copy is made that was not needed.
    let end = control.checkpoint.max(control.min_recovery);
    match is_prefix {
        true if end < source.status.oldest_wal => Relation::PrefixWithoutWal,
        true => Relation::Prefix,
        false => Relation::Other,
    }
}

/// Up to where the source's history is the local timeline; none: it is not part of it.
fn branch_point(control: &Control, source: &Db) -> Option<Lsn> {
    let status = &source.status;
    let before = crate::model::TimelineId(control.timeline.0.saturating_sub(1));
    let switch = |history: &[crate::model::TimelineSwitch], timeline| {
        history
            .iter()
            .find(|s| s.timeline_id == timeline)
            .map(|switch| switch.switch_point)
    };
    if control.timeline > status.timeline_id {
        return None;
    }
    // Two timelines of one number may have begun at different points.
    let (ours, theirs) = (
        switch(&control.history, before),
        switch(&status.timelines_history, before),
    );
    if control.timeline.0 > 1 && ours != theirs {
        return None;
    }
    if control.timeline == status.timeline_id {
        return Some(status.xlog_pos);
    }
    switch(&status.timelines_history, control.timeline)
}

#[cfg(test)]
mod tests {
    use super::{Control, Db, Lsn, branch_point};
    use crate::model::{TimelineId, TimelineSwitch};
    use std::collections::BTreeMap;

    fn switches(points: &[(u64, u64)]) -> Vec<TimelineSwitch> {
        let switch = |(timeline, point): &(u64, u64)| TimelineSwitch {
            timeline_id: TimelineId(*timeline),
            switch_point: Lsn(*point),
            ..TimelineSwitch::default()
        };
        points.iter().map(switch).collect()
    }

    #[test]
    fn a_timeline_is_the_sources_only_if_both_began_it_at_one_point() {
        let check = |(timeline, ours): (u64, &[(u64, u64)]), theirs, expected: Option<u64>| {
            let control = Control {
                timeline: TimelineId(timeline),
                history: switches(ours),
                system_id: String::new(),
                shut_down: true,
                shut_down_in_recovery: false,
                in_archive_recovery: false,
                logs_all_changes: true,
                checkpoint: Lsn(90),
                min_recovery: Lsn::UNKNOWN,
                least_parameters: BTreeMap::new(),
            };
            let mut source = Db::default();
            source.status.timeline_id = TimelineId(3);
            source.status.xlog_pos = Lsn(900);
            source.status.timelines_history = switches(theirs);
            let found = branch_point(&control, &source);
            assert_eq!(found, expected.map(Lsn), "{control:?}");
        };
        check((1, &[]), &[(1, 100), (2, 200)], Some(100));
        check((2, &[(1, 100)]), &[(1, 100), (2, 200)], Some(200));
        check((2, &[(1, 150)]), &[(1, 100), (2, 200)], None);
        check((3, &[(1, 100), (2, 200)]), &[(1, 100), (2, 200)], Some(900));
        check((3, &[(1, 100), (2, 250)]), &[(1, 100), (2, 200)], None);
        check((4, &[(3, 300)]), &[(2, 200)], None);
    }
}
