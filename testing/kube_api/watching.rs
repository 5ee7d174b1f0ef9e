//! Watches: the state first where no version is asked for, then every change, bookmarks when they
//! are wanted, and an end when it is due.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::World;
use super::objects::Event;
use super::request::{Request, is_true};
use super::status::Status;

/// How often a watch that wants bookmarks gets one; a real server's is a minute.
const BOOKMARKS: Duration = Duration::from_secs(2);
/// How long a watch lasts that does not say.
const LASTS: Duration = Duration::from_mins(30);

/// One line of the answer.
fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({ "type": kind, "object": object })
        .to_string()
        .into_bytes();
    line.push(b'\n');
    line
}

/// Sends what a watch is to see, until it ends or nobody listens.
pub(crate) async fn serve(
    world: Arc<World>,
    request: Request,
    shape: fn(Value) -> Value,
    lines: mpsc::Sender<Vec<u8>>,
) {
    let seconds = request
        .parameter("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let end = Instant::now()
        + seconds
            .filter(|seconds| *seconds > 0)
            .map_or(LASTS, Duration::from_secs);
    let bookmarks = request
        .parameter("allowWatchBookmarks")
        .is_some_and(is_true);
    let mut changed = world.changed.subscribe();
    let mut frozen = world.frozen.subscribe();
    let (first, mut seen) = match begin(&world, &request) {
        Ok(begun) => begun,
        Err(status) => {
            let _ = lines.send(line("ERROR", &status.to_json())).await;
            return;
        }
    };
    for object in first {
        if lines.send(line("ADDED", &shape(object))).await.is_err() {
            return;
        }
    }
    let mut next_bookmark = Instant::now() + BOOKMARKS;
    loop {
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        changed.mark_unchanged();
        let (later, now) = {
            let objects = world.objects();
            (objects.since(request.kind, seen), objects.version)
        };
        match later {
            Ok(events) => {
                for event in events {
                    seen = event.version;
                    if let Some((kind, object)) = visible(&request, event)
                        && lines.send(line(kind, &shape(object))).await.is_err()
                    {
                        return;
                    }
                }
            }
            Err(status) => {
                let _ = lines.send(line("ERROR", &status.to_json())).await;
                return;
            }
        }
        seen = seen.max(now);
        let is_over = Instant::now() >= end;
        if bookmarks && (is_over || Instant::now() >= next_bookmark) {
            next_bookmark = Instant::now() + BOOKMARKS;
            let bookmark = json!({
                "kind": request.kind.kind, "apiVersion": request.kind.api_version(),
                "metadata": { "resourceVersion": seen.to_string(), "creationTimestamp": null },
            });
            if lines.send(line("BOOKMARK", &bookmark)).await.is_err() {
                return;
            }
        }
        if is_over {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(end.min(next_bookmark)) => {}
            () = lines.closed() => return,
        }
    }
}

/// The objects that a watch begins with, and the version that it goes on from.
fn begin(world: &World, request: &Request) -> Result<(Vec<Value>, u64), Status> {
    let objects = world.objects();
    match request.version()? {
        // 0 is any version, and the present one is one.
        None | Some(0) => {
            let present = objects
                .all(request.kind)
                .filter(|object| request.selects(object));
            Ok((present.cloned().collect(), objects.version))
        }
        Some(version) => {
            objects.since(request.kind, version)?;
            Ok((Vec::new(), version))
        }
    }
}

/// What a watch sees of a change: an object that comes to be selected is new to it, and one that
/// ceases to be is gone.
fn visible(request: &Request, event: Event) -> Option<(&'static str, Value)> {
    let version = event.version.to_string();
    let before = event.before.filter(|object| request.selects(object));
    let after = event.after.filter(|object| request.selects(object));
    match (before, after) {
        (None, Some(object)) => Some(("ADDED", object)),
        (Some(_), Some(object)) => Some(("MODIFIED", object)),
        (Some(mut object), None) => {
            object["metadata"]["resourceVersion"] = version.into();
            Some(("DELETED", object))
        }
        (None, None) => None,
    }
}
