//! The flags that all four programs share.

use std::io::IsTerminal as _;
use std::net::ToSocketAddrs as _;

use stolon_core::model::GoDuration;
use stolon_daemons::config::CommonConfig;
use stolon_daemons::runtime::logging::{LogConfig, LogFormat};
use stolon_store::{Access, BACKENDS, Backend, Kube, Tls};
use tracing::Level;

use super::{Flag, Source, Values, shared_variable, text, yes_no};

/// The flags by which the store is found.
pub const STORE: &[Flag] = &[
    text("cluster-name", "", "cluster name"),
    text(
        "store-backend",
        "",
        "store backend type: etcdv3, etcdv2, consul, kubernetes, or sqlite for a cluster on one host",
    ),
    text(
        "store-endpoints",
        "",
        "comma separated addresses of the store, of one scheme (default http://127.0.0.1:2379 for \
         etcd, http://127.0.0.1:8500 for Consul); for sqlite one absolute file path",
    ),
    text(
        "store-prefix",
        "stolon/cluster",
        "prefix of all keys in the store",
    ),
    text(
        "store-cert-file",
        "",
        "client certificate for the store, used together with --store-key",
    ),
    text("store-key", "", "client key for the store"),
    text(
        "store-ca-file",
        "",
        "certificate authority of the store (default: the system's)",
    ),
    yes_no(
        "store-skip-tls-verify",
        "false",
        "do not verify the store's certificate",
    ),
    text(
        "store-timeout",
        "5s",
        "bound on one call to the store, over all endpoints",
    ),
    text(
        "store-token-file",
        "",
        "file with the ACL token for Consul, read again when it is refused (default \
         CONSUL_HTTP_TOKEN_FILE)",
    ),
    text(
        "store-token",
        "",
        "ACL token for Consul; a file keeps it out of the list of processes (default \
         CONSUL_HTTP_TOKEN)",
    ),
    text(
        "store-datacenter",
        "",
        "Consul's datacenter that holds the cluster (default: that of the agent)",
    ),
    text(
        "store-username",
        "",
        "user for etcd or Consul, used together with --store-password-file",
    ),
    text(
        "store-password-file",
        "",
        "file with the password of --store-username",
    ),
    shared_variable("CONSUL_HTTP_TOKEN_FILE"),
    shared_variable("CONSUL_HTTP_TOKEN"),
    shared_variable("CONSUL_HTTP_AUTH"),
    text(
        "metrics-listen-address",
        "",
        "address for /metrics, /livez and /readyz, as 127.0.0.1:9100",
    ),
    text(
        "kube-resource-kind",
        "configmap",
        "the kind of object that holds the cluster data with --store-backend=kubernetes: configmap",
    ),
    shared_variable("KUBECONFIG"),
    shared_variable("HOME"),
    shared_variable("POD_NAME"),
    shared_variable("POD_NAMESPACE"),
    text("log-level", "info", "debug, info, warn or error"),
];

/// The flags of the daemons beyond those.
pub const DAEMON: &[Flag] = &[
    yes_no("log-color", "", "colour the log (default: on a terminal)"),
    text(
        "log-format",
        "text",
        "text, in the form of the Go program, or json",
    ),
];

/// What the store flags mean.
pub fn store(values: &Values) -> Result<(String, stolon_store::Config), String> {
    let cluster_name = values.required("cluster-name", "cluster name required", "any name")?;
    let backend = values.required("store-backend", "store backend type required", BACKENDS)?;
    let backend = Backend::from_name(&backend).map_err(|error| error.to_string())?;
    let endpoints: Vec<String> = values
        .text("store-endpoints")
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .map(str::to_owned)
        .collect();
    let timeout: GoDuration = values
        .text("store-timeout")
        .parse()
        .ok()
        .filter(|timeout: &GoDuration| !timeout.to_std().is_zero())
        .ok_or_else(|| values.invalid("store-timeout", "more than 0, as 5s or 1m30s"))?;
    let file = |name: &str| values.given(name).map(Into::into);
    let tls = Tls {
        certificate: file("store-cert-file"),
        key: file("store-key"),
        authority: file("store-ca-file"),
        skip_verify: values.is("store-skip-tls-verify")?,
    };
    let config = stolon_store::Config {
        backend,
        endpoints,
        prefix: values.text("store-prefix").to_owned(),
        cluster_name: cluster_name.clone(),
        timeout: timeout.to_std(),
        tls,
        access: access(values, backend)?,
        kube: kube(values, backend)?,
    };
    Ok((cluster_name, config))
}

