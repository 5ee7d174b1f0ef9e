//! Kubernetes for the tests: our own API server, or a real one where `KUBECONFIG_E2E` names it, and
//! the pods that components run in.

#[path = "../../../../testing/kube_api.rs"]
#[allow(dead_code, reason = "not every test needs all of it")]
pub(crate) mod kube_api;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube_api::ApiServer;
use serde_json::json;
use stolon_store::{
    Backend, Config, Entry, Error, Expected, Folder, Key, Leadership, Store, Watch, Written,
};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::server::{free_port, reach};

/// How a cluster's store is reached by this kubeconfig, from this pod.
pub(crate) fn config(kubeconfig: &Path, pod: Option<&str>, timeout: Duration) -> Config {
    let mut config = reach(Backend::Kubernetes, Vec::new(), timeout);
    config.kube.kubeconfig = Some(kubeconfig.to_owned());
    config.kube.pod_name = pod.map(str::to_owned);
    config
}

/// Our own server with a folder of its own.
#[allow(dead_code, reason = "not every test needs all of it")]
pub(crate) struct Ours {
    pub(crate) server: ApiServer,
    pub(crate) folder: tempfile::TempDir,
}

impl Ours {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = ApiServer::start(folder.path(), free_port(), free_port());
        Self { server, folder }
    }

    /// A kubeconfig without credentials for its plain port.
    pub(crate) fn plain(&self) -> PathBuf {
        self.server
            .kubeconfig("plain", &self.server.endpoint(), None)
    }
}

/// The hosts of the pods, as far as the store knows of them.
#[derive(Clone)]
pub(crate) struct Hosts {
    client: kube::Client,
    namespace: String,
    made: Arc<Mutex<BTreeSet<String>>>,
}

#[allow(dead_code, reason = "not every test needs all of it")]
impl Hosts {
    pub(crate) fn reached_by(kubeconfig: &Path) -> Self {
        let file = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let config = kube::Config::try_from(file).expect("a kubeconfig");
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config).expect("a client");
        Self {
            client,
            namespace,
            made: Arc::default(),
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a pod that no host runs; false: it is there already.
    pub(crate) async fn make(&self, name: &str, component: &str, cluster: &str) -> bool {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": { "component": component, "stolon-cluster": cluster },
            },
            "spec": {
                "schedulerName": "nobody",
                "containers": [{ "name": "c", "image": "none" }],
            },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.made.lock().expect("names").insert(name.to_owned());
        match self.pods().create(&PostParams::default(), &pod).await {
            Err(kube::Error::Api(status)) if status.code == 409 => false,
            made => {
                drop(made.expect("a pod"));
                true
            }
        }
    }

    pub(crate) async fn remove(&self, name: &str) {
        let removed = self
            .pods()
            .delete(name, &DeleteParams::default().grace_period(0))
            .await;
        drop(removed);
    }

    /// Removes all that clusters of these tests left.
    pub(crate) async fn clean(&self, clusters: &[String]) {
        let names = std::mem::take(&mut *self.made.lock().expect("names"));
        for name in names {
            self.remove(&name).await;
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        for cluster in clusters {
            let ours = ListParams::default().labels(&format!("stolon-cluster={cluster}"));
            for map in maps.list(&ours).await.expect("a list").items {
                let name = map.metadata.name.unwrap_or_default();
                drop(maps.delete(&name, &DeleteParams::default()).await);
            }
        }
    }
}

/// A store whose every publication comes from a pod of its own, which its host ends when it has
/// been silent for too long: here nothing else makes a publication go.
#[derive(Debug)]
pub(crate) struct InPods {
    inner: Arc<dyn Store>,
    config: Config,
    hosts: HostsHandle,
    pods: Mutex<BTreeMap<Key, InPod>>,
}

#[derive(Debug)]
struct InPod {
    store: Arc<dyn Store>,
    ends: Arc<Mutex<Instant>>,
    _host: AbortOnDropHandle<()>,
}

struct HostsHandle(Hosts);

impl std::fmt::Debug for HostsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hosts")
    }
}

impl InPods {
    pub(crate) fn open(config: &Config, hosts: &Hosts) -> Result<Arc<dyn Store>, Error> {
        Ok(Arc::new(Self {
            inner: stolon_store::open(config)?,
            config: config.clone(),
            hosts: HostsHandle(hosts.clone()),
            pods: Mutex::default(),
        }))
    }

    async fn in_pod(&self, key: &Key, ttl: Duration) -> Result<Arc<dyn Store>, Error> {
        let component = match key {
            Key::KeeperInfo(_) => "stolon-keeper",
            Key::SentinelInfo(_) => "stolon-sentinel",
            Key::ProxyInfo(_) => "stolon-proxy",
            other => panic!("{other} is not published"),
        };
        // A component that comes again under its name comes again in its pod.
        let cluster = &self.config.cluster_name;
        let name = format!("{cluster}-{}", key.to_string().replace('/', "-"));
        let hosts = self.hosts.0.clone();
        let is_new = hosts
            .make(&name, component, &self.config.cluster_name)
            .await;
        let mut pods = self.pods.lock().expect("pods");
        // What ran in a pod that is gone is gone with it.
        if let Some(pod) = pods.get(key).filter(|_| !is_new) {
            *pod.ends.lock().expect("a time") = Instant::now() + ttl;
            return Ok(pod.store.clone());
        }
        let mut config = self.config.clone();
        config.kube.pod_name = Some(name.clone());
        let store = stolon_store::open(&config)?;
        let ends = Arc::new(Mutex::new(Instant::now() + ttl));
        let when = ends.clone();
        let host = tokio::spawn(async move {
            loop {
                let end = *when.lock().expect("a time");
                tokio::time::sleep_until(end).await;
                if *when.lock().expect("a time") == end {
                    hosts.remove(&name).await;
                    *when.lock().expect("a time") += Duration::from_hours(1);
                }
            }
        });
        let pod = InPod {
            store: store.clone(),
            ends,
            _host: AbortOnDropHandle::new(host),
        };
        pods.insert(key.clone(), pod);
        Ok(store)
    }
}

#[async_trait::async_trait]
impl Store for InPods {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn compare_and_swap(&self, key: &Key, expected: Expected, value: &[u8]) -> Written {
        self.inner.compare_and_swap(key, expected, value).await
    }
    async fn put(&self, key: &Key, value: &[u8]) -> Written {
        self.inner.put(key, value).await
    }
    async fn delete(&self, key: &Key) -> Written {
        self.inner.delete(key).await
    }
    async fn publish(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), Error> {
        self.in_pod(key, ttl).await?.publish(key, value, ttl).await
    }
    async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
        self.inner.list(folder).await
    }
    fn watch(&self) -> Watch {
        self.inner.watch()
    }
    fn lead(&self, uid: &str) -> Leadership {
        self.inner.lead(uid)
    }
    async fn leader(&self) -> Result<Option<String>, Error> {
        self.inner.leader().await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}
