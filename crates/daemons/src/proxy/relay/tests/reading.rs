//! The port that leads to standbys.

use super::super::Door;
use super::*;
use crate::proxy::config::{Fallback, Reading};
use stolon_core::proxy::{MaxLag, ReadRoute};

/// A relay with a port for those who read, and that port.
fn relay_to_read(fallback: Fallback) -> (Relay, u16) {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let port = crate::proxy::tests::free_port();
    let config = crate::proxy::config::Config {
        reading: Some(Reading {
            listen_address: "127.0.0.1".into(),
            port,
            max_lag: MaxLag {
                bytes: 1,
                time: LIMIT,
            },
            fallback,
        }),
        ..config
    };
    let (relay, _) = relay_by(&config, 4096);
    (relay, port)
}

async fn servers<const N: usize>() -> [TcpListener; N] {
    let mut servers = Vec::new();
    for _ in 0..N {
        servers.push(TcpListener::bind("127.0.0.1:0").await.expect("a server"));
    }
    servers.try_into().expect("so many")
}

fn to_each(servers: &[&TcpListener]) -> ReadRoute {
    let target = |server: &&TcpListener| match to(server, LIMIT) {
        Route::To { mut target, until } => {
            target.db = format!("db{}", target.port).as_str().into();
            (target, until)
        }
        Route::Closed(why) => panic!("{why}"),
    };
    ReadRoute::To(servers.iter().map(target).collect())
}

/// Connects, and says something: the first word of a session is looked at.
async fn comes(port: u16) -> TcpStream {
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    client
}

const START_UP: &[u8] = b"\0\0\0\x0e\0\x03\0\0user\0\0";

