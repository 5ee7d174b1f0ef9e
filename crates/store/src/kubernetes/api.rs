//! What is asked of the API server, each call bounded in time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api as Objects;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use serde_json::json;
use tokio::time::Instant;

use super::access::{Client, Pool};
use super::answer::{Asked, Without, failure, read};
use super::pods::STATUS;
use crate::Error;
use crate::failure::Failure;
use crate::pool::Outcome;

/// The API server, for one namespace.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) pool: Pool,
    pub(super) namespace: String,
    /// The ConfigMap with the cluster data and the leader.
    main: String,
    /// That one as it was last read or written, whoever of this process did.
    latest: Mutex<Option<ConfigMap>>,
}

/// One state of one pod: others may have had its name before, and may have it after.
#[derive(Debug)]
pub(super) struct Exactly {
    pub(super) uid: String,
    pub(super) version: String,
}

/// The metadata of a pod.
pub(super) type PodMeta = PartialObjectMeta<Pod>;

impl Api {
    /// `main`: the ConfigMap with the cluster data and the leader.
    pub(super) fn new(pool: Pool, namespace: String, main: String) -> Self {
        Self {
            pool,
            namespace,
            main,
            latest: Mutex::default(),
        }
    }

    /// The ConfigMap with the cluster data and the leader as it was last seen. Whoever writes it saves
    /// a read where nobody else has written since, and is told where somebody has.
    pub(super) fn latest(&self) -> Option<ConfigMap> {
        self.lock_latest().clone()
    }

    fn note(&self, name: &str, map: Option<&ConfigMap>) {
        if name == self.main {
            *self.lock_latest() = map.cloned();
        }
    }

    fn lock_latest(&self) -> MutexGuard<'_, Option<ConfigMap>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a ConfigMap; none when it is absent. Linearizable: no version is asked for.
    pub(super) async fn config_map(
        &self,
        name: &str,
        end: Instant,
    ) -> Result<Option<ConfigMap>, Error> {
        let asked = asked("get", "configmaps", name);
        let ask = |client: Client| async {
            let (client, objects) = self.config_maps(client)?;
            Ok::<_, Failure>(read(objects.get(name).await, &client, &asked)?.ok())
        };
        let map = self.pool.call(end, ask).await.result?;
        self.note(name, map.as_ref());
        Ok(map)
    }

    /// Creates a ConfigMap that has no version, or writes one over the version it has; none: there
    /// is one already, or it has another version by now.
    pub(super) async fn write(&self, map: &ConfigMap, end: Instant) -> Outcome<Option<ConfigMap>> {
        let name = map.metadata.name.as_deref().unwrap_or_default();
        let is_new = map.metadata.resource_version.is_none();
        let asked = asked(if is_new { "create" } else { "update" }, "configmaps", name);
        let how = PostParams::default();
        let ask = |client: Client| async {
            let (client, objects) = self.config_maps(client)?;
            let answer = if is_new {
                objects.create(&how, map).await
            } else {
                objects.replace(name, &how, map).await
            };
            Ok::<_, Failure>(read(answer, &client, &asked)?.ok())
        };
        let outcome = self.pool.call(end, ask).await;
        self.note(name, outcome.result.as_ref().ok().and_then(Option::as_ref));
        outcome
    }

    /// Reads the metadata of the pods that have these labels and have not ended.
    pub(super) async fn pods(&self, labels: &str, end: Instant) -> Result<Vec<PodMeta>, Error> {
        let asked = asked("list", "pods", "");
        let how = ListParams::default().labels(labels).fields(LIVING);
        let ask = |client: Client| async {
            let (client, pods) = self.pods_of(client)?;
            let answer = pods.list_metadata(&how).await;
            answer
                .map(|list| list.items)
                .map_err(|error| failure(&error, &client, &asked))
        };
        self.pool.call(end, ask).await.result
    }

    /// Reads the metadata of a pod; none when there is none.
    pub(super) async fn pod(&self, name: &str, end: Instant) -> Result<Option<PodMeta>, Error> {
        let asked = asked("get", "pods", name);
        let ask = |client: Client| async {
            let (client, pods) = self.pods_of(client)?;
            Ok::<_, Failure>(read(pods.get_metadata(name).await, &client, &asked)?.ok())
        };
        self.pool.call(end, ask).await.result
    }

    /// Sets, or with none removes, what a component publishes on its pod, if the pod is exactly
    /// this one.
    pub(super) async fn annotate(
        &self,
        name: &str,
        pod: &Exactly,
        status: Option<&str>,
        end: Instant,
    ) -> Outcome<Result<PodMeta, Without>> {
        let asked = asked("patch", "pods", name);
        let patch = Patch::Merge(json!({
            "metadata": {
                "uid": pod.uid, "resourceVersion": pod.version, "annotations": { STATUS: status },
            },
        }));
        let how = PatchParams::default();
        let ask = |client: Client| async {
            let (client, pods) = self.pods_of(client)?;
            read(
                pods.patch_metadata(name, &how, &patch).await,
                &client,
                &asked,
            )
        };
        self.pool.call(end, ask).await
    }

    pub(super) fn config_maps(
        &self,
        client: Client,
    ) -> Result<(Client, Objects<ConfigMap>), Failure> {
        client.ensure_valid()?;
        let objects = Objects::namespaced(client.kube.clone(), &self.namespace);
        Ok((client, objects))
    }

    pub(super) fn pods_of(&self, client: Client) -> Result<(Client, Objects<Pod>), Failure> {
        client.ensure_valid()?;
        let pods = Objects::namespaced(client.kube.clone(), &self.namespace);
        Ok((client, pods))
    }
}

/// A pod that was evicted, or whose host is lost, stays with all it said.
const LIVING: &str = "status.phase!=Failed,status.phase!=Succeeded";

fn asked(verb: &'static str, resource: &'static str, name: &str) -> Asked {
    let name = name.to_owned();
    Asked {
        verb,
        resource,
        name,
    }
}

/// The version of an object as a number, which it is of every server there is (and by its
/// documentation from Kubernetes 1.35 on).
pub(super) fn version(metadata: &ObjectMeta) -> Result<u64, Error> {
    let text = metadata.resource_version.as_deref().unwrap_or_default();
    text.parse().map_err(|_| {
        Error::Config(format!(
            "the resourceVersion {text:?} of the API server is no number"
        ))
    })
}
