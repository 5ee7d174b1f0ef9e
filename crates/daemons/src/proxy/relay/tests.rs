//! The relay between sockets of this machine.

use super::carry::{Pause, Way};
use super::doors::Door;
use super::{Relay, Route};
use crate::proxy::config::Keepalive;
use crate::proxy::greeting::{self, Refusal};
use crate::proxy::metrics;
use crate::runtime::clock;
use std::time::Duration;
use stolon_core::proxy::Target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

mod reading;
mod secured;
mod staying_up;

const LIMIT: Duration = Duration::from_secs(20);

fn relay() -> (Relay, u16) {
    relay_with(Keepalive::default())
}

fn relay_with(keepalive: Keepalive) -> (Relay, u16) {
    relay_of(keepalive, 1024)
}

fn relay_of(keepalive: Keepalive, files: u64) -> (Relay, u16) {
    relay_by(&crate::proxy::tests::config("", keepalive), files)
}

/// A relay that holds so many clients, each so long.
fn relay_that_holds(most: usize, timeout: Duration) -> (Relay, u16) {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let config = crate::proxy::config::Config {
        hold_timeout: timeout,
        most_held: most,
        ..config
    };
    relay_by(&config, 4096)
}

fn relay_by(config: &crate::proxy::config::Config, files: u64) -> (Relay, u16) {
    let mut relay = Relay::new(config, &metrics::registry("test").1, files).expect("a relay");
    relay.listen(true);
    (relay, config.port)
}

fn to(server: &TcpListener, lasts: Duration) -> Route {
    let port = server.local_addr().expect("an address").port().to_string();
    let target = Target {
        db: "db1".into(),
        host: "127.0.0.1".into(),
        port,
    };
    Route::To {
        target,
        until: clock::now().after(lasts),
    }
}

async fn connect(port: u16) -> TcpStream {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return stream,
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// A client and the server's end of its connection through the relay.
async fn pair(relay: &Relay, port: u16, lasts: Duration) -> (TcpStream, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, lasts));
    through(&server, port).await
}

