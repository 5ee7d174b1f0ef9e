//! The port for clients that only read.

use std::time::Duration;

use super::{LIMIT, START_UP, connect, metrics, refusal, relay_for, within};
use crate::proxy::config::Keepalive;
use crate::proxy::greeting;
use crate::proxy::relay::Relay;
use crate::runtime::clock;
use stolon_core::proxy::{Passage, Passages, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn relay() -> (Relay, u16) {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let mut relay = relay_for(metrics::Port::ReadOnly, &config, 1024);
    relay.listen(true);
    (relay, config.listening.port)
}

async fn server() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a server")
}

/// Ways to these servers.
fn to(servers: &[&TcpListener]) -> Passages {
    let passage = |server: &&TcpListener| {
        let port = server.local_addr().expect("an address").port().to_string();
        Passage {
            target: Target {
                db: port.as_str().into(),
                host: "127.0.0.1".to_owned(),
                port,
            },
            until: clock::now().after(LIMIT),
            is_spare: false,
        }
    };
    Passages {
        to: servers.iter().map(passage).collect(),
        closed: "db2: it lags by too many bytes".to_owned(),
    }
}

/// A client that has begun, and the server's end of its session.
async fn session(port: u16, server: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    let (mut session, _) = within(server.accept()).await.expect("a session");
    let mut said = vec![0; START_UP.len()];
    within(session.read_exact(&mut said)).await.expect("read");
    assert_eq!(said, START_UP);
    (client, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_falls_behind_loses_its_clients_and_the_others_stay() {
    let (relay, port) = relay();
    let (one, other) = (server().await, server().await);
    relay.set_passages(&to(&[&one, &other]));
    let (mut first, _first_session) = session(port, &one).await;
    let (mut second, mut second_session) = session(port, &other).await;
    relay.set_passages(&to(&[&other]));
    let mut buffer = [0; 1];
    assert!(
        within(first.read(&mut buffer)).await.is_err(),
        "closed by then"
    );
    second_session.write_all(b"x").await.expect("written");
    within(second.read_exact(&mut buffer))
        .await
        .expect("it goes on");
    relay.set_passages(&to(&[]));
    assert!(within(second.read(&mut buffer)).await.is_err());
    let mut third = connect(port).await;
    third.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut third).await;
    let expected = "no standby can be read from: db2: it lags by too many bytes";
    assert!(
        answer.contains("C57P03") && answer.contains(expected),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_cannot_be_reached_is_passed_over() {
    let (relay, port) = relay();
    let (gone, there) = (server().await, server().await);
    let passages = to(&[&gone, &there]);
    drop(gone);
    relay.set_passages(&passages);
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(session(port, &there).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_cancel_reaches_every_server_whole() {
    let (relay, port) = relay();
    let (one, other) = (server().await, server().await);
    relay.set_passages(&to(&[&one, &other]));
    // Of protocol 3.0, and of 3.2 with a longer key.
    for key in [4_u8, 32] {
        let mut request = vec![0, 0, 0, 12 + key, 4, 210, 22, 46, 0, 0, 1, 2];
        request.extend((0..key).map(|number| number ^ 0x5a));
        let mut client = connect(port).await;
        let (start, rest) = request.split_at(6);
        client.write_all(start).await.expect("written");
        tokio::task::yield_now().await;
        client.write_all(rest).await.expect("written");
        for server in [&one, &other] {
            let (mut session, _) = within(server.accept()).await.expect("a connection");
            let mut said = vec![0; request.len()];
            within(session.read_exact(&mut said)).await.expect("read");
            assert_eq!(said, request);
        }
        let mut buffer = [0; 1];
        assert_eq!(within(client.read(&mut buffer)).await.expect("the end"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_is_not_waited_for() {
    let server = server().await;
    let address = server.local_addr().expect("an address");
    let patience = Duration::from_millis(100);
    for beginning in [&b""[..], b"\0\0\0"] {
        let mut client = TcpStream::connect(address).await.expect("a connection");
        client.write_all(beginning).await.expect("written");
        let (accepted, _) = within(server.accept()).await.expect("its end");
        let asked = within(greeting::asks_to_cancel(&accepted, patience)).await;
        let error = asked.expect_err("nothing said");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        drop(client);
        let asked = within(greeting::asks_to_cancel(&accepted, LIMIT)).await;
        let error = asked.expect_err("it has left");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
