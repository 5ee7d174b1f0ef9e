//! The changes of a cluster's objects, one watch for each kind.
//!
//! A watch of the API server says nothing while nothing happens, and one whose connection is lost
//! says nothing either. So each lasts a few seconds by its own request, and one that does not end
//! in time has hung. Where the next one goes on from is known; now and then it begins anew all the
//! same, for a server whose history went back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::WatchParams;
use kube::core::{PartialObjectMeta, WatchEvent};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Asked, failure};
use super::api::Api;
use super::place::{CLUSTER_DATA, Names};
use super::pods::STATUS;
use crate::clock::boot_time;
use crate::failure::{Failure, Kind};

/// How long a watch is to last, in seconds.
const ROUND: u32 = 10;
/// How many go on from where the last one ended before one begins anew.
const ROUNDS: u32 = 12;
/// A watch that the server ends sooner is not asked for again at once.
const SHORT: Duration = Duration::from_secs(1);
/// Pauses after a watch: the first, and the longest where it failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pauses after one that is not allowed: the first, for a Role that is not known to the server yet,
/// and the longest, for only an operator changes what a Role says.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The version of what a watch asked for is gone.
const GONE: u16 = 410;

/// The tasks that follow the changes.
#[derive(Debug)]
pub(super) struct Following {
    changes: watch::Sender<u64>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// What is watched.
#[derive(Debug, Clone)]
enum Watched {
    /// The ConfigMap of that name.
    Map(String),
    /// The pods with that label.
    Pods(String),
}

/// One of the watches.
struct Follower {
    api: Arc<Api>,
    watched: Watched,
    changes: watch::Sender<u64>,
    /// What was seen of each object last.
    known: BTreeMap<String, Option<String>>,
    /// The version to go on from; none: from the present state.
    from: Option<String>,
    /// Whether it works.
    stands: bool,
    /// Whether it was told that this is not allowed.
    told: bool,
}

impl Following {
    /// Follows all changes of a cluster, until it is dropped.
    pub(super) fn begin(api: &Arc<Api>, names: &Names) -> Self {
        let changes = watch::channel(0).0;
        let follow = |watched: Watched| {
            let follower = Follower {
                api: api.clone(),
                watched,
                changes: changes.clone(),
                known: BTreeMap::new(),
                from: None,
                stands: false,
                told: false,
            };
            AbortOnDropHandle::new(tokio::spawn(follower.follow()))
        };
        let tasks = vec![
            follow(Watched::Map(names.main())),
            follow(Watched::Map(names.ext())),
            follow(Watched::Pods(names.label())),
        ];
        Self {
            changes,
            _tasks: tasks,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map(name) => write!(f, "ConfigMap {name}"),
            Self::Pods(label) => write!(f, "pods {label}"),
        }
    }
}

impl Watched {
    fn params(&self) -> WatchParams {
        let params = WatchParams {
            bookmarks: true,
            ..WatchParams::default()
        };
        match self {
            Self::Map(name) => params.fields(&format!("metadata.name={name}")),
            Self::Pods(label) => params.labels(label),
        }
        .timeout(ROUND)
    }

    fn asked(&self) -> Asked {
        let (resource, name) = match self {
            Self::Map(name) => ("configmaps", name.clone()),
            Self::Pods(_) => ("pods", String::new()),
        };
        Asked {
            verb: "watch",
            resource,
            name,
        }
    }

    /// What a component may want to know of an object: neither the leader's renewals nor what the
    /// host of a pod says of it.
    fn essence(&self, metadata: &ObjectMeta) -> Option<String> {
        let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).cloned();
        match self {
            Self::Pods(_) => annotation(STATUS),
            // The entries of its data are not in the metadata.
            Self::Map(_) => annotation(CLUSTER_DATA).or_else(|| metadata.resource_version.clone()),
        }
    }
}

