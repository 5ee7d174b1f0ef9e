//! Running the first instance of a standby cluster: itself a standby, of a server outside, which the
//! other members of the cluster follow.

use super::super::facts::{Content, Observation};
use super::super::requests::{holds_back, is_paused};
use super::{
    Decision, Patience, Situation, Step, Wanted, act, converged, listen, not_admitted, parameters,
    restart, settled, slots, standby, until_it_speaks, unusable, wait,
};
use crate::model::{Db, FollowType, Role};
use crate::reason::Reason;

/// The last major version that takes another source only at a start (PostgreSQL 13 release notes:
/// `primary_conninfo` changes by reload).
const RESTART_TO_FOLLOW: i64 = 12;

const CONNINFO: &str = "primary_conninfo";

/// Whether a db is to follow a server outside the cluster.
pub(super) fn follows_outside(db: &Db) -> bool {
    let follow = db.spec.follow_config.as_ref();
    db.spec.role == Some(Role::Standby)
        && follow.is_some_and(|follow| follow.follow_type == Some(FollowType::External))
}

/// The next step of the first instance of a standby cluster.
pub(super) fn serve(situation: &Situation<'_>, db: &Db) -> Decision {
    if !situation.admitted {
        return wait(not_admitted());
    }
    let facts = situation.facts;
    let follow = db.spec.follow_config.clone().unwrap_or_default();
    let wanted = parameters::wanted_external(situation, db, &follow);
    if !wanted.recovery.contains_key(CONNINFO)
        && !wanted.recovery.contains_key("restore_command")
        && !wanted.parameters.contains_key("restore_command")
    {
        let text = "the standby cluster has no source: standbySettings.primaryConninfo or \
                    archiveRecoverySettings.restoreCommand has to name one";
        return wait(Reason::error("no-source", text).with("db", &db.uid));
    }
    let running = facts.process.is_running();
    let applied = facts.applied.as_ref();
    if running
        && situation.settings.postgres_version.major <= RESTART_TO_FOLLOW
        && applied.is_some_and(|applied| applied.recovery != wanted.recovery)
    {
        let why = "this version of PostgreSQL takes another source only at a start".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, Vec::new());
    }
    if applied != Some(&wanted) {
        return act(Step::Configure(Box::new(wanted)), Vec::new());
    }
    if !running {
        return at_rest(situation, db, conninfo(&wanted));
    }
    settle(situation, db)
}

/// Where the server outside is, as the spec says it.
pub(crate) fn conninfo(wanted: &Wanted) -> Option<&String> {
    wanted.recovery.get(CONNINFO)
}

/// The next step of an instance that was stopped, perhaps for other data to take the place of its own.
///
/// One that knows of a timeline which began before where it is does not start any more (PostgreSQL:
/// "requested timeline does not contain minimum recovery point"): data that no instance starts on are
/// replaced too, as those of other standbys are (scenario C13).
fn at_rest(situation: &Situation<'_>, db: &Db, conninfo: Option<&String>) -> Decision {
    let facts = situation.facts;
    let why = match unusable::most_starts(facts) {
        _ if facts.has_parted => "its history has parted from its source's",
        most if facts.starts_failed >= most => "it does not start",
        _ => return act(Step::Start { db: db.uid.clone() }, Vec::new()),
    };
    let Some(conninfo) = conninfo else {
        return act(Step::Start { db: db.uid.clone() }, Vec::new());
    };
    if has_copy(situation, db, conninfo) {
        return act(Step::Swap { db: db.uid.clone() }, Vec::new());
    }
    let rewind = facts.has_parted && may_rewind(situation, db);
    let how = if rewind {
        "rewinding it"
    } else {
        "copying its source beside it"
    };
    let text = format!("the first instance of the standby cluster is replaced, since {why}: {how}");
    let reason = Reason::warn("source-parted", text).with("db", &db.uid);
    act(from_outside(db, conninfo, rewind), vec![reason])
}

/// Whether a finished copy of the server outside waits to take the place of the data. One that an earlier
/// life of the keeper left there may as well be what was replaced: it is made anew.
fn has_copy(situation: &Situation<'_>, db: &Db, conninfo: &String) -> bool {
    let facts = situation.facts;
    facts.copied_from.as_ref() == Some(conninfo) && facts.disk.beside.as_ref() == Some(&db.uid)
}

