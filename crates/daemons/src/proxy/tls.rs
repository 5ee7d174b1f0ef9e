//! TLS that ends at the proxy: its certificates, read again when they change, and how a client asks
//! for it (PostgreSQL manual, "SSL Session Encryption").

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::config::Tls;
use super::greeting::{GSS_REQUEST, SSL_REQUEST, is_cancel};
use crate::runtime::reread::Reread;

/// How often it is looked whether the files have changed.
const LOOK: Duration = Duration::from_mins(1);
/// The protocol that clients name which begin with TLS at once (ALPN; PostgreSQL 17).
const PROTOCOL: &[u8] = b"postgresql";
/// The first byte of a TLS connection: a handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// What a request for encryption is as long as.
const REQUEST: usize = 8;

/// The certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// TLS as it is served now.
pub(super) struct Termination {
    files: Tls,
    now: RwLock<Served>,
}

struct Served {
    text: Text,
    config: Arc<ServerConfig>,
}

/// What was in the files.
#[derive(PartialEq, Eq)]
struct Text {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Option<Vec<u8>>,
}

/// What a client that has just come wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No TLS: what it sent is still to be read.
    Plain,
    /// The same, where TLS is required.
    Refused,
    /// TLS, and it was told to begin.
    Tls,
    /// TLS, and it has begun.
    DirectTls,
}

impl Termination {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When they cannot be used, with the flag, the file and what to do.
    pub(super) fn load(files: &Tls) -> Result<Self, Error> {
        let text = Text::read(files)?;
        let config = Arc::new(text.config(files)?);
        Ok(Self {
            files: files.clone(),
            now: RwLock::new(Served { text, config }),
        })
    }

    /// Serves the handshake of one client.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(now.config.clone())
    }

    /// Reads the files again; whether something changed. On an error those of before stay in force.
    pub(super) fn reread(&self) -> Result<bool, Error> {
        let text = Text::read(&self.files)?;
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = now.text == text;
        drop(now);
        if is_known {
            return Ok(false);
        }
        let config = Arc::new(text.config(&self.files)?);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Served { text, config };
        Ok(true)
    }

    /// What a client wants that has just come; it has `patience` to say so.
    ///
    /// # Errors
    ///
    /// It is gone, or said nothing that begins a connection.
    pub(super) async fn wish(
        &self,
        client: &mut TcpStream,
        patience: Duration,
    ) -> std::io::Result<Wish> {
        timeout(patience, asked(client, self.files.required)).await?
    }
}

/// For as long as the proxy runs: reads certificates again at SIGHUP and when the files change.
pub(super) async fn follow(termination: Option<Arc<Termination>>) {
    let mut hangup = match Reread::on_hangup() {
        Ok(hangup) => hangup,
        Err(error) => return tracing::warn!(%error, "a SIGHUP will end this program"),
    };
    let mut said = None;
    loop {
        let asked = tokio::select! {
            () = hangup.requested() => true,
            () = tokio::time::sleep(LOOK), if termination.is_some() => false,
        };
        let Some(termination) = termination.clone() else {
            tracing::info!("nothing to read again: flags take a restart, or SIGUSR2");
            continue;
        };
        let reread = tokio::task::spawn_blocking(move || termination.reread()).await;
        let reread = reread.unwrap_or_else(|error| Err(Error(error.to_string())));
        match &reread {
            Ok(true) => tracing::info!("certificates were read again: they changed"),
            Ok(false) if asked => tracing::info!("certificates were read again: nothing changed"),
            // Once, and when somebody waits for the answer.
            Err(error) if asked || said.as_ref() != Some(error) => {
                tracing::error!(%error, "the certificates of before stay in force");
            }
            Ok(false) | Err(_) => {}
        }
        said = reread.err();
    }
}

impl Text {
    fn read(files: &Tls) -> Result<Self, Error> {
        let read = |flag: &str, path: &Path| {
            std::fs::read(path)
                .map_err(|error| Error(format!("--{flag} {}: {error}", path.display())))
        };
        let authority = files.client_authority.as_deref();
        Ok(Self {
            certificate: read("tls-cert-file", &files.certificate)?,
            key: read("tls-key-file", &files.key)?,
            authority: authority
                .map(|path| read("tls-client-ca-file", path))
                .transpose()?,
        })
    }

    fn config(&self, files: &Tls) -> Result<ServerConfig, Error> {
        let refused = |flag: &str, path: &Path, why: String| {
            Error(format!("--{flag} {}: {why}", path.display()))
        };
        let chain = certificates(&self.certificate)
            .map_err(|why| refused("tls-cert-file", &files.certificate, why))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let why = "no private key in it (PEM without a passphrase is expected)";
            refused("tls-key-file", &files.key, format!("{why}: {error}"))
        })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error(format!("TLS: {error}")))?;
        let builder = match (&self.authority, &files.client_authority) {
            (Some(text), Some(path)) => {
                let verifier =
                    verifier(text).map_err(|why| refused("tls-client-ca-file", path, why))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            Error(format!(
                "--tls-cert-file {} and --tls-key-file {} are not a pair that can be served: {error}; \
                 the first certificate must be the server's own, those that signed it follow",
                files.certificate.display(),
                files.key.display()
            ))
        })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

fn verifier(text: &[u8]) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|error| format!("not a PEM file: {error}"))?;
    if all.is_empty() {
        return Err("no certificate in it (PEM is expected)".to_owned());
    }
    Ok(all)
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Looks at what a client sends first, and answers requests for encryption.
async fn asked(client: &mut TcpStream, required: bool) -> std::io::Result<Wish> {
    // GSS encryption may be asked for once, then TLS.
    for _ in 0..2 {
        let start = look(client).await?;
        let [length @ .., a, b, c, d] = start;
        match u32::from_be_bytes([a, b, c, d]) {
            _ if start.starts_with(&[HANDSHAKE]) => return Ok(Wish::DirectTls),
            SSL_REQUEST if length == [0, 0, 0, 8] => {
                // Nothing that follows it is taken: what comes before the handshake is no part of it.
                client.read_exact(&mut [0; REQUEST]).await?;
                client.write_all(b"S").await?;
                return Ok(Wish::Tls);
            }
            GSS_REQUEST if length == [0, 0, 0, 8] => {
                client.read_exact(&mut [0; REQUEST]).await?;
                client.write_all(b"N").await?;
            }
            // Drivers ask to cancel without TLS, libpq before version 17 too.
            code if required && !is_cancel(code) => return Ok(Wish::Refused),
            _ => return Ok(Wish::Plain),
        }
    }
    Ok(Wish::Refused)
}

/// The first bytes of what is to be read next, which stay where they are.
async fn look(client: &TcpStream) -> std::io::Result<[u8; REQUEST]> {
    use rustix::net::{RecvFlags, recv};
    let mut start = [0; REQUEST];
    let peek = || -> std::io::Result<()> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (count, _) = recv(client, &mut start[..], flags)?;
        match count {
            REQUEST => Ok(()),
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            // More of it makes the socket ready anew.
            _ => Err(std::io::ErrorKind::WouldBlock.into()),
        }
    };
    client.async_io(Interest::READABLE, peek).await?;
    Ok(start)
}
