//! How the API server is reached: kubeconfig files or the service account, and the namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::Kubeconfig;
use tokio::sync::Mutex;
use tower::util::MapResultLayer;

use super::{answer, credentials};
use crate::clock::boot_time;
use crate::failure::Failure;
use crate::pool::{self, Connect};
use crate::{Config, Error, Kube};

/// Where a pod finds the namespace it is in (Kubernetes' manual, "Accessing the API from a Pod").
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// How long credentials that are refused count as just read. Older ones are read anew first.
const JUST_READ: Duration = Duration::from_secs(5);

/// A program of the kubeconfig that hands out credentials may take so many times as long as a call: it
/// may have to ask somebody far away.
const PROGRAM: u32 = 6;
/// What a call is told that cannot wait for its client.
const NOT_YET: &str =
    "we have no credentials yet: the kubeconfig's program for them takes its time";

/// The API server, and who we are to it.
#[derive(Debug)]
pub(super) struct Cluster {
    kube: Kube,
    addresses: Vec<String>,
    limits: Limits,
    /// Locked while a client is made.
    last: Arc<Mutex<Last>>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connect: Duration,
    /// For a client, of a call that has none.
    patience: Duration,
    /// For a program that hands out credentials.
    program: Duration,
}

/// What came of the making of clients.
#[derive(Debug, Default)]
struct Last {
    /// The one that was made last.
    client: Option<Client>,
    /// Whether it was told that the program for credentials hangs.
    told: bool,
}

/// What asks it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) kube: kube::Client,
    /// When, on the boot clock.
    made: Duration,
    /// Until when the credentials that a program handed out are good.
    until: Option<jiff::Timestamp>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

/// What is asked by several calls at once.
pub(super) type Pool = std::sync::Arc<pool::Pool<Cluster>>;

impl Cluster {
    /// The API server of a configuration, and the namespace.
    pub(super) fn new(config: &Config) -> Result<(Self, String), Error> {
        let kube = config.kube.clone();
        let (found, of_context) = load(&kube).map_err(Error::Config)?;
        let namespace = namespace(&kube, of_context);
        let timeout = pool::timeout(config)?;
        let connect = pool::connect_timeout(timeout, 1);
        let limits = Limits {
            connect,
            patience: connect,
            program: timeout * PROGRAM,
        };
        let cluster = Self {
            kube,
            addresses: vec![found.cluster_url.to_string()],
            limits,
            last: Arc::default(),
        };
        Ok((cluster, namespace))
    }
}

impl Connect for Cluster {
    type Client = Client;
    type Error = Failure;

    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn server(&self) -> &'static str {
        "the API server"
    }

    fn found_by(&self) -> &'static str {
        "the kubeconfig, or in a pod its environment,"
    }

    fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Reads the files again: credentials expire, and whoever hands them out writes new ones.
    async fn client(&self, _: usize) -> Result<Client, Failure> {
        let asked = boot_time();
        let client = async {
            let mut last = Arc::clone(&self.last).lock_owned().await;
            // Whoever asked before may have given up on one that has been made since.
            let made = last.client.as_ref().filter(|last| asked <= last.made);
            if let Some(made) = made {
                return Ok(made.clone());
            }
            let (kube, limits) = (self.kube.clone(), self.limits);
            // It goes on when nobody waits for it any more: the next one finds it made.
            let making = tokio::spawn(async move { last.make(kube, limits).await });
            let made = making.await;
            made.unwrap_or_else(|error| Err(Failure::did_nothing(error.to_string())))
        };
        let client = tokio::time::timeout(self.limits.patience, client).await;
        client.unwrap_or_else(|_| Err(Failure::did_nothing(NOT_YET.to_owned())))
    }
}

impl Last {
    async fn make(&mut self, kube: Kube, limits: Limits) -> Result<Client, Failure> {
        let (mut config, _) = blocking(move || load(&kube).map_err(Failure::did_nothing)).await?;
        config.connect_timeout = Some(limits.connect);
        // What is repeated, and how often, is for the pool to say.
        config.default_retry = false;
        let until = match credentials::fill(&mut config.auth_info, limits.program).await {
            Ok(until) => until,
            Err(error) => {
                let hung = matches!(error, credentials::Error::Hung { .. });
                // Whoever waited for it was told only that it takes its time.
                if hung && !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(%error, "no credentials for Kubernetes");
                }
                return Err(Failure::did_nothing(error.to_string()));
            }
        };
        let build = move || {
            let built = ClientBuilder::try_from(config);
            let built = built.map_err(|error| answer::not_made(&error))?;
            let kube = built.with_layer(&MapResultLayer::new(answer::heeded));
            Ok(kube.build())
        };
        let kube = blocking(build).await?;
        let made = boot_time();
        let client = Client { kube, made, until };
        self.client = Some(client.clone());
        self.told = false;
        Ok(client)
    }
}

