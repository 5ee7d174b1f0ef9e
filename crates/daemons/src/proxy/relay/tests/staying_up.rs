//! What the relay does when the system, or what is before it, fails.

use super::{
    IMPATIENT, LIMIT, START_UP, connect, held, refusal, relay_by, relay_that_holds, to, within,
};
use crate::proxy::config::{Config, Keepalive};
use crate::proxy::metrics;
use crate::proxy::relay::Relay;
use crate::runtime::passed::Passed;
use crate::runtime::{clock, logging};
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as BlockingListener, TcpStream as BlockingStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use stolon_core::proxy::{Route, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waited_at_a_passed_socket_is_kept_alive_as_others_are() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = socket.local_addr().expect("an address").port();
    let config = crate::proxy::tests::config("", IMPATIENT);
    let metrics = metrics::registry("test").1;
    let mut relay = Relay::new(&config, &metrics, 1024).expect("a relay");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let _client = connect(port).await;
    relay.give(vec![Passed {
        name: "clients".to_owned(),
        kept: true,
        socket: socket.into(),
    }]);
    relay.listen(true);
    within(server.accept()).await.expect("a connection");
    let carried = async {
        loop {
            if let Some([client, _]) = relay.shared.doors.first_pair() {
                return client;
            }
            tokio::task::yield_now().await;
        }
    };
    let client = within(carried).await;
    let socket = socket2::SockRef::from(&*client);
    assert_eq!(socket.keepalive().ok(), Some(true));
    assert_eq!(socket.tcp_keepalive_time().ok(), IMPATIENT.idle);
    assert_eq!(socket.tcp_nodelay().ok(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_retires_accepts_nobody_and_carries_on() {
    let (mut relay, port) = relay_that_holds(10, LIMIT);
    let mut waiting = connect(port).await;
    waiting.write_all(b"later").await.expect("written");
    held(&relay, 1).await;
    relay.retire();
    let refused = within(async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    });
    refused.await;
    relay.listen(true);
    // Who was there before still gets in, and is waited for.
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let (mut session, _) = within(server.accept()).await.expect("a session");
    let mut said = [0; 5];
    within(session.read_exact(&mut said)).await.expect("bytes");
    assert_eq!(&said, b"later");
    assert!(futures_util::poll!(Box::pin(relay.drained())).is_pending());
    drop((session, waiting));
    within(relay.drained()).await;
    let again = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert!(again.is_err(), "it listens again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_when_the_relay_stops_is_answered_before_it_has_ended() {
    let (mut relay, port) = relay_that_holds(10, LIMIT * 10);
    let mut client = connect(port).await;
    held(&relay, 1).await;
    relay.drain();
    assert!(futures_util::poll!(Box::pin(relay.drained())).is_pending());
    client.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut client).await;
    assert!(answer.contains("the proxy is stopping"), "{answer}");
    drop(client);
    within(relay.drained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_takes_connections_and_says_nothing_is_told_and_left_to_its_keeper() {
    let (relay, port) = relay_that_holds(10, LIMIT);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT * 10));
    // As a frozen postmaster: its kernel takes the connection.
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    let permit = relay
        .shared
        .doors
        .permits(super::super::Door::Primary)
        .expect("a permit");
    let is_told = within(async {
        while !permit[0].reach.is_mute() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    is_told.await;
    // Nobody's session is ended for it, until the route changes.
    let mut buffer = [0; 1];
    let waits = futures_util::poll!(Box::pin(client.read(&mut buffer)));
    assert!(waits.is_pending(), "{waits:?}");
    relay.set_route(&Route::Closed("a sentinel acts".into()));
    let mut heard = Vec::new();
    within(client.read_to_end(&mut heard)).await.expect("why");
    let text = String::from_utf8_lossy(&heard);
    assert!(
        text.contains("C57P01") && text.contains("a sentinel acts"),
        "{text}"
    );
}

/// Tells a process of this program that it is the relay that runs out of files, and its server's port.
const SHORT: &str = "STOLON_TEST_SHORT_OF_FILES";
/// Files that it may open beyond those that it has.
const FILES: u64 = 12;

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_wait_while_there_are_no_files_and_are_served_when_there_are() {
    let name = "clients_wait_while_there_are_no_files_and_are_served_when_there_are";
    if let Ok(port) = std::env::var(SHORT) {
        return run_short_of_files(port);
    }
    let server = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a server");
    let target = server.local_addr().expect("an address").port();
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--nocapture"])
        .env(SHORT, target.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Ends(child.expect("a process"));
    let mut told = std::io::BufReader::new(child.0.stdout.take().expect("stdout")).lines();
    let port: u16 = std::iter::from_fn(|| told.next())
        .find_map(|line| line.ok()?.strip_prefix("listens at ")?.parse().ok())
        .expect("a port");

    let client = |says: &[u8; 5]| {
        let mut client = BlockingStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a client");
        client.write_all(says).expect("written");
        client
    };
    server.set_nonblocking(true).expect("a socket");
    let session = |time: Duration| {
        let end = clock::now().after(time);
        loop {
            match server.accept() {
                Ok((session, _)) => break Some(session),
                Err(_) if clock::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => break None,
            }
        }
    };
    // Each session takes two files, so that not all of these get one.
    let (mut clients, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..FILES {
        clients.push(client(b"first"));
        sessions.extend(session(Duration::from_millis(300)));
    }
    assert!(!sessions.is_empty() && sessions.len() < clients.len());
    let last = client(b"later");
    drop((clients, sessions));
    // Those that gave up may still get a session before it.
    let is_last = |mut session: BlockingStream| {
        let mut said = [0; 5];
        session.set_nonblocking(false).expect("a socket");
        session.set_read_timeout(Some(LIMIT)).expect("a socket");
        session.read_exact(&mut said).is_ok() && &said == b"later"
    };
    let is_served = std::iter::from_fn(|| session(LIMIT)).any(is_last);
    assert!(is_served, "there were files again");
    drop((last, told));
    let mut log = String::new();
    child.0.kill().expect("it ends");
    let mut stderr = child.0.stderr.take().expect("stderr");
    stderr.read_to_string(&mut log).expect("its log");
    let lines = log.matches("cannot accept clients").count();
    assert_eq!(lines, 1, "{log}");
}

/// A relay in a process that may open only some more files.
fn run_short_of_files(port: String) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    logging::init(logging::LogConfig {
        level: tracing::Level::WARN,
        color: false,
        format: logging::LogFormat::Text,
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = crate::proxy::tests::config("", Keepalive::default());
        let config = Config {
            hold_timeout: LIMIT * 10,
            ..config
        };
        // It was told of more files than it gets, as where the whole system runs out of them.
        let (relay, listens) = relay_by(&config, 4096);
        let target = Target {
            db: "db1".into(),
            host: "127.0.0.1".into(),
            port,
        };
        let until = clock::now().after(LIMIT * 10);
        connect(listens).await;
        relay.set_route(&Route::To { target, until });
        let open = std::fs::read_dir("/proc/self/fd").expect("files").count();
        let current = u64::try_from(open).expect("few") + FILES;
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(current),
        };
        setrlimit(Resource::Nofile, limit).expect("a limit");
        let told = writeln!(std::io::stdout(), "listens at {listens}");
        told.expect("stdout");
        clock::sleep_until(Some(until)).await;
    });
}