/// Connects through a relay that forwards to the server, and sees that bytes arrive.
async fn through(server: &TcpListener, port: u16) -> (TcpStream, TcpStream) {
    let mut client = connect(port).await;
    let (mut accepted, _) = within(server.accept()).await.expect("a connection");
    within(client.write_all(b"hello")).await.expect("written");
    let mut buffer = [0; 5];
    within(accepted.read_exact(&mut buffer))
        .await
        .expect("read");
    assert_eq!(&buffer, b"hello");
    (client, accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_the_end_of_a_stream_are_passed_on() {
    let (relay, port) = relay();
    let (mut client, mut server) = pair(&relay, port, LIMIT).await;
    within(client.shutdown()).await.expect("half closed");
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest))
        .await
        .expect("the end");
    within(server.write_all(&vec![7; 200_000]))
        .await
        .expect("an answer after it");
    within(server.shutdown()).await.expect("closed");
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer))
        .await
        .expect("the answer");
    assert_eq!(answer.len(), 200_000);
    let ended = async {
        while relay.shared.metrics.ended_by("client") != 1 {
            tokio::task::yield_now().await;
        }
    };
    within(ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_its_way_to_a_host_that_is_gone_turns_round_when_the_route_changes() {
    let (relay, port) = relay();
    // One whose queue is full answers as little.
    let gone = tokio::net::TcpSocket::new_v4().expect("a socket");
    gone.bind(([127, 0, 0, 1], 0).into()).expect("an address");
    let gone = gone.listen(1).expect("a server");
    relay.set_route(&to(&gone, LIMIT));
    let full = gone.local_addr().expect("an address");
    let mut queued = Vec::new();
    let short = Duration::from_millis(200);
    while let Ok(connected) = tokio::time::timeout(short, TcpStream::connect(full)).await {
        queued.push(connected.expect("a place in the queue"));
        assert!(queued.len() < 100, "the queue has no end");
    }
    let mut client = connect(port).await;
    within(client.write_all(b"hello")).await.expect("written");
    let begun = async {
        while relay.shared.doors.permits(Door::Primary).expect("a way")[0]
            .load()
            .1
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    within(begun).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    // Well before the attempt to reach the other one would have ended by itself.
    let limit = super::serve::CONNECT_LIMIT * 4 / 5;
    let accepted = tokio::time::timeout(limit, server.accept()).await;
    let (mut accepted, _) = accepted.expect("in time").expect("a connection");
    let mut buffer = [0; 5];
    within(accepted.read_exact(&mut buffer))
        .await
        .expect("read");
    assert_eq!(&buffer, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_much_arrives_without_anything_after_it_both_ways() {
    const MUCH: usize = 12 * 1024 * 1024;
    let (relay, port) = relay();
    let (mut client, mut server) = pair(&relay, port, 3 * LIMIT).await;
    let (mut from, mut to) = (&mut server, &mut client);
    for _ in 0..4 {
        // Enough to go on as before after a pause, and too little for that.
        for size in [MUCH, 100_000, 100_000, 1000, 1000] {
            let (said, mut got) = (vec![7; size], vec![0; size]);
            let carried = async { tokio::join!(from.write_all(&said), to.read_exact(&mut got)) };
            let (sent, read) = within(carried).await;
            sent.expect("sent");
            read.expect("all of it");
        }
        std::mem::swap(&mut from, &mut to);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_resets_both_sides_before_it_returns() {
    let (relay, port) = relay();
    let (mut client, mut server) = pair(&relay, port, LIMIT).await;
    relay.set_route(&Route::Closed("a test".into()));
    let mut buffer = [0; 8];
    for stream in [&mut server, &mut client] {
        let end = within(stream.read(&mut buffer)).await;
        assert!(
            matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset),
            "{end:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_over_after_the_deadline_even_when_nobody_closed() {
    // I1, I6: as a proxy that was paused and goes on with bytes it had buffered.
    let (relay, port) = relay();
    let lasts = Duration::from_millis(300);
    let (mut client, mut server) = pair(&relay, port, lasts).await;
    let end = clock::now().after(lasts);
    clock::sleep_until(Some(end)).await;
    let _ = client.write_all(b"late").await;
    let mut buffer = [0; 8];
    let got = within(server.read(&mut buffer)).await;
    assert!(
        !matches!(got, Ok(count) if count > 0),
        "a late byte came through: {got:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_ran_out_is_not_prolonged_and_its_connections_are_closed() {
    // I1: as a proxy that was paused, and goes on with the renewal before the close.
    let (relay, port) = relay();
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let lasts = Duration::from_millis(300);
    relay.set_route(&to(&server, lasts));
    let (_client, mut accepted) = through(&server, port).await;
    let mut buffer = [0; 5];
    clock::sleep_until(Some(clock::now().after(lasts))).await;
    relay.set_route(&to(&server, LIMIT));
    let end = within(accepted.read(&mut buffer)).await;
    assert!(end.is_err(), "{end:?}");
    through(&server, port).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_is_told_why_and_nonsense_costs_nothing() {
    let (relay, port) = relay();
    relay.set_route(&Route::Closed("no primary is open to clients now".into()));
    for preface in [
        &[][..],
        &[0, 0, 0, 8, 4, 210, 22, 47][..],
        &[0, 0, 0, 8, 4, 210, 22, 48][..],
    ] {
        let mut client = connect(port).await;
        within(client.write_all(preface)).await.expect("written");
        if !preface.is_empty() {
            let mut no = [0; 1];
            within(client.read_exact(&mut no)).await.expect("an answer");
            assert_eq!(&no, b"N");
        }
        within(client.write_all(&[0, 0, 0, 9, 0, 3, 0, 0, 0]))
            .await
            .expect("written");
        let mut answer = Vec::new();
        within(client.read_to_end(&mut answer))
            .await
            .expect("the error");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with('E') && text.contains("C57P03"), "{text}");
        assert!(text.contains("no primary is open to clients now"), "{text}");
    }
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xFF; 64][..],
        &[0, 0, 0, 1, 0, 0, 0, 0][..],
    ] {
        let mut client = connect(port).await;
        within(client.write_all(garbage)).await.expect("written");
        let mut answer = Vec::new();
        let _ = within(client.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
}

/// Keepalive flags that let a peer be silent for two seconds.
const IMPATIENT: Keepalive = Keepalive {
    idle: Some(Duration::from_secs(1)),
    interval: Some(Duration::from_secs(1)),
    count: Some(1),
};

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_kept_alive_as_the_flags_say() {
    let (relay, port) = relay_with(IMPATIENT);
    let _pair = pair(&relay, port, LIMIT).await;
    for stream in relay.shared.doors.first_pair().expect("one") {
        let socket = socket2::SockRef::from(&*stream);
        assert!(socket.keepalive().expect("SO_KEEPALIVE"));
        let flags = Keepalive {
            idle: socket.tcp_keepalive_time().ok(),
            interval: socket.tcp_keepalive_interval().ok(),
            count: socket.tcp_keepalive_retries().ok(),
        };
        assert_eq!(flags, IMPATIENT);
        let timeout = socket.tcp_user_timeout().expect("TCP_USER_TIMEOUT");
        assert_eq!(
            timeout, None,
            "it ends sessions whose peer only does not read"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_for_long_is_held_back_and_lives() {
    const SENT: usize = 48 * 1024 * 1024;
    let (relay, port) = relay_with(IMPATIENT);
    let (mut client, mut server) = pair(&relay, port, 3 * LIMIT).await;
    let sending = tokio::spawn(async move {
        server.write_all(&vec![7; SENT]).await?;
        server.shutdown().await
    });
    // Twice as long as a peer may be silent that does not answer at all.
    let end = clock::now().after(2 * super::peer::patience(IMPATIENT));
    clock::sleep_until(Some(end)).await;
    assert!(!sending.is_finished(), "the relay took it all in");
    let mut got = Vec::with_capacity(SENT);
    within(client.read_to_end(&mut got)).await.expect("all");
    assert_eq!(got.len(), SENT);
    within(sending).await.expect("a task").expect("all sent");
}

/// Tells the run of a test inside a network of its own from the one that starts it.
const INSIDE: &str = "STOLON_TEST_INSIDE_A_NETWORK";

/// `make test` counts the lines that begin so.
const NOT_RUN: &str = "not run: ";

/// Says, past what captures output, that this machine does not allow the test.
fn not_run(why: &str) {
    use std::io::Write as _;
    let test = "a_peer_that_vanishes_with_data_on_its_way_is_noticed";
    let told = writeln!(std::io::stderr(), "{NOT_RUN}{test}: {why}");
    told.expect("stderr");
}

#[test]
fn a_peer_that_vanishes_with_data_on_its_way_is_noticed() {
    let ip = |words: &[&str]| std::process::Command::new("ip").args(words).status();
    if std::env::var_os(INSIDE).is_none() {
        let run = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().expect("this program"))
            .args([
                "a_peer_that_vanishes_with_data_on_its_way_is_noticed",
                "--nocapture",
            ])
            .env(INSIDE, "1")
            .output();
        let Ok(run) = run else {
            return not_run("unshare(1) is not installed");
        };
        let told = String::from_utf8_lossy(&run.stdout);
        let errors = String::from_utf8_lossy(&run.stderr);
        if errors.contains("unshare failed") {
            return not_run(&format!("no networks may be made here: {}", errors.trim()));
        }
        assert!(run.status.success(), "{told}{errors}");
        assert!(told.contains("1 passed"), "{told}");
        return;
    }
    if !ip(&["link", "set", "lo", "up"]).is_ok_and(|status| status.success()) {
        return not_run("ip(8) is not installed");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (relay, port) = relay_with(IMPATIENT);
        let (client, mut server) = pair(&relay, port, 3 * LIMIT).await;
        let sending = tokio::spawn(async move { server.write_all(&vec![7; 48 << 20]).await });
        within(client.readable()).await.expect("something to read");
        assert!(ip(&["link", "set", "lo", "down"]).is_ok_and(|status| status.success()));
        within(async {
            while relay.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        sending.abort();
    });
}

#[test]
fn one_connection_does_not_keep_the_turn() {
    use std::io::{Read as _, Write as _};
    // The sockets of a fast transfer are always ready. While one of them is carried nobody else's turn
    // comes on this thread, and no order is heard.
    let target = Target {
        db: "db1".into(),
        host: String::new(),
        port: String::new(),
    };
    let permit =
        super::permit::Permit::new(target, clock::now().after(LIMIT * 10), super::Door::Primary);
    let connection = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
        let address = listener.local_addr().expect("an address");
        let near = std::net::TcpStream::connect(address).expect("a connection");
        (near, listener.accept().expect("its end").0)
    };
    let ((mut source, from), (to, mut sink)) = (connection(), connection());
    for end in [&from, &to] {
        end.set_nonblocking(true).expect("a socket");
    }
    let filling = std::thread::spawn(move || while source.write_all(&vec![7; 65_536]).is_ok() {});
    let emptying = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(1..) = sink.read(&mut buffer) {}
    });
    let mut way = Way::default();
    let mut buffer = vec![0; super::carry::MOST];
    let end = clock::now().after(LIMIT);
    loop {
        let mut carried = 0;
        let count = |bytes: &[u8]| carried += bytes.len();
        let pause = way.carry([&from, &to], &permit, &mut buffer, count);
        assert!(carried < 400_000, "{carried} at once");
        if pause == Ok(Pause::Turn) {
            break;
        }
        assert_eq!(pause, Ok(Pause::Done));
        assert!(
            clock::now() < end,
            "the sockets were never ready for so long"
        );
    }
    drop((from, to));
    for thread in [filling, emptying] {
        thread.join().expect("it ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_close_at_the_deadline_is_on_time_while_much_is_carried() {
    use std::io::{Read as _, Write as _};
    const FLOWS: usize = 16;
    let (relay, port) = relay();
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
    let target = server.local_addr().expect("an address").port().to_string();
    let lasts = Duration::from_secs(2);
    let until = clock::now().after(lasts);
    let target = Target {
        db: "db1".into(),
        host: "127.0.0.1".into(),
        port: target,
    };
    relay.set_route(&Route::To { target, until });
    connect(port).await;
    // Threads, so that the relay is what the runtime is busy with.
    let ends: Vec<_> = (0..FLOWS)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a client");
            let bytes = vec![7; 65_536];
            std::thread::spawn(move || while client.write_all(&bytes).is_ok() {})
        })
        .collect();
    let accepting = std::thread::spawn(move || {
        let mut sinks = Vec::new();
        for _ in 0..=FLOWS {
            let (mut sink, _) = server.accept().expect("a connection");
            sinks.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                let mut last = None;
                while let Ok(1..) = sink.read(&mut buffer) {
                    last = Some(clock::now());
                }
                last
            }));
        }
        sinks
    });
    clock::sleep_until(Some(until)).await;
    relay.set_route(&Route::Closed("a test".into()));
    let late = clock::now().since(until);
    assert!(late < Duration::from_millis(500), "closed {late:?} late");
    let sinks = accepting.join().expect("all were accepted");
    let lasts = sinks
        .into_iter()
        .filter_map(|sink| sink.join().expect("it ended"));
    let late = lasts.map(|last| last.since(until)).max().expect("bytes");
    // What the server's kernel already held is not recalled, but there is nothing after it.
    assert!(
        late < Duration::from_millis(500),
        "a byte came {late:?} late"
    );
    for end in ends {
        end.join().expect("it ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_server_of_its_session() {
    let (relay, port) = relay();
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let request = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 42, 1, 2, 3, 4];
    let mut client = connect(port).await;
    within(client.write_all(&request)).await.expect("written");
    let (mut accepted, _) = within(server.accept()).await.expect("a connection");
    let mut got = [0; 16];
    within(accepted.read_exact(&mut got)).await.expect("read");
    assert_eq!(got, request);
    drop(accepted);
    assert_eq!(within(client.read(&mut got)).await.expect("the end"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_relay_lets_statements_end_and_takes_no_more() {
    let (mut relay, port) = relay();
    let (mut client, mut server) = pair(&relay, port, LIMIT).await;
    relay.drain();
    let mut buffer = [0; 16];
    let end = within(server.read(&mut buffer)).await;
    assert_eq!(end.expect("the end of what the client says"), 0);
    let _ = client.write_all(b"too late").await;
    within(server.write_all(b"done")).await.expect("answered");
    within(client.read_exact(&mut buffer[..4]))
        .await
        .expect("an answer");
    assert_eq!(&buffer[..4], b"done");
    drop(server);
    assert_eq!(within(client.read(&mut buffer)).await.expect("the end"), 0);
    drop(client);
    within(relay.drained()).await;
    relay.listen(true);
    let refused = within(async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_after_the_deadline_is_told_the_reason_of_now() {
    let (relay, port) = relay();
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, Duration::ZERO));
    let mut client = connect(port).await;
    // It says more than a refusal needs, all at once.
    let mut said = vec![0, 0, 0, 9, 0, 3, 0, 0, 0];
    said.extend_from_slice(&[b'p'; 4_000]);
    within(client.write_all(&said)).await.expect("written");
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    // Read slowly: a reset on the heels of the error would take it away.
    while let count @ 1.. = within(client.read(&mut buffer)).await.expect("no reset") {
        answer.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&answer);
    let why = "no check of the cluster data succeeded lately";
    assert!(text.contains(why), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_left_in_time() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let address = server.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (accepted, _) = within(server.accept()).await.expect("its end");
    let patience = Duration::from_millis(50);
    within(greeting::refuse(accepted, &Refusal::Full, patience)).await;
    let mut buffer = [0; 1];
    assert_eq!(within(client.read(&mut buffer)).await.expect("the end"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_beyond_what_the_limit_on_files_allows_are_told_so() {
    let (relay, port) = relay_of(Keepalive::default(), 0);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let mut carried = Vec::new();
    for _ in 0..super::LEAST_PLACES {
        let client = connect(port).await;
        carried.push((client, within(server.accept()).await.expect("carried")));
    }
    let mut client = connect(port).await;
    within(client.write_all(&[0, 0, 0, 9, 0, 3, 0, 0, 0]))
        .await
        .expect("written");
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer))
        .await
        .expect("the error");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("C53300"), "{text}");
    // One that leaves makes room.
    drop(carried.pop());
    within(async {
        loop {
            let _client = connect(port).await;
            let soon = tokio::time::timeout(Duration::from_millis(100), server.accept());
            if soon.await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stopped_to_listen_listens_again() {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let (mut relay, port) = (
        Relay::new(&config, &metrics::registry("test").1, 1024).expect("a relay"),
        config.port,
    );
    // Whoever finds the address taken is too late for this test.
    relay.listening.retry_after(LIMIT * 10);
    relay.listen(true);
    connect(port).await;
    relay.listen(false);
    let refused = within(async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await;
    for _ in 0..50 {
        // The listener before is still there when the next one begins, also when one between them
        // never got to begin, or nobody was to be accepted meanwhile.
        for listen in [true, true, false, true] {
            relay.listen(listen);
        }
        connect(port).await;
    }
}

/// A start-up message, and what the relay answers to it.
const START_UP: &[u8] = b"\0\0\0\x0e\0\x03\0\0user\0\0";

async fn refusal(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer))
        .await
        .expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until so many clients are held.
async fn held(relay: &Relay, count: i64) {
    let end = tokio::time::Instant::now() + LIMIT;
    while relay.shared.metrics.held() != count {
        let now = relay.shared.metrics.held();
        assert!(tokio::time::Instant::now() < end, "{now} are held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_held_and_let_through_with_all_they_said() {
    let (relay, port) = relay_that_holds(100, LIMIT);
    let mut clients = Vec::new();
    for number in 0..50_u8 {
        let mut client = connect(port).await;
        client.write_all(&[number; 10]).await.expect("written");
        clients.push(client);
    }
    held(&relay, 50).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let mut seen = Vec::new();
    let mut sessions = Vec::new();
    for _ in 0..50 {
        let (mut session, _) = within(server.accept()).await.expect("a session");
        let mut said = [0; 10];
        within(session.read_exact(&mut said)).await.expect("bytes");
        assert_eq!(said, [said[0]; 10]);
        seen.push(said[0]);
        sessions.push(session);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    held(&relay, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waited_too_long_is_told_why() {
    let (relay, port) = relay_that_holds(1, Duration::from_millis(300));
    relay.set_route(&Route::Closed("an election goes on".into()));
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut client).await;
    let expected = "no primary is open: an election goes on (waited 300ms)";
    assert!(
        answer.contains("C57P03") && answer.contains(expected),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_seats_the_relay_refuses_at_once_and_who_leaves_frees_a_seat() {
    let (relay, port) = relay_that_holds(1, LIMIT * 10);
    relay.set_route(&Route::Closed("an election goes on".into()));
    let first = connect(port).await;
    held(&relay, 1).await;
    let mut second = connect(port).await;
    second.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut second).await;
    assert!(
        answer.contains("an election goes on") && !answer.contains("waited"),
        "{answer}"
    );
    drop(first);
    held(&relay, 0).await;
    let _third = connect(port).await;
    held(&relay, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_gets_in_when_its_primary_listens_again() {
    let (relay, port) = relay_that_holds(10, LIMIT);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    let (route, address) = (to(&server, LIMIT), server.local_addr().expect("an address"));
    drop(server);
    // As after a crash in place: nothing in the store tells of it.
    relay.set_route(&route);
    let clients = [
        connect(port).await,
        connect(port).await,
        connect(port).await,
    ];
    held(&relay, 3).await;
    let server = TcpListener::bind(address).await.expect("the server again");
    for _ in &clients {
        within(server.accept()).await.expect("a session");
    }
    held(&relay, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_turn_is_to_come_when_the_time_is_over_gets_in() {
    const CLIENTS: usize = 300;
    let lasts = LIMIT / 2;
    let (relay, port) = relay_that_holds(CLIENTS, lasts);
    let begun = clock::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(port).await);
    }
    held(&relay, CLIENTS.try_into().expect("a number")).await;
    // Their turns take more than twice as long as the first ones have.
    let late = begun.after(lasts.saturating_sub(Duration::from_millis(200)));
    clock::sleep_until(Some(late)).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    for _ in 0..CLIENTS {
        within(server.accept()).await.expect("a session");
    }
    held(&relay, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_to_cancel_goes_to_no_other_primary() {
    let (relay, port) = relay_that_holds(10, LIMIT);
    let mut cancel = connect(port).await;
    let mut request = vec![0, 0, 0, 16];
    request.extend_from_slice(&80_877_102_u32.to_be_bytes());
    request.extend_from_slice(&[7; 8]);
    cancel.write_all(&request).await.expect("written");
    held(&relay, 1).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let mut rest = Vec::new();
    // What was not read makes it a reset.
    let _ = within(cancel.read_to_end(&mut rest)).await;
    held(&relay, 0).await;
    let nobody = tokio::time::timeout(Duration::from_millis(100), server.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_relay_holds_nobody() {
    let (mut relay, port) = relay_that_holds(10, LIMIT * 10);
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    held(&relay, 1).await;
    relay.drain();
    let answer = refusal(&mut client).await;
    assert!(answer.contains("the proxy is stopping"), "{answer}");
}

/// A relay for clients whose address the header of a balancer on this machine names.
fn relay_behind_a_balancer(most_held: usize) -> (Relay, u16) {
    let config = crate::proxy::tests::config("", Keepalive::default());
    let config = crate::proxy::config::Config {
        proxy_protocol_from: vec!["127.0.0.0/8".parse().expect("a network")],
        hold_timeout: LIMIT,
        most_held,
        ..config
    };
    // Enough files for the fewest clients that are carried at all.
    relay_by(&config, 0)
}

const HEADER: &[u8] = b"PROXY TCP4 10.1.2.3 10.0.0.1 41000 5432\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_balancers_header_goes_to_no_server() {
    let (relay, port) = relay_behind_a_balancer(10);
    let mut client = connect(port).await;
    client.write_all(HEADER).await.expect("written");
    client.write_all(b"hello").await.expect("written");
    held(&relay, 1).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let (mut session, _) = within(server.accept()).await.expect("a session");
    let mut said = [0; 5];
    within(session.read_exact(&mut said)).await.expect("bytes");
    assert_eq!(&said, b"hello");
    within(session.write_all(b"done")).await.expect("written");
    let mut answer = [0; 4];
    within(client.read_exact(&mut answer))
        .await
        .expect("an answer");
    assert_eq!(&answer, b"done");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_a_balancer_without_a_header_is_left() {
    let (relay, port) = relay_behind_a_balancer(0);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let mut client = connect(port).await;
    client.write_all(START_UP).await.expect("written");
    let mut rest = Vec::new();
    // What was not read makes it a reset.
    drop(within(client.read_to_end(&mut rest)).await);
    assert_eq!(rest, b"");
    assert_eq!(relay.shared.metrics.not_introduced.get(), 1);
    let nobody = tokio::time::timeout(Duration::from_millis(100), server.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_balancer_are_refused_as_others_are() {
    let (relay, port) = relay_behind_a_balancer(0);
    relay.set_route(&Route::Closed("an election goes on".into()));
    let mut client = connect(port).await;
    client.write_all(HEADER).await.expect("written");
    client.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut client).await;
    assert!(answer.contains("an election goes on"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_too_many_behind_a_balancer_is_told_so() {
    let (relay, port) = relay_behind_a_balancer(0);
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&server, LIMIT));
    let mut all = Vec::new();
    for _ in 0..super::LEAST_PLACES {
        let mut client = connect(port).await;
        client.write_all(HEADER).await.expect("written");
        let session = within(server.accept()).await.expect("a session");
        all.push((client, session));
    }
    let mut client = connect(port).await;
    client.write_all(HEADER).await.expect("written");
    client.write_all(START_UP).await.expect("written");
    let answer = refusal(&mut client).await;
    assert!(answer.contains("too many clients"), "{answer}");
}

/// What a client and a server say until the session stands between two messages.
const ANSWER: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// A session through the relay that has started as those of PostgreSQL do.
async fn session(relay: &Relay, port: u16, lasts: Duration) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&listener, lasts));
    let mut client = connect(port).await;
    let (mut server, _) = within(listener.accept()).await.expect("a connection");
    says(&mut client, START_UP, &mut server).await;
    says(&mut server, ANSWER, &mut client).await;
    (client, server)
}

/// One end says something that the other hears.
async fn says(from: &mut TcpStream, words: &[u8], to: &mut TcpStream) {
    from.write_all(words).await.expect("written");
    let mut heard = vec![0; words.len()];
    within(to.read_exact(&mut heard)).await.expect("read");
    assert_eq!(heard, words);
}

/// What a client hears until its connection ends, in order or not.
async fn last_words(client: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    // What came before a reset counts.
    let _ = within(client.read_to_end(&mut heard)).await;
    heard
}

async fn is_reset(server: &mut TcpStream) {
    let end = within(server.read(&mut [0; 8])).await;
    assert!(
        matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset),
        "{end:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_between_messages_hears_why_and_its_server_is_reset() {
    let (relay, port) = relay();
    let (mut client, mut server) = session(&relay, port, LIMIT).await;
    // It was about to say something, which closing must not turn into a reset.
    client
        .write_all(b"Q\0\0\0\x0dSELECT 1")
        .await
        .expect("written");
    relay.set_route(&Route::Closed("an election goes on".into()));
    let _ = within(server.read_to_end(&mut Vec::new()))
        .await
        .expect_err("a reset");
    let mut heard = Vec::new();
    within(client.read_to_end(&mut heard))
        .await
        .expect("an orderly end");
    let text = String::from_utf8_lossy(&heard);
    assert!(text.starts_with('E') && text.contains("C57P01"), "{text}");
    assert!(
        text.contains("terminating connection: an election goes on"),
        "{text}"
    );
    drop(client);
    let end = tokio::time::Instant::now() + LIMIT;
    while relay.shared.metrics.connections("primary").get() > 0 {
        assert!(tokio::time::Instant::now() < end, "the session is kept");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_permit_runs_out_hears_so_with_its_next_word() {
    // As of a proxy that was paused and goes on: nobody has closed anything.
    let (relay, port) = relay();
    let lasts = Duration::from_secs(1);
    let (mut client, mut server) = session(&relay, port, lasts).await;
    clock::sleep_until(Some(clock::now().after(lasts))).await;
    client
        .write_all(b"Q\0\0\0\x0dSELECT 1")
        .await
        .expect("written");
    is_reset(&mut server).await;
    let heard = last_words(&mut client).await;
    let text = String::from_utf8_lossy(&heard);
    let why = "terminating connection: no check of the cluster data succeeded lately";
    assert!(text.contains("C57P01") && text.contains(why), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_into_the_middle_of_a_message_nor_into_what_is_encrypted() {
    let (relay, port) = relay();
    let (mut client, mut server) = session(&relay, port, LIMIT).await;
    let half = b"D\0\0\0\x20half of a row";
    says(&mut server, half, &mut client).await;
    relay.set_route(&Route::Closed("a test".into()));
    is_reset(&mut server).await;
    assert_eq!(last_words(&mut client).await, b"");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a server");
    relay.set_route(&to(&listener, LIMIT));
    let mut client = connect(port).await;
    let (mut server, _) = within(listener.accept()).await.expect("a connection");
    says(&mut client, b"\0\0\0\x08\x04\xd2\x16\x2f", &mut server).await;
    says(&mut server, b"S", &mut client).await;
    // Whatever it is, also where it looks like messages.
    says(&mut client, START_UP, &mut server).await;
    says(&mut server, ANSWER, &mut client).await;
    relay.set_route(&Route::Closed("a test".into()));
    is_reset(&mut server).await;
    assert_eq!(last_words(&mut client).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_behind_half_a_message_whose_other_half_was_not_handed_over() {
    // As of a proxy that was paused and goes on: it reads the other half, and may not hand it over.
    let (relay, port) = relay();
    let lasts = Duration::from_secs(1);
    let (mut client, mut server) = session(&relay, port, lasts).await;
    let end = clock::now().after(lasts);
    says(&mut server, b"D\0\0\0\x0ehalf ", &mut client).await;
    clock::sleep_until(Some(end)).await;
    server.write_all(b"a row").await.expect("written");
    is_reset(&mut server).await;
    assert_eq!(last_words(&mut client).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_last_words_reach_a_client_that_goes_on_saying_much() {
    let (relay, port) = relay();
    let (client, mut server) = session(&relay, port, LIMIT).await;
    let (mut from_server, mut to_server) = client.into_split();
    let saying = tokio::spawn(async move {
        let much = vec![b'.'; 64 * 1024];
        while to_server.write_all(&much).await.is_ok() {}
    });
    let mut some = vec![0; 1024 * 1024];
    within(server.read_exact(&mut some)).await.expect("read");
    let words = b"E\0\0\0\x0cSFATAL\0\0";
    server.write_all(words).await.expect("written");
    // With much that it has not read: the relay's next word to it fails.
    drop(server);
    let mut got = vec![0; words.len()];
    within(from_server.read_exact(&mut got))
        .await
        .expect("all of it");
    assert_eq!(got, words);
    within(saying).await.expect("it ends too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_server_has_ended_the_session_keeps_no_place() {
    let (relay, port) = relay();
    let are_gone = async || {
        while relay.shared.metrics.connections("primary").get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    // By its time.
    let (mut client, server) = session(&relay, port, 3 * LIMIT).await;
    drop(server);
    assert_eq!(within(client.read(&mut [0; 8])).await.expect("an end"), 0);
    within(are_gone()).await;
    // By the end of the way there, long before.
    let (mut client, server) = session(&relay, port, 3 * LIMIT).await;
    drop(server);
    assert_eq!(within(client.read(&mut [0; 8])).await.expect("an end"), 0);
    relay.set_route(&Route::Closed("a test".into()));
    let gone = tokio::time::timeout(LIMIT / 5, are_gone()).await;
    gone.expect("well before its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_behind_gets_all_that_was_carried_for_it_or_a_reset() {
    const ROW: usize = 1000;
    let (relay, port) = relay();
    let (mut client, mut server) = session(&relay, port, LIMIT).await;
    let mut row = vec![b'D'];
    row.extend_from_slice(&u32::try_from(ROW + 4).expect("a length").to_be_bytes());
    row.resize(ROW + 5, b'.');
    let rows = row.repeat(64);
    // Until nobody takes any more: the relay holds some of it, and the client has read nothing.
    while let Ok(written) = tokio::time::timeout(LIMIT / 40, server.write_all(&rows)).await {
        written.expect("written");
    }
    relay.set_route(&Route::Closed("a test".into()));
    is_reset(&mut server).await;
    let heard = last_words(&mut client).await;
    let mut rest = heard.as_slice();
    while let Some((first, after)) = rest.split_at_checked(row.len()) {
        assert!(first == row, "what was carried is not what was sent");
        rest = after;
    }
    assert!(row.starts_with(rest), "a word in the middle of a message");
}