/// How Kubernetes is reached: the flags of stolonctl, then what its own programs and manifests take
/// from the environment (contract, section 3).
fn kube(values: &Values, backend: Backend) -> Result<Kube, String> {
    if backend != Backend::Kubernetes {
        return Ok(Kube::default());
    }
    values.one_of("kube-resource-kind", &[("configmap", ())])?;
    let listed = values.given("KUBECONFIG");
    let looked_for = match (listed, values.given("HOME")) {
        (Some(listed), _) => std::env::split_paths(&listed)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        (None, Some(home)) => vec![std::path::Path::new(&home).join(".kube/config")],
        (None, None) => Vec::new(),
    };
    Ok(Kube {
        kubeconfig: values.given("kubeconfig").map(Into::into),
        looked_for,
        context: values.given("kube-context"),
        namespace: values.given("kube-namespace"),
        pod_namespace: values.given("POD_NAMESPACE"),
        pod_name: values.given("POD_NAME"),
    })
}

/// Who we are to the store, besides by a certificate. What Consul's own programs take from the
/// environment counts where no flag says otherwise (contract, section 3); there as here a file with
/// the token goes before the token.
fn access(values: &Values, backend: Backend) -> Result<Access, String> {
    let only_for = |name: &str, backends: &[Backend], named: &str| {
        let given = values.source(name) == Source::Flag && !backends.contains(&backend);
        if given {
            Err(format!("--{name} is for --store-backend={named}"))
        } else {
            Ok(())
        }
    };
    for name in ["store-token", "store-token-file", "store-datacenter"] {
        only_for(name, &[Backend::Consul], "consul")?;
    }
    let with_users = [Backend::Consul, Backend::Etcd2, Backend::Etcd3];
    only_for("store-username", &with_users, "etcdv3, etcdv2 or consul")?;
    let user = match (
        values.given("store-username"),
        values.given("store-password-file"),
    ) {
        (Some(user), Some(path)) => Some((user, password(&path)?)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err("--store-username and --store-password-file go together".to_owned());
        }
    };
    if backend != Backend::Consul {
        return Ok(Access {
            user,
            ..Access::default()
        });
    }
    let consul = consul_access(values);
    Ok(Access {
        user: user.or(consul.user),
        ..consul
    })
}

/// Who we are to Consul, whatever the store is: what Consul's own programs take from the environment
/// counts where no flag says otherwise.
pub fn consul_access(values: &Values) -> Access {
    let (mut token, mut token_file) = (
        values.given("store-token"),
        values.given("store-token-file"),
    );
    if token.is_none() && token_file.is_none() {
        token = values.given("CONSUL_HTTP_TOKEN");
        token_file = values.given("CONSUL_HTTP_TOKEN_FILE");
    }
    let user = values.given("CONSUL_HTTP_AUTH").map(|text| {
        let (user, password) = text.split_once(':').unwrap_or((&text, ""));
        (user.to_owned(), password.to_owned())
    });
    Access {
        token,
        token_file: token_file.map(Into::into),
        user,
        datacenter: values.given("store-datacenter"),
    }
}

fn password(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--store-password-file {path:?}: {error}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// What the daemons' common flags mean.
pub fn daemon(values: &Values) -> Result<CommonConfig, String> {
    let (cluster_name, store) = store(values)?;
    if store.backend == Backend::Kubernetes && store.kube.pod_name.is_none() {
        return Err(
            "missing environment variable POD_NAME, by which a component finds the pod it runs in: \
             set it from metadata.name"
                .to_owned(),
        );
    }
    let metrics_listen_address = match values.given("metrics-listen-address") {
        None => None,
        Some(text) => {
            // ":9100" is every address, as Go has it.
            let full = if text.starts_with(':') {
                format!("0.0.0.0{text}")
            } else {
                text.clone()
            };
            let valid = "an address and a port, as 127.0.0.1:9100 or :9100";
            let invalid = |error| {
                let what = values.invalid("metrics-listen-address", valid);
                format!("{what} ({error})")
            };
            let mut found = full.to_socket_addrs().map_err(invalid)?;
            found.next()
        }
    };
    Ok(CommonConfig {
        cluster_name,
        store,
        metrics_listen_address,
        log: log(values)?,
    })
}

/// How much is logged.
fn level(values: &Values) -> Result<Level, String> {
    let levels = [
        ("debug", Level::DEBUG),
        ("info", Level::INFO),
        ("warn", Level::WARN),
        ("error", Level::ERROR),
    ];
    values.one_of("log-level", &levels)
}

/// How a command logs.
pub fn command_log(values: &Values) -> Result<LogConfig, String> {
    Ok(LogConfig {
        level: level(values)?,
        color: std::io::stderr().is_terminal(),
        format: LogFormat::Text,
    })
}

fn log(values: &Values) -> Result<LogConfig, String> {
    let level = level(values)?;
    let color = match values.given("log-color") {
        None => std::io::stderr().is_terminal(),
        Some(_) => values.is("log-color")?,
    };
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Ok(LogConfig {
        level: if values.is("debug")? {
            Level::DEBUG
        } else {
            level
        },
        color,
        format: values.one_of("log-format", &formats)?,
    })
}
