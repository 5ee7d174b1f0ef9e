//! A request on its way: stored, then watched to its end.

use std::time::Duration;

use stolon_core::model::request::{ProgressState, Request, State};
use stolon_core::model::{GoDuration, wire};
use stolon_daemons::runtime::clock;
use stolon_store::{Expected, Key, Written};

use super::super::Failure;
use super::super::session::Session;
use super::{KEPT, Scene};
use crate::output;

/// How often a request is looked at when nothing wakes this process.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Stores a request and, unless `--no-wait` is given, waits for its end and tells how it gets on.
pub(super) async fn submit(
    session: &Session,
    scene: &Scene,
    request: Request,
    own: &clap::ArgMatches,
) -> Result<(), Failure> {
    let limit = own.get_one::<String>("timeout");
    let limit = limit.map(|text| text.parse::<GoDuration>()).transpose()?;
    store(session, scene, &request).await?;
    output::talk(&format!(
        "request {}: {}; stolonctl cancel {} ends it, interrupting this command does not",
        request.id,
        wording(&request),
        request.id
    ));
    if own.get_flag("no-wait") {
        return Ok(());
    }
    let end = watch(session, &request);
    match limit {
        None => end.await,
        Some(limit) => tokio::time::timeout(limit.to_std(), end)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Error(format!(
                    "request {} is not at its end after {limit}: it goes on (stolonctl status)",
                    request.id
                )))
            }),
    }
}

/// What is asked for, in words.
pub(crate) fn wording(request: &Request) -> String {
    let kind = request
        .kind
        .as_ref()
        .map_or("nothing", |kind| kind.as_str());
    let keepers: Vec<&str> = request
        .keepers
        .iter()
        .map(stolon_core::model::KeeperUid::as_str)
        .collect();
    if keepers.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind} {}", keepers.join(", then "))
    }
}

/// Stores a new request, and removes the oldest of those that have ended.
pub(super) async fn store(
    session: &Session,
    scene: &Scene,
    request: &Request,
) -> Result<(), Failure> {
    let key = Key::Request(request.id.as_str().to_owned());
    let bytes = wire::write(request)?;
    match session
        .store
        .compare_and_swap(&key, Expected::Absent, &bytes)
        .await
    {
        Written::Yes(_) => {}
        Written::Conflict => return Err(Failure::Error("the name is taken: try again".to_owned())),
        Written::No(error) => return Err(error.into()),
        Written::Unknown(error) => {
            return Err(Failure::Error(format!(
                "no answer to the write of request {}, which may have been stored: {error}; look at \
                 stolonctl status before trying again",
                request.id
            )));
        }
    }
    let requests = scene.requests.iter();
    let mut ended: Vec<&Request> = requests.filter(|old| !old.is_live(scene.wall)).collect();
    ended.sort_by_key(|old| std::cmp::Reverse(old.asked_at));
    for old in ended.into_iter().skip(KEPT) {
        // One that stays is removed next time.
        let _ = session
            .store
            .delete(&Key::Request(old.id.as_str().to_owned()))
            .await;
    }
    Ok(())
}

async fn watch(session: &Session, request: &Request) -> Result<(), Failure> {
    let key = Key::Request(request.id.as_str().to_owned());
    let mut changes = session.store.watch();
    let mut told = Vec::new();
    loop {
        let entry = match session.store.get(&key).await {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return Err(Failure::Error(format!(
                    "request {} was removed",
                    request.id
                )));
            }
            Err(error) => {
                // The request goes on, whoever looks.
                let line = format!("cannot look at the request, trying again: {error}");
                if told.last() != Some(&line) {
                    output::talk(&line);
                    told.push(line);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
        };
        let now: Request = wire::read(&entry.value)?;
        for line in lines(&now) {
            if !told.contains(&line) {
                output::talk(&line);
                told.push(line);
            }
        }
        match now.state(clock::wall()) {
            State::Waiting | State::Running => {}
            State::Done => return Ok(()),
            State::Failed(keeper, reason) => {
                return Err(Failure::Error(format!(
                    "request {} failed at keeper {keeper}: {reason}",
                    request.id
                )));
            }
            State::Ended => {
                return Err(Failure::Error(format!(
                    "request {} was ended by {}",
                    request.id, now.ended_by
                )));
            }
            State::Expired => {
                return Err(Failure::Error(format!(
                    "nobody began request {} in time",
                    request.id
                )));
            }
        }
        // A watch only wakes, and not always.
        let _ = tokio::time::timeout(LOOK_PAUSE, changes.changed()).await;
    }
}

/// A line for every keeper that has begun.
fn lines(request: &Request) -> Vec<String> {
    let begun = request.keepers.iter().filter_map(|keeper| {
        let progress = request.progress.get(keeper)?;
        let state = match &progress.state {
            ProgressState::Known => "knows of it",
            ProgressState::Running => "has begun",
            ProgressState::Done => "is done",
            ProgressState::Failed => "failed",
            ProgressState::Unknown(state) => state,
        };
        Some(format!("keeper {keeper} {state}"))
    });
    begun.collect()
}
