//! What operators asked for, in the status.

use std::fmt::Write as _;

use serde_json::json;
use stolon_core::model::request::{Request, RequestKind, State};
use stolon_core::time::Timestamp;

use super::super::requests::wording;

/// What is shown of a request's state.
fn state(request: &Request, wall: Timestamp) -> (&'static str, String) {
    match request.state(wall) {
        State::Waiting => ("waiting", String::new()),
        State::Running => ("running", String::new()),
        State::Done => ("done", String::new()),
        State::Failed(keeper, reason) => ("failed", format!("keeper {keeper}: {reason}")),
        State::Ended => ("ended", format!("by {}", request.ended_by)),
        State::Expired => ("expired", "nobody began in time".to_owned()),
    }
}

/// The pause, loudly and before everything else; empty: there is none.
pub(super) fn pause(requests: &[Request], wall: Timestamp) -> String {
    let mut requests = requests.iter();
    let pause = requests.find(|r| r.kind == Some(RequestKind::Pause) && r.is_live(wall));
    pause.map_or(String::new(), |pause| {
        let why = if pause.why.is_empty() { String::new() } else { format!(" ({})", pause.why) };
        format!(
            "*** PAUSED since {} by {}{why}: nothing is decided automatically; stolonctl resume ends it ***\n\n",
            pause.asked_at, pause.asked_by
        )
    })
}

/// The section; empty: nobody asked for anything.
pub(super) fn render(requests: &[Request], wall: Timestamp) -> String {
    let mut text = String::new();
    for request in newest_first(requests) {
        let (state, reason) = state(request, wall);
        let _ = write!(text, "{} {}: {state}", request.id, wording(request));
        if !reason.is_empty() {
            let _ = write!(text, ", {reason}");
        }
        let _ = write!(text, " (asked {} by {}", request.asked_at, request.asked_by);
        if !request.why.is_empty() {
            let _ = write!(text, ": {}", request.why);
        }
        let _ = writeln!(text, ")");
    }
    text
}

/// The same for programs.
pub(super) fn render_json(requests: &[Request], wall: Timestamp) -> serde_json::Value {
    let one = |request: &Request| {
        let (state, reason) = state(request, wall);
        json!({
            "id": request.id,
            "kind": request.kind,
            "keepers": request.keepers,
            "state": state,
            "reason": reason,
            "asked_at": request.asked_at,
            "asked_by": request.asked_by,
            "why": request.why,
            "progress": request.progress,
        })
    };
    newest_first(requests).into_iter().map(one).collect()
}

fn newest_first(requests: &[Request]) -> Vec<&Request> {
    let mut sorted: Vec<&Request> = requests.iter().collect();
    sorted.sort_by_key(|request| std::cmp::Reverse((request.asked_at, request.id.clone())));
    sorted
}
