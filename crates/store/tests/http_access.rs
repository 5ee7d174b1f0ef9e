//! Who may use the stores that speak HTTP: tokens, users, certificates, and what is said when it
//! does not suffice.

#[path = "support/authority.rs"]
mod authority;
#[path = "support/consul.rs"]
#[allow(dead_code, reason = "shared with the tests of its failures")]
mod consul;
#[path = "support/etcd.rs"]
#[allow(dead_code, reason = "shared with the tests of version 3")]
mod etcd;
#[path = "../../../testing/plain_http.rs"]
mod plain_http;

use std::process::Command;
use std::time::Duration;

use authority::Authority;
use consul::{Consul, consul_or_not_run};
use etcd::server::{Server, free_port, reach};
use etcd::{Certificates, Etcd, eventually, ready};
use serde_json::json;
use stolon_store::{Access, Backend, Config, Error, Key, Tls, Written};

const LIMIT: Duration = Duration::from_secs(5);

async fn failure(config: &Config) -> Error {
    let store = stolon_store::open(config).expect("a store");
    store.get(&Key::ClusterData).await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_wants_a_token_and_takes_a_new_one_from_its_file() {
    let test = "consul_wants_a_token_and_takes_a_new_one_from_its_file";
    let Some(program) = consul_or_not_run(test) else {
        return;
    };
    let token = "6b5b5ac9-5d3e-4e3a-9a7c-0d6d3ae0b4a1";
    let acl = json!({ "acl": {
        "enabled": true, "default_policy": "deny", "tokens": { "master": token },
    }});
    let consul = Consul::start(&program, &acl, false);
    let config = reach(Backend::Consul, vec![consul.server.endpoint.clone()], LIMIT);
    let with = |access: Access| Config {
        access,
        ..config.clone()
    };
    let given = with(Access {
        token: Some(token.to_owned()),
        ..Access::default()
    });
    ready(&stolon_store::open(&given).expect("a store")).await;

    // Without any, keys are hidden rather than refused; writing tells.
    let store = stolon_store::open(&config).expect("a store");
    let outcome = store.put(&Key::ClusterData, b"x").await;
    let Written::No(Error::Denied { cause, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(cause.contains("--store-token-file"), "{cause}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "expired").expect("written");
    let from_file = with(Access {
        token_file: Some(file.clone()),
        ..Access::default()
    });
    let error = failure(&from_file).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let store = stolon_store::open(&from_file).expect("a store");
    let mut watch = store.watch();
    std::fs::write(&file, format!("{token}\n")).expect("written");
    ready(&store).await;
    store
        .publish(&Key::History, b"h", Duration::from_secs(20))
        .await
        .expect("published");
    tokio::time::timeout(etcd::LIMIT, watch.changed())
        .await
        .expect("the watch goes on");

    let elsewhere = with(Access {
        token: Some(token.to_owned()),
        datacenter: Some("nowhere".to_owned()),
        ..Access::default()
    });
    let error = failure(&elsewhere).await.to_string();
    assert!(error.contains("--store-datacenter"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_wants_a_user_of_its_version_2_api() {
    let etcd = Etcd::single().await;
    let endpoint = etcd.servers[0].endpoint.clone();
    let address = endpoint.trim_start_matches("http://");
    for (method, path, body) in [
        (
            "PUT",
            "/v2/auth/users/root",
            r#"{"user":"root","password":"secret"}"#,
        ),
        ("PUT", "/v2/auth/enable", ""),
    ] {
        plain_http::ask(address, method, path, body).expect("done");
    }
    let mut config = reach(Backend::Etcd2, vec![endpoint], LIMIT);
    config.access.user = Some(("root".to_owned(), "wrong".to_owned()));
    let error = failure(&config).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("--store-username"), "{error}");
    config.access.user = Some(("root".to_owned(), "secret".to_owned()));
    ready(&stolon_store::open(&config).expect("a store")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_without_its_version_2_api_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let mut command = Command::new("etcd");
    command
        .args(["--logger", "zap", "--initial-cluster"])
        .arg(format!("default={peer}"))
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--listen-client-urls",
            &endpoint,
            "--advertise-client-urls",
            &endpoint,
        ])
        .arg("--data-dir")
        .arg(folder.path().join("data"));
    let _server = Server::start(command, &folder.path().join("log"), endpoint.clone());
    let config = reach(Backend::Etcd2, vec![endpoint], LIMIT);
    let store = stolon_store::open(&config).expect("a store");
    let text = eventually("it answers", || async {
        match store.get(&Key::ClusterData).await {
            Err(Error::Denied { cause, .. }) => Some(cause),
            _ => None,
        }
    })
    .await;
    assert!(text.contains("--enable-v2=true"), "{text}");
    assert!(text.contains("etcdv3"), "{text}");
}

/// A server that speaks TLS to clients that its authority knows.
enum Secure {
    Etcd(Etcd),
    Consul(Box<Consul>),
}

async fn each_side_must_know_the_other(backend: Backend, program: Option<std::path::PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let (certificate, key) = ours.sign(folder.path(), "server");
    let (client, client_key) = ours.sign(folder.path(), "client");
    let (stranger, stranger_key) = theirs.sign(folder.path(), "stranger");
    let files = Certificates {
        authority: ours.file.clone(),
        certificate,
        key,
    };
    let server = match program {
        Some(program) => {
            let tls = json!({
                "ca_file": files.authority, "cert_file": files.certificate,
                "key_file": files.key, "verify_incoming_https": true,
            });
            Secure::Consul(Box::new(Consul::start(&program, &tls, true)))
        }
        None => Secure::Etcd(Etcd::secure(&files).await),
    };
    let endpoint = match &server {
        Secure::Etcd(etcd) => etcd.servers[0].endpoint.clone(),
        Secure::Consul(consul) => consul.server.endpoint.clone(),
    };
    let mut config = reach(backend, vec![endpoint.clone()], LIMIT);
    let good = Tls {
        certificate: Some(client),
        key: Some(client_key),
        authority: Some(ours.file.clone()),
        skip_verify: false,
    };
    config.tls = good.clone();
    ready(&stolon_store::open(&config).expect("a store")).await;
    config.tls.authority = None;
    config.tls.skip_verify = true;
    ready(&stolon_store::open(&config).expect("a store")).await;

    let unknown_server = Tls {
        authority: Some(theirs.file.clone()),
        ..good.clone()
    };
    let nobody = Tls {
        certificate: None,
        key: None,
        ..good.clone()
    };
    let somebody_else = Tls {
        certificate: Some(stranger),
        key: Some(stranger_key),
        ..good
    };
    for (remedy, tls) in [
        ("--store-ca-file", unknown_server),
        ("--store-cert-file", nobody),
        ("--store-cert-file", somebody_else),
    ] {
        config.tls = tls;
        let error = failure(&config).await;
        assert!(matches!(error, Error::Tls { .. }), "{remedy}: {error}");
        let text = error.to_string();
        assert!(text.contains(remedy), "{text}");
        assert!(text.contains(&endpoint), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_and_its_clients_must_know_each_other() {
    each_side_must_know_the_other(Backend::Etcd2, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_and_its_clients_must_know_each_other() {
    let test = "consul_and_its_clients_must_know_each_other";
    if let Some(program) = consul_or_not_run(test) {
        each_side_must_know_the_other(Backend::Consul, Some(program)).await;
    }
}
