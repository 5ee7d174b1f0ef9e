//! Certificates for the connection to a store.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::{Error, Tls};

/// How connections are secured.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Whom to believe, and who we are.
    pub(crate) client: ClientTlsConfig,
    /// What accepts the server instead, when its certificate is not to be verified.
    pub(crate) verifier: Option<Arc<dyn ServerCertVerifier>>,
}

/// Reads the files, and refuses what would only fail later, at every connection.
pub(crate) fn load(tls: &Tls) -> Result<Client, Error> {
    let mut client = ClientTlsConfig::new();
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let certificate = certificates("--store-cert-file", certificate)?;
        let key = private_key("--store-key", key)?;
        client = client.identity(Identity::from_pem(certificate, key));
    } else if tls.certificate.is_some() || tls.key.is_some() {
        // The Go program ignores the one without the other too.
        tracing::warn!(
            "no client certificate is used: --store-cert-file and --store-key go together"
        );
    }
    if tls.skip_verify {
        let verifier = Arc::new(AcceptAny::default());
        return Ok(Client {
            client,
            verifier: Some(verifier),
        });
    }
    client = match &tls.authority {
        None => client.with_native_roots(),
        Some(path) => {
            let pem = certificates("--store-ca-file", path)?;
            client.ca_certificate(Certificate::from_pem(pem))
        }
    };
    Ok(Client {
        client,
        verifier: None,
    })
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| Error::Config(format!("{flag} {}: {error}", path.display())))
}

/// The text of a file with at least one certificate.
fn certificates(flag: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(flag, path)?;
    let refused = |why: String| Error::Config(format!("{flag} {}: {why}", path.display()));
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|error| refused(format!("not a PEM file: {error}")))?;
        count += 1;
    }
    if count == 0 {
        return Err(refused("no certificate in it (PEM is expected)".to_owned()));
    }
    Ok(pem)
}

/// The text of a file with a private key.
fn private_key(flag: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(flag, path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(Error::Config(format!(
            "{flag} {}: no private key in it (PEM without a passphrase is expected): {error}",
            path.display()
        ))),
    }
}

/// Accepts every server that holds the key of the certificate it shows.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl Default for AcceptAny {
    fn default() -> Self {
        let provider = CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
        Self { provider }
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
