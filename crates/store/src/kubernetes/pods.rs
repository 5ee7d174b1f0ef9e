//! What components publish of themselves: an annotation on the pod that each runs in.
//!
//! It has no TTL and goes with its pod. Nobody judges by its presence: a component counts as alive
//! when what it publishes changes (contract, section 7).

use std::sync::{Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Without;
use super::api::{Api, PodMeta, version};
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
    /// Its version when it was last written to by us: a guess that saves a read.
    version: Mutex<Option<String>>,
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
        Self {
            name,
            version: Mutex::default(),
        }
    }

    /// Publishes. A publication that had no answer may be carried out later, so each is for one
    /// version of the pod: it cannot undo what came after it.
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
            let guess = self.version().take();
            let version = match guess {
                Some(version) => version,
                None => match api.pod(name, end).await? {
                    Some(pod) => pod.metadata.resource_version.unwrap_or_default(),
                    None => return Err(no_pod(api, name)),
                },
            };
            match api
                .annotate(name, &version, Some(status), end)
                .await
                .result?
            {
                Ok(pod) => {
                    self.version().clone_from(&pod.metadata.resource_version);
                    return ensure_found(api, names, key, &pod.metadata);
                }
                Err(Without::Conflict) => {}
                Err(Without::Absent) => return Err(no_pod(api, name)),
            }
        }
        Err(too_busy(api, name))
    }

    fn version(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
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
        let version_found = pod.metadata.resource_version.as_deref().unwrap_or_default();
        if let Ok(pod) = api.annotate(name, version_found, None, end).await.result? {
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

/// All that components of a kind publish, by name; of two pods with one name the one that was
/// written to last.
pub(super) async fn list(
    api: &Api,
    names: &Names,
    folder: Folder,
    end: Instant,
) -> Result<Vec<Entry>, Error> {
    let pods = api.pods(&names.labels(component(folder)), end).await?;
    let mut entries = Vec::new();
    for pod in &pods {
        entries.extend(entry(folder, pod)?);
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key).then(b.revision.cmp(&a.revision)));
    entries.dedup_by(|after, before| after.key == before.key);
    Ok(entries)
}

/// What a pod's component publishes, if it does.
fn entry(folder: Folder, pod: &PodMeta) -> Result<Option<Entry>, Error> {
    let (Some(uid), Some(status)) = (uid(pod), status(pod)) else {
        return Ok(None);
    };
    Ok(Some(Entry {
        key: folder.key(uid),
        value: status.as_bytes().to_vec(),
        revision: Revision(version(&pod.metadata)?),
    }))
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
