//! The certificates of a cluster whose members connect by TLS: an authority, and one certificate that
//! all members show, as servers and as clients.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const NAMES: [&str; 3] = ["authority.crt", "member.crt", "member.key"];

/// Makes them.
pub(crate) fn write(folder: &Path) {
    let named = |name: &str| {
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters
    };
    let key = || KeyPair::generate().expect("a key");
    let (authority_key, member_key) = (key(), key());
    let mut authority = named("authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(authority, authority_key);
    let member = named("member").signed_by(&member_key, &issuer);
    let member = member.expect("a certificate");
    let texts = [root.pem(), member.pem(), member_key.serialize_pem()];
    for (name, text) in NAMES.iter().zip(texts) {
        super::cluster::write_secret(&folder.join(name), &text);
    }
}

/// What keepers are told of them.
pub(crate) fn flags(folder: &Path) -> Vec<String> {
    let [root, certificate, key] = NAMES.map(|name| folder.join(name).display().to_string());
    vec![
        "--pg-su-auth-method=scram-sha-256".to_owned(),
        "--pg-repl-auth-method=scram-sha-256".to_owned(),
        "--pg-ssl-mode=verify-ca".to_owned(),
        format!("--pg-ssl-root-cert={root}"),
        format!("--pg-ssl-cert={certificate}"),
        format!("--pg-ssl-key={key}"),
    ]
}

/// What instances are told of them.
pub(crate) fn parameters(folder: &Path) -> Vec<(&'static str, String)> {
    let [root, certificate, key] = NAMES.map(|name| folder.join(name).display().to_string());
    vec![
        ("ssl", "on".to_owned()),
        ("ssl_ca_file", root),
        ("ssl_cert_file", certificate),
        ("ssl_key_file", key),
    ]
}

/// Writes what a proxy on this machine shows its clients, by a new authority; its flags.
pub(crate) fn of_proxy(folder: &Path) -> [String; 2] {
    let names = ["clients-authority.crt", "proxy.crt", "proxy.key"];
    let key = || KeyPair::generate().expect("a key");
    let (authority_key, proxy_key) = (key(), key());
    let mut authority = CertificateParams::new(vec![]).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "clients");
    let root = authority.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(authority, authority_key);
    let names_shown = ["localhost", "127.0.0.1"].map(str::to_owned);
    let proxy = CertificateParams::new(names_shown).expect("parameters");
    let proxy = proxy.signed_by(&proxy_key, &issuer).expect("a certificate");
    let texts = [root.pem(), proxy.pem(), proxy_key.serialize_pem()];
    for (name, text) in names.iter().zip(texts) {
        super::cluster::write_secret(&folder.join(name), &text);
    }
    let [_, certificate, key] = names.map(|name| folder.join(name).display().to_string());
    [
        format!("--tls-cert-file={certificate}"),
        format!("--tls-key-file={key}"),
    ]
}

/// The authority of [`of_proxy`].
pub(crate) fn authority_of_proxy(folder: &Path) -> String {
    folder.join("clients-authority.crt").display().to_string()
}
