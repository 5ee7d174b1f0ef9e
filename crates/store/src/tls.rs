//! Certificates for the connection to a store.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
    if let Some((certificate, key)) = identity(tls)? {
        client = client.identity(Identity::from_pem(certificate, key));
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

/// The same for what speaks HTTP/1.
pub(crate) fn rustls(tls: &Tls) -> Result<ClientConfig, Error> {
    let builder = versions()?;
    let builder = if tls.skip_verify {
        let verifier = Arc::new(AcceptAny::default());
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    } else {
        builder.with_root_certificates(authorities(tls)?)
    };
    let Some((certificate, key)) = identity(tls)? else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>();
    let refused = |error: &dyn std::fmt::Display| {
        Error::Config(format!("--store-cert-file and --store-key: {error}"))
    };
    let chain = chain.map_err(|error| refused(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| refused(&error))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| refused(&error))
}

/// For endpoints without TLS; certificates that are given all the same are told of.
pub(crate) fn unused(tls: &Tls) -> Result<ClientConfig, Error> {
    warn_unused(tls);
    let nobody = RootCertStore::empty();
    Ok(versions()?
        .with_root_certificates(nobody)
        .with_no_client_auth())
}

/// Says so when certificates are given that no endpoint asks for.
pub(crate) fn warn_unused(tls: &Tls) {
    if *tls != Tls::default() {
        tracing::warn!("the store's certificates are not used: its endpoints are http, not https");
    }
}

fn versions() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("TLS: {error}")))
}

/// Whom to believe: the authority that is given, else those of the system.
fn authorities(tls: &Tls) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &tls.authority else {
        // What cannot be read of the system's is left out, as everywhere.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let pem = certificates("--store-ca-file", path)?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        let refused = |error| Error::Config(format!("--store-ca-file {}: {error}", path.display()));
        added.map_err(refused)?;
    }
    Ok(roots)
}

/// The text of a file.
type Pem = Vec<u8>;

/// Who we are: certificate and key.
fn identity(tls: &Tls) -> Result<Option<(Pem, Pem)>, Error> {
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Ok(Some((
            certificates("--store-cert-file", certificate)?,
            private_key("--store-key", key)?,
        ))),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => {
            // The Go program ignores the one without the other too.
            tracing::warn!(
                "no client certificate is used: --store-cert-file and --store-key go together"
            );
            Ok(None)
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
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
        Self {
            provider: provider(),
        }
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