fn from_outside(db: &Db, conninfo: &str, rewind: bool) -> Step {
    Step::FromOutside {
        db: db.uid.clone(),
        conninfo: conninfo.to_owned(),
        // A server of another one is a mistake in the settings, whatever became of the data.
        system_id: db.status.system_id.clone(),
        rewind,
    }
}

/// Whether the data are to be taken back into the history of the server outside. One try is enough: the
/// readers of this cluster wait for it. Where there are other members one of those would take the place of
/// an instance that is stopped for as long as a rewind takes, and have left that history as well.
fn may_rewind(situation: &Situation<'_>, db: &Db) -> bool {
    let facts = situation.facts;
    let tried = facts.rewinds_failed.as_ref();
    let control = facts.disk.control.as_ref();
    db.spec.use_pgrewind
        && db.spec.followers.is_empty()
        && tried.is_none_or(|(tried, _)| *tried != db.uid)
        && control.is_none_or(|control| control.logs_all_changes && control.shut_down_in_recovery)
}

/// The next step where the data are gone, or gave their place up for a rewind that was broken off. None:
/// that is not so, or they are no copy of what a server outside has.
///
/// Of a standby cluster nothing is lost by a copy: the server outside has every commit that it
/// acknowledged. A cluster that was made its own master has data that nobody else has, and does not come
/// here: its db is a primary's.
pub(super) fn make_again(situation: &Situation<'_>, db: &Db) -> Option<Decision> {
    let facts = situation.facts;
    let disk = &facts.disk;
    let primary = situation.document.data.primary();
    let is_clusters = primary.is_some_and(|primary| primary.uid == db.uid);
    if !follows_outside(db) || !is_clusters || disk.content == Content::Cluster {
        return None;
    }
    let told = |how: &str| {
        format!("the data of the first instance of the standby cluster are gone: {how}")
    };
    let warn = |how: &str| Reason::warn("data-gone", told(how)).with("db", &db.uid);
    if facts.process.is_running() {
        let why = "its data are gone".to_owned();
        let patience = Patience::Short;
        return Some(act(Step::Stop { why, patience }, vec![warn("stopping it")]));
    }
    // Whole, and a copy of that server in any case: it streams, or is found to have left its history.
    if disk.beside.as_ref() == Some(&db.uid) {
        return Some(act(Step::Swap { db: db.uid.clone() }, Vec::new()));
    }
    let follow = db.spec.follow_config.clone().unwrap_or_default();
    let wanted = parameters::wanted_external(situation, db, &follow);
    let Some(conninfo) = conninfo(&wanted) else {
        let text = told(
            "no standbySettings.primaryConninfo names a server to copy them from. Name one (stolonctl \
             update), or begin the cluster anew from a backup (stolonctl init --replace-cluster)",
        );
        return Some(wait(Reason::error("data-gone", text).with("db", &db.uid)));
    };
    let was_here = disk.state.as_ref().is_some_and(|state| state.uid == db.uid);
    if was_here && disk.content == Content::Nothing && disk.beside.is_some() {
        return Some(act(from_outside(db, conninfo, false), Vec::new()));
    }
    if let Some(why) = held_back(situation, db) {
        return Some(wait(warn(&format!("they are not copied now, since {why}"))));
    }
    let reason = warn("its source is copied in their place");
    Some(act(from_outside(db, conninfo, false), vec![reason]))
}

