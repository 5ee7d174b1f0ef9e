//! The port with TLS, and the certificates for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::server::TlsStream;

/// That a request came by TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByTls;

/// How the server is known.
pub(crate) struct Secure {
    port: u16,
    config: Arc<ServerConfig>,
    authority: PathBuf,
}

/// Takes connections as they have agreed on TLS.
struct Listener {
    agreed: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Secure {
    /// With an authority and a certificate of its own.
    pub(crate) fn new(folder: &Path, port: u16) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned()];
        let params = rcgen::CertificateParams::new(names).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = folder.join("kube-authority.crt");
        std::fs::write(&authority, certificate.pem()).expect("written");
        let chain = CertificateDer::from_pem_slice(certificate.pem().as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes());
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain.expect("PEM")], key.expect("PEM"))
            .expect("a certificate and its key");
        Self {
            port,
            config: Arc::new(config),
            authority,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file by which clients know the server.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    /// Begins to answer.
    pub(crate) fn listen(&self, runtime: &tokio::runtime::Runtime, router: axum::Router) {
        let listener = bind(self.port);
        let address = listener.local_addr().expect("an address");
        let acceptor = TlsAcceptor::from(self.config.clone());
        let (sender, agreed) = mpsc::channel(64);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, from)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send((stream, from)).await;
                    }
                });
            }
        });
        let router = router.layer(axum::Extension(ByTls));
        let listener = Listener { agreed, address };
        runtime.spawn(async move { axum::serve(listener, router).await });
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.agreed.recv().await {
            Some(agreed) => agreed,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Listens; connections of a server that was just ended may still hold the port.
pub(crate) fn bind(port: u16) -> std::net::TcpListener {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => {
                listener.set_nonblocking(true).expect("a listener");
                return listener;
            }
            Err(error) if std::time::Instant::now() > end => panic!("{port}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
