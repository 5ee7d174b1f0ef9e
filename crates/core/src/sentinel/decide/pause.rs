//! Times in which an operator wants nothing decided automatically (`stolonctl pause`).
//!
//! What is seen is still written down, what was begun is still brought to its end (proxies open to a
//! primary that was elected before, standbys follow it), commits still wait for standbys that stream, as
//! the specification has it, and what an operator asks for by name is done (`stolonctl failkeeper`). No
//! primary is replaced, no db is made or deleted, no keeper forgotten.

use super::Draft;
use crate::model::SentinelUid;
use crate::reason::Reason;

/// Whether nothing is to be decided automatically; it is said loudly.
pub(super) fn note(draft: &mut Draft<'_>) -> bool {
    let Some(pause) = &draft.view.asked.pause else {
        return false;
    };
    let reason = if pause.hindered_by.is_empty() {
        let text =
            "nothing is decided automatically: the cluster is paused (stolonctl resume ends it)";
        Reason::warn("paused", text).with("by", &pause.by)
    } else {
        let names: Vec<&str> = pause.hindered_by.iter().map(SentinelUid::as_str).collect();
        let text =
            "the cluster is to be paused and is not: these sentinels would not keep the pause";
        Reason::error("pause-hindered", text).with("sentinels", names.join(" "))
    };
    draft.because(reason.with("request", &pause.request));
    draft.view.asked.is_paused()
}