/// Why data that are gone are not copied from outside yet.
fn held_back(situation: &Situation<'_>, db: &Db) -> Option<&'static str> {
    let facts = situation.facts;
    match &facts.asked {
        None => Some("what operators ask for is not known yet"),
        Some(asked) if is_paused(asked) => Some("the cluster is paused"),
        // It has them all, and the others can follow it as they are.
        Some(_) if !db.spec.followers.is_empty() && !facts.are_gone_for_long => {
            Some("another member takes its place first, if one can")
        }
        Some(_) => None,
    }
}

/// What is to be done about data whose history has parted from that of the server outside: they are
/// replaced by that one's (scenarios C3, C11).
///
/// A copy is made while the instance goes on serving what it has; a rewind needs it stopped. What is
/// replaced goes when the new data stream (I7: the server outside has every commit that it acknowledged;
/// what only this cluster has was never acknowledged by it, or its operators gave it up).
fn part(situation: &Situation<'_>, db: &Db, why: &str, reasons: &mut Vec<Reason>) -> Option<Step> {
    let facts = situation.facts;
    let held = match &facts.asked {
        None => Some("what operators ask for is not known yet"),
        Some(asked) => holds_back(asked),
    };
    let text = format!("the standby cluster cannot follow its source any more: {why}");
    let mut tell = |more: &str| {
        let reason = Reason::warn("source-parted", format!("{text}: {more}"));
        reasons.push(reason.with("db", &db.uid));
    };
    if !facts.has_parted {
        tell("its data are replaced if it stays so for failInterval");
        return None;
    }
    if let Some(held) = held {
        tell(&format!("its data are not replaced now, since {held}"));
        return None;
    }
    let conninfo = conninfo(facts.applied.as_ref()?)?;
    let is_ready = has_copy(situation, db, conninfo);
    if is_ready || may_rewind(situation, db) {
        let how = if is_ready {
            "replaced by a copy"
        } else {
            "rewound"
        };
        tell(&format!("its data are {how}"));
        return Some(Step::Stop {
            why: "its history has parted from its source's".to_owned(),
            patience: Patience::Long,
        });
    }
    tell("its source is copied beside its data");
    Some(from_outside(db, conninfo, false))
}

/// Why data are not an earlier state of those of the server outside; none: they are, or it is not known.
///
/// Only a server that is known to be writable counts: another one may merely be behind. One of another
/// database system is a mistake in the settings, and nothing that a copy would mend.
pub(crate) fn parted(seen: &Observation) -> Option<String> {
    let source = seen.source.as_ref().filter(|source| source.is_writable)?;
    if !seen.in_recovery || source.system_id != seen.system_id || seen.streams_from.is_some() {
        return None;
    }
    let (own, theirs, at) = (seen.timeline, source.timeline, source.replayed_before);
    if own > theirs {
        return Some(format!(
            "it is on timeline {own}, and its source on {theirs}"
        ));
    }
    if own == theirs {
        let both = seen.history.iter().rev().zip(source.history.iter().rev());
        let same = both.into_iter().all(|(ours, theirs)| {
            (ours.timeline_id, ours.switch_point) == (theirs.timeline_id, theirs.switch_point)
        });
        if !same {
            return Some(format!(
                "both are on timeline {own}, and came to it by other ones"
            ));
        }
        let is_ahead = at > source.flush_lsn;
        let text = format!(
            "it has replayed {at}, and its source ends at {}",
            source.flush_lsn
        );
        return is_ahead.then_some(text);
    }
    let left = source
        .history
        .iter()
        .find(|switch| switch.timeline_id == own);
    match left.map(|switch| switch.switch_point) {
        None => Some(format!("its timeline {own} is not in its source's history")),
        Some(left_at) => (at > left_at).then(|| {
            format!("it has replayed {at}, and its source left timeline {own} at {left_at}")
        }),
    }
}

fn settle(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    let observation = match listen(situation) {
        Ok(observation) => observation,
        Err(why) => return until_it_speaks(why),
    };
    if !observation.in_recovery {
        return standby::promoted_by_hand(db);
    }
    let mut reasons = Vec::new();
    if let Some(step) = restart::due(situation, db, observation, &mut reasons) {
        return act(step, reasons);
    }
    let conninfo = facts.applied.as_ref().and_then(conninfo);
    let streams = observation.streams_from.is_some() || conninfo.is_none();
    // Those who follow it copy it through their slots.
    if let Some(step) = slots::of_source(situation, db, observation) {
        return act(step, reasons);
    }
    if let Some(step) = converged(facts, db) {
        return act(step, reasons);
    }
    if let Some(why) = parted(observation) {
        if let Some(step) = part(situation, db, &why, &mut reasons) {
            return act(step, reasons);
        }
    } else if !streams {
        let text = "the first instance of the standby cluster does not stream from its source: \
                    PostgreSQL's own log says why";
        reasons.push(Reason::warn("source-not-streaming", text).with("db", &db.uid));
    } else if facts.disk.beside.is_some() {
        // The data are proven by what they are for: what they replaced may go.
        return act(Step::Discard, reasons);
    }
    settled(reasons)
}