impl Follower {
    async fn follow(mut self) {
        let mut turns = self.api.pool.turns();
        let (mut pause, mut rest) = (FIRST_PAUSE, FIRST_REST);
        let mut rounds = 0;
        loop {
            turns.mark_unchanged();
            let began = boot_time();
            let ticket = self.api.pool.ticket();
            let ended = tokio::select! {
                ended = self.round(ticket) => ended,
                // Its connection was thrown away.
                _ = turns.changed() => continue,
            };
            rounds += 1;
            let Err(failure) = ended else {
                if rounds % ROUNDS == 0 {
                    self.from = None;
                    // Objects that were gone between two watches are forgotten with it.
                    self.known.clear();
                }
                pause = if boot_time() < began + SHORT {
                    (pause * 2).min(LONGEST_PAUSE)
                } else {
                    FIRST_PAUSE
                };
                tokio::time::sleep(pause).await;
                continue;
            };
            self.from = None;
            let cause = failure.text;
            tracing::debug!(cause, watched = ?self.watched, "the watch of the store broke");
            if std::mem::take(&mut self.stands) {
                self.wake();
                rest = FIRST_REST;
            }
            if failure.kind == Kind::Refused {
                if !std::mem::replace(&mut self.told, true) {
                    let watched = &self.watched;
                    tracing::warn!(cause, %watched, "changes are found only by reading now and then");
                }
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    // Perhaps by other credentials it is.
                    _ = turns.changed() => {}
                }
                rest = (rest * 2).min(LONGEST_REST);
                continue;
            }
            if failure.kind != Kind::Busy {
                self.api.pool.turn_from(ticket);
            }
            tokio::time::sleep(pause.max(failure.wait)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Watches until the server ends it, as it was asked to.
    async fn round(&mut self, ticket: crate::pool::Ticket) -> Result<(), Failure> {
        let share = self.api.pool.share();
        let client = tokio::time::timeout(share, self.api.pool.client(ticket));
        let client = client.await.map_err(|_| Failure::timeout(share))??;
        match self.watched {
            Watched::Map(_) => {
                let (client, maps) = self.api.config_maps(client)?;
                self.listen::<ConfigMap>(&client, &maps).await
            }
            Watched::Pods(_) => {
                let (client, pods) = self.api.pods_of(client)?;
                self.listen::<Pod>(&client, &pods).await
            }
        }
    }

    async fn listen<K: Clone + DeserializeOwned + Debug>(
        &mut self,
        client: &super::access::Client,
        objects: &kube::Api<K>,
    ) -> Result<(), Failure> {
        let (params, asked) = (self.watched.params(), self.watched.asked());
        let share = self.api.pool.share();
        let from = self.from.clone().unwrap_or_default();
        let begun = objects.watch_metadata(&params, &from);
        let begun = tokio::time::timeout(share, begun).await;
        let events = match begun.map_err(|_| Failure::timeout(share))? {
            Err(error) if is_gone(&error) => {
                self.begin_anew();
                return Ok(());
            }
            begun => begun.map_err(|error| failure(&error, client, &asked))?,
        };
        self.stand();
        // What keeps talking beyond its time ends as well: the next one is asked for.
        let end = Duration::from_secs(ROUND.into()) + share;
        let over = tokio::time::sleep(end);
        tokio::pin!(events, over);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut over => return Err(Failure::timeout(end)),
            };
            match event {
                None => return Ok(()),
                Some(Err(error)) if is_gone(&error) => {
                    self.begin_anew();
                    return Ok(());
                }
                Some(Err(error)) => return Err(failure(&error, client, &asked)),
                Some(Ok(WatchEvent::Error(status))) if status.code == GONE => {
                    self.begin_anew();
                    return Ok(());
                }
                Some(Ok(event)) => self.take(event)?,
            }
        }
    }

    /// Notes that it works. What was missed until now is seen by reading.
    fn stand(&mut self) {
        if std::mem::replace(&mut self.stands, true) {
            return;
        }
        self.wake();
        if std::mem::take(&mut self.told) {
            let watched = &self.watched;
            tracing::info!(%watched, "changes are watched again");
        }
    }

    /// What was missed is seen by reading; the next watch begins with the present state.
    fn begin_anew(&mut self) {
        self.from = None;
        self.wake();
    }

    fn take<K: Clone>(&mut self, event: WatchEvent<PartialObjectMeta<K>>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let essence = self.watched.essence(&object.metadata);
                self.from.clone_from(&object.metadata.resource_version);
                let name = object.metadata.name.unwrap_or_default();
                if self.known.get(&name) != Some(&essence) {
                    self.known.insert(name, essence);
                    self.wake();
                }
            }
            WatchEvent::Deleted(object) => {
                self.from = object.metadata.resource_version;
                self.known.remove(&object.metadata.name.unwrap_or_default());
                self.wake();
            }
            WatchEvent::Bookmark(bookmark) => self.from = Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(Failure::unavailable(status.message)),
        }
        Ok(())
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Whether the server no longer knows the version that a watch was to go on from. It may say so
/// before the watch or in it.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == GONE)
}
