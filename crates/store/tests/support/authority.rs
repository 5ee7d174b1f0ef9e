//! Certificates for the tests of TLS.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// An authority in a folder, and what it signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, certificate.pem()).expect("written");
        let issuer = Issuer::new(parameters, key);
        Self { issuer, file }
    }

    /// The files of a certificate for 127.0.0.1.
    pub(crate) fn sign(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let pair = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![]).expect("parameters");
        parameters.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let certificate = parameters
            .signed_by(&pair, &self.issuer)
            .expect("a certificate");
        let files = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&files.0, certificate.pem()).expect("written");
        std::fs::write(&files.1, pair.serialize_pem()).expect("written");
        files
    }
}