async fn end_of(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_where_the_fewest_are() {
    let (relay, port) = relay_to_read(Fallback::Refuse);
    let [one, other] = servers().await;
    relay.set_read_route(&to_each(&[&one, &other]));
    let mut sessions = Vec::new();
    let mut counts = [0; 2];
    for _ in 0..6 {
        let client = comes(port).await;
        let (server, index) = within(async {
            tokio::select! {
                accepted = one.accept() => (accepted.expect("a session").0, 0),
                accepted = other.accept() => (accepted.expect("a session").0, 1),
            }
        })
        .await;
        // It counts from the moment it is carried.
        while relay.connections() <= sessions.len() {
            tokio::task::yield_now().await;
        }
        counts[index] += 1;
        sessions.push((client, server));
    }
    assert_eq!(counts, [3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_left_loses_its_sessions_and_no_other_does() {
    let (relay, port) = relay_to_read(Fallback::Refuse);
    let [one, other] = servers().await;
    relay.set_read_route(&to_each(&[&one]));
    let _at_one = comes(port).await;
    let (mut left, _) = within(one.accept()).await.expect("a session");
    relay.set_read_route(&to_each(&[&one, &other]));
    let mut at_other = comes(port).await;
    let (mut kept, _) = within(other.accept()).await.expect("a session");
    relay.set_read_route(&to_each(&[&other]));
    let reset = end_of(&mut left).await.expect_err("its end");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    kept.write_all(b"x").await.expect("an answer");
    let answer = within(at_other.read_u8()).await;
    assert_eq!(answer.expect("a session that goes on"), b'x');
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_read_from_only_where_that_is_wanted_and_no_standby_is_there() {
    for fallback in [Fallback::Primary, Fallback::Refuse] {
        let (relay, port) = relay_to_read(fallback);
        let [primary, standby] = servers().await;
        relay.set_route(&to(&primary, LIMIT));
        relay.set_read_route(&ReadRoute::Closed("none is fit".to_owned()));
        let mut client = comes(port).await;
        match fallback {
            Fallback::Primary => drop(within(primary.accept()).await.expect("a session")),
            Fallback::Refuse => {
                let mut said = Vec::new();
                within(client.read_to_end(&mut said)).await.expect("why");
                let said = String::from_utf8_lossy(&said);
                let words = "no standby may be read from: none is fit";
                assert!(said.contains("57P03") && said.contains(words), "{said}");
            }
        }
        relay.set_read_route(&to_each(&[&standby]));
        let _client = comes(port).await;
        within(standby.accept()).await.expect("a session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_only_a_request_to_cancel_could_not_reach_is_tried_again() {
    let (relay, _) = relay_to_read(Fallback::Refuse);
    let [gone] = servers().await;
    let route = to_each(&[&gone]);
    let address = gone.local_addr().expect("an address");
    drop(gone);
    relay.set_read_route(&route);
    let door = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let coming = TcpStream::connect(door.local_addr().expect("an address"));
    let (mut client, accepted) = (
        coming.await.expect("a client"),
        door.accept().await.expect("it").0,
    );
    let request = [&[0, 0, 0, 16, 4, 210, 22, 46][..], &[7; 8]].concat();
    client.write_all(&request).await.expect("written");
    super::super::cancel::hand_on(accepted, &relay.shared, LIMIT).await;
    let permits = relay.shared.doors.permits(Door::Reading).expect("one");
    let is_lost = |lost: bool| {
        let reach = &permits[0].reach;
        within(async move {
            while reach.is_lost() != lost {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    is_lost(true).await;
    let _back = TcpListener::bind(address).await.expect("the same port");
    is_lost(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_reached_is_passed_over_until_it_can() {
    let (relay, port) = relay_to_read(Fallback::Refuse);
    let [gone, there] = servers().await;
    let route = to_each(&[&gone, &there]);
    let address = gone.local_addr().expect("an address");
    drop(gone);
    relay.set_read_route(&route);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let client = comes(port).await;
        let (server, _) = within(there.accept()).await.expect("a session");
        sessions.push((client, server));
    }
    let permits = relay.shared.doors.permits(Door::Reading);
    let lost = permits.expect("two").pop().expect("the last");
    assert!(lost.reach.is_lost() && lost.target.port == address.port().to_string());
    let back = TcpListener::bind(address).await.expect("the same port");
    let is_found = within(async {
        while lost.reach.is_lost() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    is_found.await;
    // The one with the fewest sessions, now that it can be reached.
    let mut client = comes(port).await;
    client.write_all(b"!").await.expect("written");
    let heard = within(async {
        loop {
            let (mut session, _) = back.accept().await.expect("a connection");
            let mut heard = Vec::new();
            let mut buffer = [0; 64];
            while !heard.ends_with(b"!") {
                match session.read(&mut buffer).await {
                    // One that was only to see whether somebody is there.
                    Ok(0) | Err(_) => break,
                    Ok(count) => heard.extend_from_slice(&buffer[..count]),
                }
            }
            if heard.ends_with(b"!") {
                return heard;
            }
        }
    });
    assert!(heard.await.starts_with(START_UP));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_over_after_the_deadline_and_what_ran_out_is_not_prolonged() {
    let (relay, port) = relay_to_read(Fallback::Refuse);
    let [standby] = servers().await;
    let ReadRoute::To(targets) = to_each(&[&standby]) else {
        panic!("closed")
    };
    let (target, _) = targets[0].clone();
    let until = clock::now().after(Duration::from_millis(300));
    relay.set_read_route(&ReadRoute::To(vec![(target.clone(), until)]));
    let mut client = comes(port).await;
    let (mut server, _) = within(standby.accept()).await.expect("a session");
    let mut start = vec![0; START_UP.len()];
    within(server.read_exact(&mut start)).await.expect("read");
    clock::sleep_until(Some(until)).await;
    client.write_all(b"late").await.expect("written");
    assert!(end_of(&mut server).await.is_err(), "it got something");
    // As if nobody had noticed yet.
    relay.set_read_route(&ReadRoute::To(vec![(target, clock::now().after(LIMIT))]));
    let permits = relay.shared.doors.permits(Door::Reading).expect("one");
    within(async {
        while permits[0].load() != (false, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    let _another = comes(port).await;
    within(standby.accept())
        .await
        .expect("a session of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_cancel_reaches_every_server_that_may_have_the_session() {
    let (relay, port) = relay_to_read(Fallback::Primary);
    let [primary, one, other] = servers().await;
    relay.set_route(&to(&primary, LIMIT));
    relay.set_read_route(&to_each(&[&one, &other]));
    let request = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x30\x39\xde\xad\xbe\xef";
    let mut client = connect(port).await;
    client.write_all(request).await.expect("written");
    for server in [&one, &other, &primary] {
        let (mut session, _) = within(server.accept()).await.expect("a request");
        let mut heard = [0; 16];
        within(session.read_exact(&mut heard)).await.expect("read");
        assert_eq!(&heard, request);
    }
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest))
        .await
        .expect("its end");
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ports_are_handed_to_a_successor() {
    let (relay, port) = relay_to_read(Fallback::Refuse);
    drop(connect(port).await);
    let sockets = within(async {
        loop {
            let sockets = relay.sockets().expect("sockets");
            if sockets.len() == 2 {
                return sockets;
            }
            tokio::task::yield_now().await;
        }
    });
    let names: Vec<String> = sockets
        .await
        .into_iter()
        .map(|socket| socket.name)
        .collect();
    assert_eq!(names, ["clients", "reading"]);
}
