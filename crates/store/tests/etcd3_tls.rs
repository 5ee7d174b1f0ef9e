//! TLS between a store and etcd: whom each side believes, and what is said when it does not.

#[path = "support/authority.rs"]
mod authority;
#[path = "support/etcd.rs"]
#[allow(dead_code, reason = "shared with the other tests of etcd")]
mod etcd;

use std::time::Duration;

use authority::Authority;

use etcd::{Certificates, Etcd, ready};
use stolon_store::{Config, Error, Key, Tls};

async fn failure(config: &Config) -> Error {
    let store = stolon_store::open(config).expect("a store");
    store.get(&Key::ClusterData).await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_must_know_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let (certificate, key) = ours.sign(folder.path(), "server");
    let (client, client_key) = ours.sign(folder.path(), "client");
    let (stranger, stranger_key) = theirs.sign(folder.path(), "stranger");
    let etcd = Etcd::secure(&Certificates {
        authority: ours.file.clone(),
        certificate,
        key,
    })
    .await;
    let mut config = etcd.config(Duration::from_secs(5));
    let good = Tls {
        certificate: Some(client.clone()),
        key: Some(client_key.clone()),
        authority: Some(ours.file.clone()),
        skip_verify: false,
    };

    config.tls = good.clone();
    ready(&stolon_store::open(&config).expect("a store")).await;
    config.tls.authority = None;
    config.tls.skip_verify = true;
    ready(&stolon_store::open(&config).expect("a store")).await;

    let cases = [
        (
            "--store-ca-file",
            Tls {
                authority: Some(theirs.file.clone()),
                ..good.clone()
            },
        ),
        (
            "--store-cert-file",
            Tls {
                certificate: None,
                key: None,
                ..good.clone()
            },
        ),
        (
            "--store-cert-file",
            Tls {
                certificate: Some(stranger),
                key: Some(stranger_key),
                ..good.clone()
            },
        ),
    ];
    for (remedy, tls) in cases {
        config.tls = tls;
        let error = failure(&config).await;
        assert!(matches!(error, Error::Tls { .. }), "{remedy}: {error}");
        let text = error.to_string();
        assert!(text.contains(remedy), "{text}");
        assert!(text.contains(&etcd.servers[0].endpoint), "{text}");
    }

    config.endpoints = vec![etcd.servers[0].endpoint.replace("https", "http")];
    config.timeout = Duration::from_secs(1);
    let error = failure(&config).await.to_string();
    assert!(error.contains("https"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_told_from_one_that_is_not_believed() {
    let etcd = Etcd::single().await;
    let mut config = etcd.config(Duration::from_secs(5));
    config.endpoints = vec![etcd.servers[0].endpoint.replace("http", "https")];
    config.tls.skip_verify = true;
    let error = failure(&config).await;
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains("is it http?"), "{error}");
}

#[test]
fn files_that_are_no_certificates_are_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("empty.pem");
    std::fs::write(&path, "no certificate").expect("written");
    let missing = folder.path().join("missing.pem");
    let (signed, key) = Authority::new(folder.path(), "a").sign(folder.path(), "b");
    let cases = [
        (
            "--store-ca-file",
            Tls {
                authority: Some(path.clone()),
                ..Tls::default()
            },
        ),
        (
            "--store-ca-file",
            Tls {
                authority: Some(missing),
                ..Tls::default()
            },
        ),
        (
            "--store-cert-file",
            Tls {
                certificate: Some(path.clone()),
                key: Some(key),
                ..Tls::default()
            },
        ),
        (
            "--store-key",
            Tls {
                certificate: Some(signed),
                key: Some(path),
                ..Tls::default()
            },
        ),
    ];
    for (flag, tls) in cases {
        let mut config = etcd::config(vec!["https://a:1".to_owned()], Duration::from_secs(5));
        config.tls = tls;
        let error = stolon_store::open(&config).expect_err("refused");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().starts_with(flag), "{error}");
    }
}
