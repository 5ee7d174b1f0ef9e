//! What components publish of themselves: an annotation on the pod that each runs in.
//!
//! It has no TTL and goes with its pod. Nobody judges by its presence: a component counts as alive
//! when what it publishes changes (contract, section 7).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Without;
use super::api::{Api, Exactly, PodMeta, version};
use super::place::{CLUSTER_LABEL, Names};
use crate::{Entry, Error, Folder, Key, Revision};

/// The annotation.
pub(super) const STATUS: &str = "stolon-status";
/// The label that says what kind of component a pod runs; it comes with the pod's manifest.
const COMPONENT_LABEL: &str = "component";
/// How often a publication starts again because something else of the pod was changed meanwhile.
const ROUNDS: u32 = 20;

/// Our own pod.
#[derive(Debug)]
pub(super) struct Own {
    name: Option<String>,
    known: Mutex<Known>,
}

/// What is known of our own pod.
#[derive(Debug, Default)]
struct Known {
    /// Which of all pods that ever had its name it is; a process never moves to another one.
    uid: Option<String>,
    /// Its version when it was last written to by us: a guess that saves a read.
    version: Option<String>,
}

/// Enough of what is published to know whose it is.
#[derive(Deserialize)]
struct Publication {
    #[serde(alias = "UID", alias = "Uid", default)]
    uid: String,
}

impl Own {
    /// `name`: of the pod; none: there is none, as for stolonctl.
    pub(super) fn new(name: Option<String>) -> Self {
        let known = Mutex::default();
        Self { name, known }
    }

    /// Publishes. A publication that had no answer may be carried out later, so each is for one
    /// version of the pod: it cannot undo what came after it. Nothing is written to a pod that is
    /// not this component's.
    pub(super) async fn publish(
        &self,
        api: &Api,
        names: &Names,
        key: &Key,
        status: &str,
        end: Instant,
    ) -> Result<(), Error> {
        let Some(name) = &self.name else {
            return Err(Error::Config(format!(
                "{key} cannot be published: POD_NAME does not name the pod this runs in"
            )));
        };
        for _ in 0..ROUNDS {
            let pod = match self.guess() {
                Some(pod) => pod,
                None => match api.pod(name, end).await? {
                    Some(pod) => self.recognised(api, names, key, &pod.metadata)?,
                    None => return Err(no_pod(api, name)),
                },
            };
            match api.annotate(name, &pod, Some(status), end).await.result? {
                Ok(pod) => {
                    self.known()
                        .version
                        .clone_from(&pod.metadata.resource_version);
                    return ensure_found(api, names, key, &pod.metadata);
                }
                Err(Without::Conflict) => {}
                Err(Without::Absent) => return Err(no_pod(api, name)),
            }
        }
        Err(too_busy(api, name))
    }

    /// Our pod as we left it; only once, for it may not be so any more.
    fn guess(&self) -> Option<Exactly> {
        let mut known = self.known();
        let version = known.version.take()?;
        let uid = known.uid.clone()?;
        Some(Exactly { uid, version })
    }

