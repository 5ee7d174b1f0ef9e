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

/// Nobody listens any more, or the watch had to be ended.
struct Over;

/// A watch on its way.
struct Watching {
    request: Request,
    shape: fn(Value) -> Value,
    lines: mpsc::Sender<Vec<u8>>,
    end: Instant,
    /// When the next bookmark is due, of a watch that wants them.
    bookmark_at: Option<Instant>,
    /// The version up to which it has seen everything.
    seen: u64,
}

/// Sends what a watch is to see, until it ends or nobody listens.
pub(crate) async fn serve(
    world: Arc<World>,
    request: Request,
    shape: fn(Value) -> Value,
    lines: mpsc::Sender<Vec<u8>>,
) {
    let seconds = request.parameter("timeoutSeconds");
    let seconds = seconds.and_then(|text| text.parse().ok());
    let lasts = seconds.filter(|seconds| *seconds > 0);
    let wants_bookmarks = request.parameter("allowWatchBookmarks");
    let now = Instant::now();
    let mut watching = Watching {
        end: now + lasts.map_or(LASTS, Duration::from_secs),
        bookmark_at: wants_bookmarks
            .is_some_and(is_true)
            .then(|| now + BOOKMARKS),
        request,
        shape,
        lines,
        seen: 0,
    };
    // Either way the stream ends here.
    let (Ok(()) | Err(Over)) = watching.run(&world).await;
}

impl Watching {
    async fn run(&mut self, world: &World) -> Result<(), Over> {
        let mut changed = world.changed.subscribe();
        let mut frozen = world.frozen.subscribe();
        let (first, seen) = match begin(world, &self.request) {
            Ok(begun) => begun,
            Err(status) => return self.fail(&status).await,
        };
        self.seen = seen;
        for object in first {
            self.show("ADDED", object).await?;
        }
        loop {
            frozen.wait_for(|frozen| !frozen).await.map_err(|_| Over)?;
            changed.mark_unchanged();
            self.catch_up(world).await?;
            let is_over = Instant::now() >= self.end;
            if self
                .bookmark_at
                .is_some_and(|at| is_over || Instant::now() >= at)
            {
                self.bookmark().await?;
            }
            if is_over {
                return Ok(());
            }
            let wake_at = self.bookmark_at.map_or(self.end, |at| self.end.min(at));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
                () = self.lines.closed() => return Err(Over),
            }
        }
    }

    /// Shows everything that has happened since it last did.
    async fn catch_up(&mut self, world: &World) -> Result<(), Over> {
        let (later, now) = {
            let objects = world.objects();
            (objects.since(self.request.kind, self.seen), objects.version)
        };
        let events = match later {
            Ok(events) => events,
            Err(status) => return self.fail(&status).await,
        };
        for event in events {
            self.seen = event.version;
            if let Some((kind, object)) = visible(&self.request, event) {
                self.show(kind, object).await?;
            }
        }
        self.seen = self.seen.max(now);
        Ok(())
    }

    async fn bookmark(&mut self) -> Result<(), Over> {
        self.bookmark_at = Some(Instant::now() + BOOKMARKS);
        let kind = self.request.kind;
        let bookmark = json!({
            "kind": kind.kind, "apiVersion": kind.api_version(),
            "metadata": { "resourceVersion": self.seen.to_string(), "creationTimestamp": null },
        });
        self.send(line("BOOKMARK", &bookmark)).await
    }

    /// Tells why it cannot go on.
    async fn fail(&self, status: &Status) -> Result<(), Over> {
        self.send(line("ERROR", &status.to_json())).await?;
        Err(Over)
    }

    async fn show(&self, kind: &str, object: Value) -> Result<(), Over> {
        self.send(line(kind, &(self.shape)(object))).await
    }

    async fn send(&self, line: Vec<u8>) -> Result<(), Over> {
        self.lines.send(line).await.map_err(|_| Over)
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
