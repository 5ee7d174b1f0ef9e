//! Authorities, what they sign, and how a connection comes out.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use stolon_postgres::query::{Session, Target};

use super::server::LIMIT;

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// Its certificate.
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = addressed();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        let file = folder.join(format!("{name}.crt"));
        std::fs::write(&file, &certificate).expect("written");
        let issuer = Issuer::new(parameters, key);
        Self {
            issuer,
            certificate,
            file,
        }
    }

    /// Gives a server a certificate for 127.0.0.1.
    pub(crate) fn sign(&self, pgdata: &Path) {
        let key = KeyPair::generate().expect("a key");
        let certificate = addressed().signed_by(&key, &self.issuer);
        let certificate = certificate.expect("a certificate").pem();
        install(pgdata, &certificate, &key.serialize_pem());
    }

    /// Gives a server the authority itself.
    pub(crate) fn serve(&self, pgdata: &Path) {
        install(
            pgdata,
            &self.certificate,
            &self.issuer.key().serialize_pem(),
        );
    }
}

fn addressed() -> CertificateParams {
    let mut parameters = CertificateParams::new(vec![]).expect("parameters");
    parameters.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    parameters
}

fn install(pgdata: &Path, certificate: &str, key: &str) {
    let file = pgdata.join("server.key");
    std::fs::write(pgdata.join("server.crt"), certificate).expect("written");
    std::fs::write(&file, key).expect("written");
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file, owner_only).expect("its mode");
}

/// Connects: whether with TLS, or a part of why not.
pub(crate) async fn check(target: &Target, expected: &Result<String, String>) {
    let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let outcome = match Session::connect(target, LIMIT).await {
        Ok(session) => Ok(session
            .value("test", sql)
            .await
            .expect(sql)
            .unwrap_or_default()),
        Err(error) => Err(error.to_string()),
    };
    let is_expected = match (&outcome, expected) {
        (Ok(seen), Ok(expected)) => seen == expected,
        (Err(said), Err(part)) => said.contains(part),
        _ => false,
    };
    assert!(is_expected, "{target:?}: {outcome:?}, not {expected:?}");
}