    /// The pod that was read, if it is ours.
    fn recognised(
        &self,
        api: &Api,
        names: &Names,
        key: &Key,
        pod: &ObjectMeta,
    ) -> Result<Exactly, Error> {
        ensure_found(api, names, key, pod)?;
        let found = Exactly::of(pod);
        let mut known = self.known();
        let ours = known.uid.get_or_insert_with(|| found.uid.clone());
        if *ours == found.uid {
            return Ok(found);
        }
        Err(Error::Denied {
            store: api.pool.describe(),
            cause: format!(
                "the pod {} is another one by now (uid {}, that of this process is {ours}): nothing \
                 is published on it",
                pod.name.as_deref().unwrap_or_default(),
                found.uid
            ),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exactly {
    fn of(pod: &ObjectMeta) -> Self {
        Self {
            uid: pod.uid.clone().unwrap_or_default(),
            version: pod.resource_version.clone().unwrap_or_default(),
        }
    }
}

/// Takes back what was published under a key, from whatever pod.
pub(super) async fn take_back(
    api: &Api,
    names: &Names,
    key: &Key,
    end: Instant,
) -> Result<Revision, Error> {
    let Some(component) = component_of(key) else {
        return Ok(Revision(0));
    };
    let mut written = Revision(0);
    for _ in 0..ROUNDS {
        let pods = api.pods(&names.labels(component), end).await?;
        let Some(pod) = pods
            .iter()
            .find(|pod| uid(pod).as_deref() == Some(key.name()))
        else {
            return Ok(written);
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let found = Exactly::of(&pod.metadata);
        if let Ok(pod) = api.annotate(name, &found, None, end).await.result? {
            written = Revision(version(&pod.metadata)?);
        }
    }
    Err(too_busy(api, key.name()))
}

fn too_busy(api: &Api, name: &str) -> Error {
    Error::Unavailable {
        store: api.pool.describe(),
        cause: format!("the pod of {name} was changed by others {ROUNDS} times"),
    }
}

fn no_pod(api: &Api, name: &str) -> Error {
    Error::Denied {
        store: api.pool.describe(),
        cause: format!(
            "there is no pod {name:?} in the namespace {:?} (POD_NAME is to name the pod this runs \
             in: take it from its metadata.name)",
            api.namespace
        ),
    }
}

/// The labels by which others find a publication are the manifest's to give.
fn ensure_found(api: &Api, names: &Names, key: &Key, pod: &ObjectMeta) -> Result<(), Error> {
    let Some(component) = component_of(key) else {
        return Ok(());
    };
    let label = |name: &str| pod.labels.as_ref()?.get(name).map(String::as_str);
    let found = label(COMPONENT_LABEL) == Some(component)
        && label(CLUSTER_LABEL) == Some(names.cluster.as_str());
    if found {
        return Ok(());
    }
    Err(Error::Denied {
        store: api.pool.describe(),
        cause: format!(
            "nobody finds what is published on the pod {}: its labels must have {}",
            pod.name.as_deref().unwrap_or_default(),
            names.labels(component)
        ),
    })
}

fn component_of(key: &Key) -> Option<&'static str> {
    match key {
        Key::KeeperInfo(_) => Some(component(Folder::Keepers)),
        Key::SentinelInfo(_) => Some(component(Folder::Sentinels)),
        Key::ProxyInfo(_) => Some(component(Folder::Proxies)),
        Key::ClusterData | Key::History | Key::ExtSpec | Key::Request(_) => None,
    }
}

/// What the label of the pods says; empty for what is on no pod.
const fn component(folder: Folder) -> &'static str {
    match folder {
        Folder::Keepers => "stolon-keeper",
        Folder::Sentinels => "stolon-sentinel",
        Folder::Proxies => "stolon-proxy",
        Folder::Requests => "",
    }
}

/// Who was told to publish from several pods, each with the pods: it is told once.
#[derive(Debug, Default)]
pub(super) struct Doubles(Mutex<BTreeMap<Key, Vec<String>>>);

impl Doubles {
    /// Notes the pods that publish under a key, the one that counts first.
    fn note(&self, key: &Key, pods: &[&PodMeta]) {
        let name = |pod: &&PodMeta| pod.metadata.name.clone().unwrap_or_default();
        let names: Vec<String> = pods.iter().map(name).collect();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [counts, others @ ..] = names.as_slice() else {
            return;
        };
        if others.is_empty() {
            told.remove(key);
        } else if told.get(key) != Some(&names) {
            let others = others.join(", ");
            tracing::warn!(%key, %counts, %others, "several pods publish under one name; the newest counts");
            told.insert(key.clone(), names);
        }
    }
}

/// All that components of a kind publish, by name. Of several pods with one name the one counts that
/// is not being removed and was made last. Their versions do not tell: hosts write to pods as well.
pub(super) async fn list(
    api: &Api,
    names: &Names,
    doubles: &Doubles,
    folder: Folder,
    end: Instant,
) -> Result<Vec<Entry>, Error> {
    let pods = api.pods(&names.labels(component(folder)), end).await?;
    let mut by_key: BTreeMap<Key, Vec<&PodMeta>> = BTreeMap::new();
    for pod in &pods {
        if let Some(uid) = uid(pod) {
            by_key.entry(folder.key(uid)).or_default().push(pod);
        }
    }
    let mut entries = Vec::new();
    for (key, mut pods) in by_key {
        pods.sort_by(|a, b| rank(b).cmp(&rank(a)));
        doubles.note(&key, &pods);
        let Some(pod) = pods.first() else { continue };
        let revision = Revision(version(&pod.metadata)?);
        let value = status(pod).unwrap_or_default().as_bytes().to_vec();
        entries.push(Entry {
            key,
            value,
            revision,
        });
    }
    Ok(entries)
}

/// The higher one counts, of pods that publish under one name.
fn rank(pod: &PodMeta) -> impl Ord + '_ {
    let metadata = &pod.metadata;
    let made = metadata.creation_timestamp.as_ref().map(|time| time.0);
    (metadata.deletion_timestamp.is_none(), made, &metadata.name)
}

/// What a pod's component publishes.
pub(super) fn status(pod: &PodMeta) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(STATUS).map(String::as_str)
}

/// Who publishes it. What makes no sense bears the pod's name, so that whoever reads it can name it.
fn uid(pod: &PodMeta) -> Option<String> {
    let publication = serde_json::from_str::<Publication>(status(pod)?);
    let uid = publication.ok().map(|publication| publication.uid);
    uid.filter(|uid| !uid.is_empty())
        .or_else(|| pod.metadata.name.clone())
}

#[cfg(test)]
mod tests {
    use super::{PodMeta, rank};

    #[test]
    fn of_several_pods_the_newest_counts_that_is_not_being_removed() {
        let pod = |name: &str, made: &str, removed: Option<&str>| -> PodMeta {
            let metadata = serde_json::json!({
                "name": name, "creationTimestamp": made, "deletionTimestamp": removed,
            });
            let pod = serde_json::json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": metadata,
            });
            serde_json::from_value(pod).expect("a pod")
        };
        let (early, late) = ("2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z");
        let mut pods = [
            pod("d", early, None),
            pod("c", late, None),
            pod("a", late, Some(late)),
            pod("b", late, None),
        ];
        pods.sort_by(|a, b| rank(b).cmp(&rank(a)));
        let names = pods.map(|pod| pod.metadata.name.unwrap_or_default());
        assert_eq!(names, ["c", "b", "d", "a"]);
    }
}
