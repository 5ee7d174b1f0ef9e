//! Data that cannot be served: gone, another db's, or such as no instance starts on (scenarios B9,
//! C13). The keeper tells; a standby's the sentinel replaces, where nobody needs them any more.

use super::super::facts::{Content, Disk, Facts, Health};
use super::{Decision, Patience, Situation, Step, act, holds, wait};
use crate::model::{Db, InitMode, Role};
use crate::reason::Reason;

/// So many starts in a row must lead nowhere before a standby's data count as unusable.
pub(crate) const MOST_FAILED_STARTS: u32 = 3;
/// Where data were made anew and no instance started on them either, it is not the data: a copy costs
/// the primary much, and the next one waits for so many times as many failed starts. With the longest
/// pause between two starts that is some minutes, then more than an hour.
const MORE_EACH_TIME: u32 = 16;

/// Why the data of a standby cannot be used any more: its keeper asks for others.
pub(crate) fn unusable(facts: &Facts, db: &Db) -> Option<String> {
    if db.spec.role != Some(Role::Standby) {
        return None;
    }
    let is_to_be_there = matches!(db.spec.init_mode, Some(InitMode::None) | None);
    if is_to_be_there && facts.disk.content != Content::Cluster && !facts.process.is_running() {
        return Some("its data are gone".to_owned());
    }
    if !holds(facts, &db.uid) || facts.starts_failed < most_starts(facts) {
        return None;
    }
    let error = facts.error.clone().unwrap_or_default();
    Some(format!("it does not start: {error}"))
}

/// So many failed starts in a row are too many now.
pub(super) fn most_starts(facts: &Facts) -> u32 {
    let factor = MORE_EACH_TIME.saturating_pow(facts.made_anew);
    MOST_FAILED_STARTS.saturating_mul(factor)
}

/// What the source of a standby answers that asks for WAL which is not there any more (PostgreSQL's
/// `walsender.c` and `xlogreader.c`, versions 12 to 18, untranslated).
const REMOVED: &str = "has already been removed";

/// Why an instance that starts as a standby never ends that: the WAL it asks for is gone, and no archive
/// had it before it asked.
pub(crate) fn lacks_wal<'a>(disk: &Disk, health: &'a Health) -> Option<&'a str> {
    let Health::Starting(why) = health else {
        return None;
    };
    (disk.standby_signal && why.contains(REMOVED)).then_some(why)
}

/// What is there is not the db assigned, and nothing says that it is to be made.
pub(super) fn refuse(situation: &Situation<'_>, db: &Db) -> Decision {
    let facts = situation.facts;
    let keeper = &situation.settings.uid;
    let reason = if facts.disk.content == Content::Cluster {
        let held = facts.disk.state.as_ref().map(|state| state.uid.clone());
        let text = format!(
            "the data here are not those of the db assigned, and it is not to be initialised: not \
             starting (stolonctl removekeeper {keeper} lets it begin anew)"
        );
        let reason = Reason::error("foreign-data", text);
        reason.with("found", held.unwrap_or_default())
    } else if db.spec.role == Some(Role::Standby) {
        let text = format!(
            "the data of this standby are gone: the sentinel has them copied anew when no commit \
             waits for it (stolonctl removekeeper {keeper} does so at once)"
        );
        Reason::error("data-gone", text)
    } else {
        let text = "the data of the primary are gone: nothing is initialised in their place; a \
                    standby takes over, or somebody brings the data back";
        Reason::error("data-gone", text)
    };
    let reason = reason.with("db", &db.uid);
    if facts.process.is_running() {
        let why = "the data are not those of the db assigned".to_owned();
        let patience = Patience::Long;
        return act(Step::Stop { why, patience }, vec![reason]);
    }
    wait(reason)
}
