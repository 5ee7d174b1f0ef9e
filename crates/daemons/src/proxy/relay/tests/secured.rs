//! Clients whose TLS ends at the relay.

use super::{LIMIT, START_UP, connect, held, refusal, to, within};
use crate::proxy::config::{Config, Keepalive, Tls};
use crate::proxy::metrics;
use crate::proxy::relay::Relay;
use crate::proxy::tls::Termination;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stolon_core::proxy::Route;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];
const CANCEL: &[u8] = &[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 42, 1, 2, 3, 4];

/// An authority, and what it signed for the relay and for a client: certificates and keys as text.
struct Certificates {
    authority: String,
    server: [String; 2],
    client: [String; 2],
}

impl Certificates {
    fn new() -> Self {
        let key = || KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(vec![]).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = key();
        let root = authority.self_signed(&authority_key).expect("an authority");
        let issuer = Issuer::new(authority, authority_key);
        let signed = |name: &str| {
            let (key, parameters) = (key(), CertificateParams::new(vec![name.to_owned()]));
            let certificate = parameters.expect("parameters").signed_by(&key, &issuer);
            [
                certificate.expect("a certificate").pem(),
                key.serialize_pem(),
            ]
        };
        Self {
            authority: root.pem(),
            server: signed("localhost"),
            client: signed("client"),
        }
    }

    /// The files of a relay.
    fn write(&self, folder: &Path) -> Tls {
        let [certificate, key] = &self.server;
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        file("ca.pem", &self.authority);
        Tls {
            certificate: file("cert.pem", certificate),
            key: file("key.pem", key),
            client_authority: None,
            required: false,
        }
    }

    fn connector(&self, protocol: Option<&[u8]>, shows: bool) -> TlsConnector {
        let der = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&self.authority)).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let [certificate, key] = &self.client;
        let mut config = if shows {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            let config = builder.with_client_auth_cert(vec![der(certificate)], key);
            config.expect("a certificate")
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
        TlsConnector::from(Arc::new(config))
    }

    async fn shake(
        &self,
        stream: TcpStream,
        protocol: Option<&[u8]>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        within(self.connector(protocol, false).connect(name, stream)).await
    }

    /// A client that asks for TLS as all versions of libpq do.
    async fn client(&self, port: u16) -> TlsStream<TcpStream> {
        let stream = asks(port).await;
        self.shake(stream, None).await.expect("a handshake")
    }
}

/// A client that was told to begin with TLS.
async fn asks(port: u16) -> TcpStream {
    let mut stream = connect(port).await;
    within(stream.write_all(SSL_REQUEST))
        .await
        .expect("written");
    assert_eq!(answered(&mut stream).await, b'S');
    stream
}

async fn answered(stream: &mut TcpStream) -> u8 {
    within(stream.read_u8()).await.expect("an answer")
}

/// A relay with these certificates, which holds clients for as long as tests wait.
fn relay(tls: &Tls) -> (Relay, u16) {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let config = Config {
        hold_timeout: LIMIT,
        ..config
    };
    let mut relay = Relay::new(&config, &metrics::registry("test").1, 4096).expect("threads");
    relay.terminate(Arc::new(Termination::load(tls).expect("certificates")));
    relay.listen(true);
    (relay, config.port)
}

/// A relay that forwards to a server, with certificates of its own.
struct World {
    relay: Relay,
    port: u16,
    server: TcpListener,
    certificates: Certificates,
    tls: Tls,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(required: bool, client_certificates: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::new();
        let tls = Tls {
            required,
            client_authority: client_certificates.then(|| folder.path().join("ca.pem")),
            ..certificates.write(folder.path())
        };
        let (relay, port) = relay(&tls);
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
        relay.set_route(&to(&server, LIMIT * 5));
        Self {
            relay,
            port,
            server,
            certificates,
            tls,
            _folder: folder,
        }
    }

    async fn session(&self) -> TcpStream {
        within(self.server.accept()).await.expect("a session").0
    }