/// Does what may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::did_nothing(error.to_string())))
}

impl Client {
    /// Whether its credentials were read so lately that reading them again would not help.
    pub(super) fn is_new(&self) -> bool {
        boot_time() < self.made + JUST_READ
    }

    /// Refuses when the credentials that a program handed out have expired.
    pub(super) fn ensure_valid(&self) -> Result<(), Failure> {
        let expired = |until: jiff::Timestamp| until <= crate::clock::wall_time();
        if self.until.is_some_and(expired) {
            let text = "the credentials have expired that the kubeconfig's program handed out";
            return Err(Failure::did_nothing(text.to_owned()));
        }
        Ok(())
    }
}

/// Reads who the server is and who we are; besides, the namespace of the kubeconfig's context.
fn load(kube: &Kube) -> Result<(kube::Config, Option<String>), String> {
    let Some(mut file) = kubeconfig(kube)? else {
        if let Some(context) = &kube.context {
            return Err(format!(
                "no kubeconfig has the context {context:?}: there is none"
            ));
        }
        let config = kube::Config::incluster().map_err(|error| {
            let looked_for = shown(&kube.looked_for);
            format!(
                "no access to Kubernetes: there is no kubeconfig{looked_for}, and no service \
                 account as a pod has it: {error}"
            )
        })?;
        return Ok((config, None));
    };
    if let Some(context) = &kube.context {
        file.current_context = Some(context.clone());
    }
    let context = file
        .contexts
        .iter()
        .find(|named| Some(&named.name) == file.current_context.as_ref());
    let context = context.and_then(|named| named.context.clone());
    let cluster = context.as_ref().map(|context| context.cluster.as_str());
    let cluster = file
        .clusters
        .iter()
        .find(|named| Some(named.name.as_str()) == cluster);
    let proxy = cluster.and_then(|named| named.cluster.as_ref()?.proxy_url.clone());
    if let Some(proxy) = proxy {
        return Err(format!(
            "the kubeconfig's proxy-url {proxy:?} is not supported"
        ));
    }
    let mut config = kube::Config::try_from(file).map_err(|error| one_line(&error))?;
    // What the environment says for other programs does not count (`HTTPS_PROXY`).
    config.proxy_url = None;
    Ok((config, context.and_then(|context| context.namespace)))
}

/// The kubeconfig files that are there, as one.
fn kubeconfig(kube: &Kube) -> Result<Option<Kubeconfig>, String> {
    if let Some(path) = &kube.kubeconfig {
        return read(path).map(Some);
    }
    let mut whole = None;
    for path in kube.looked_for.iter().filter(|path| path.is_file()) {
        let file = read(path)?;
        whole = Some(match whole {
            None => file,
            Some(before) => Kubeconfig::merge(before, file).map_err(|error| one_line(&error))?,
        });
    }
    Ok(whole.filter(|file| !file.clusters.is_empty() || !file.contexts.is_empty()))
}

fn read(path: &Path) -> Result<Kubeconfig, String> {
    Kubeconfig::read_from(path)
        .map_err(|error| format!("kubeconfig {}: {}", path.display(), one_line(&error)))
}

/// The first line of an error: what follows may show lines of the file, which holds secrets.
fn one_line(error: &kube::config::KubeconfigError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

fn shown(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if paths.is_empty() {
        String::new()
    } else {
        format!(" ({})", paths.join(", "))
    }
}

/// The order is that of the Go program.
fn namespace(kube: &Kube, of_context: Option<String>) -> String {
    let of_pod = || {
        let text = std::fs::read_to_string(NAMESPACE_FILE).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    kube.namespace
        .clone()
        .or(of_context)
        .or_else(|| kube.pod_namespace.clone())
        .or_else(of_pod)
        .unwrap_or_else(|| "default".to_owned())
}