    /// That the server of the relay gets these bytes, first.
    async fn gets(&self, expected: &[u8]) -> TcpStream {
        let mut session = self.session().await;
        let mut got = vec![0; expected.len()];
        within(session.read_exact(&mut got)).await.expect("bytes");
        assert_eq!(got, expected);
        session
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_by_tls_reaches_its_server_and_back() {
    const MUCH: usize = 3_000_000;
    let world = World::new(true, false).await;
    for direct in [false, true] {
        let mut client = if direct {
            let stream = connect(world.port).await;
            let shaken = world.certificates.shake(stream, Some(b"postgresql")).await;
            shaken.expect("a handshake")
        } else {
            world.certificates.client(world.port).await
        };
        within(client.write_all(START_UP)).await.expect("written");
        let mut session = world.gets(START_UP).await;
        let sending = async {
            session.write_all(&vec![7; MUCH]).await?;
            session.shutdown().await
        };
        let mut answer = Vec::new();
        let (sent, got) =
            within(async { tokio::join!(sending, client.read_to_end(&mut answer)) }).await;
        sent.expect("sent");
        got.expect("the end, and the word that it is");
        assert!(answer.len() == MUCH && answer.iter().all(|byte| *byte == 7));
        within(client.shutdown()).await.expect("closed");
        let mut rest = Vec::new();
        let end = within(session.read_to_end(&mut rest)).await;
        assert_eq!(end.expect("the end"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_begins_at_once_names_postgresql() {
    let world = World::new(false, false).await;
    for protocol in [None, Some(b"http/1.1".as_slice())] {
        let stream = connect(world.port).await;
        if let Ok(mut client) = world.certificates.shake(stream, protocol).await {
            let ended = within(client.read(&mut [0; 1])).await;
            assert!(!matches!(ended, Ok(1)), "{protocol:?}");
        }
    }
    let failed = &world.relay.shared.metrics.handshakes_failed;
    within(async {
        while failed.get() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_cancel_reaches_the_server_by_tls_and_without() {
    let world = World::new(true, false).await;
    let mut client = world.certificates.client(world.port).await;
    within(client.write_all(CANCEL)).await.expect("written");
    world.gets(CANCEL).await;
    // As libpq before version 17 and many drivers, whatever the session itself does.
    let mut client = connect(world.port).await;
    within(client.write_all(CANCEL)).await.expect("written");
    world.gets(CANCEL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_for_tls_passes_or_is_told_to() {
    let open = World::new(false, false).await;
    let mut client = connect(open.port).await;
    // In two pieces, which are looked at together.
    within(client.write_all(&START_UP[..3]))
        .await
        .expect("written");
    tokio::time::sleep(Duration::from_millis(20)).await;
    within(client.write_all(&START_UP[3..]))
        .await
        .expect("written");
    open.gets(START_UP).await;

    let closed = World::new(true, false).await;
    for preface in [&[][..], GSS_REQUEST] {
        let mut client = connect(closed.port).await;
        within(client.write_all(preface)).await.expect("written");
        if !preface.is_empty() {
            assert_eq!(answered(&mut client).await, b'N');
        }
        within(client.write_all(START_UP)).await.expect("written");
        let answer = refusal(&mut client).await;
        assert!(
            answer.contains("C28000") && answer.contains("sslmode"),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_may_follow_a_refused_gss_encryption_and_nothing_comes_before_it() {
    let world = World::new(true, false).await;
    let mut stream = connect(world.port).await;
    within(stream.write_all(GSS_REQUEST))
        .await
        .expect("written");
    assert_eq!(answered(&mut stream).await, b'N');
    within(stream.write_all(SSL_REQUEST))
        .await
        .expect("written");
    assert_eq!(answered(&mut stream).await, b'S');
    let mut client = world.certificates.shake(stream, None).await.expect("TLS");
    within(client.write_all(START_UP)).await.expect("written");
    world.gets(START_UP).await;
    // What somebody on the way puts before the handshake is no part of the session.
    let mut stream = connect(world.port).await;
    let both = [SSL_REQUEST, START_UP].concat();
    within(stream.write_all(&both)).await.expect("written");
    assert_eq!(answered(&mut stream).await, b'S');
    let mut rest = Vec::new();
    drop(within(stream.read_to_end(&mut rest)).await);
    let nobody = tokio::time::timeout(Duration::from_millis(100), world.server.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_by_tls_is_held_let_through_and_told_as_others_are() {
    let world = World::new(true, false).await;
    world
        .relay
        .set_route(&Route::Closed("an election goes on".into()));
    let mut client = world.certificates.client(world.port).await;
    within(client.write_all(START_UP)).await.expect("written");
    held(&world.relay, 1).await;
    world.relay.set_route(&to(&world.server, LIMIT));
    world.gets(START_UP).await;

    world
        .relay
        .set_route(&Route::Closed("an election goes on".into()));
    let mut client = world.certificates.client(world.port).await;
    within(client.write_all(START_UP)).await.expect("written");
    held(&world.relay, 1).await;
    world.relay.shared.last.cancel();
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.expect("told");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("C57P03") && answer.contains("stopping"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_client_by_tls_is_handed_over_after_the_deadline() {
    // I1, I6: also what was decrypted already.
    let world = World::new(true, false).await;
    let mut client = world.certificates.client(world.port).await;
    within(client.write_all(START_UP)).await.expect("written");
    let mut session = world.gets(START_UP).await;
    // The leave ends now, and nobody has closed yet.
    world.relay.set_route(&to(&world.server, Duration::ZERO));
    drop(client.write_all(b"late").await);
    let got = within(session.read(&mut [0; 8])).await;
    assert!(!matches!(got, Ok(1..)), "a late byte came through: {got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_demanded_of_clients_where_there_is_an_authority_for_it() {
    let world = World::new(true, true).await;
    for shows in [true, false] {
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = world.certificates.connector(None, shows);
        let client = within(connector.connect(name, asks(world.port).await)).await;
        // By TLS 1.3 a client hears of it with the first thing that it reads.
        let mut client = client.expect("its half of a handshake");
        drop(client.write_all(START_UP).await);
        if shows {
            world.gets(START_UP).await;
        } else {
            within(client.read(&mut [0; 1]))
                .await
                .expect_err("an alert");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_count_and_unusable_ones_leave_those_of_before_in_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (Certificates::new(), Certificates::new());
    let tls = first.write(folder.path());
    let termination = Termination::load(&tls).expect("certificates");
    assert_eq!(termination.reread(), Ok(false));
    let serves = async |certificates: &Certificates| {
        let (near, far) = tokio::io::duplex(65_536);
        let name = ServerName::try_from("localhost").expect("a name");
        let shaken = within(async {
            tokio::join!(
                certificates.connector(None, false).connect(name, near),
                termination.acceptor().accept(far)
            )
        });
        shaken.await.0.is_ok()
    };
    // Half of a replacement: the key does not belong to the certificate yet.
    std::fs::write(&tls.certificate, &second.server[0]).expect("a file");
    let error = termination.reread().expect_err("no pair").to_string();
    for words in [
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "key.pem",
        "not a pair",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert!(serves(&first).await && !serves(&second).await);
    second.write(folder.path());
    assert_eq!(termination.reread(), Ok(true));
    assert!(serves(&second).await && !serves(&first).await);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_the_remedy() {
    let world = World::new(true, true).await;
    let refused = |file: &Path, text: &str, expected: [&str; 2]| {
        let before = std::fs::read(file).expect("a file");
        std::fs::write(file, text).expect("a file");
        let error = Termination::load(&world.tls)
            .err()
            .expect("refused")
            .to_string();
        std::fs::write(file, before).expect("a file");
        let name = file.file_name().expect("a name").to_string_lossy();
        for words in expected.into_iter().chain([name.as_ref()]) {
            assert!(error.contains(words), "{error}");
        }
    };
    let [certificate, key] = &world.certificates.server;
    let authority = world.tls.client_authority.clone().expect("an authority");
    refused(
        &world.tls.certificate,
        key,
        ["--tls-cert-file", "no certificate"],
    );
    refused(
        &world.tls.key,
        certificate,
        ["--tls-key-file", "without a passphrase"],
    );
    refused(&authority, "", ["--tls-client-ca-file", "no certificate"]);
    let missing = Tls {
        key: "/nowhere/key.pem".into(),
        ..world.tls.clone()
    };
    let error = Termination::load(&missing)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("--tls-key-file /nowhere/key.pem: No such file"),
        "{error}"
    );
}
