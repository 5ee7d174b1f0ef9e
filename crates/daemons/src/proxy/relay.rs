//! Carrying clients' bytes, and stopping at the moment it must (I1, I6).
//!
//! Every connection belongs to a permit: one route with its deadline. Before each hand-over of bytes
//! the permit is looked at by this process's own clock, so that a proxy that was paused and goes on
//! forwards nothing that it may not any more. Closing aborts the sockets from the closing thread,
//! without waiting for the connections' tasks to be scheduled: the server's side first, with a reset
//! that also drops what its socket still held.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stolon_core::proxy::{Route, Target};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::config::{Config, Keepalive};
use super::greeting;
use super::metrics::Metrics;
use crate::runtime::clock;

/// What is carried at a time in one direction.
const BUFFER: usize = 16 * 1024;
/// How long connecting to the primary may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Unacknowledged data older than this end a connection, where keepalive flags do not say.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Clients that may be told at the same time why they are refused; others are just closed.
const MOST_REFUSALS: usize = 256;
/// How long to wait before trying again to listen, or to accept when the process is out of files.
const RETRY: Duration = Duration::from_millis(200);

/// The relay.
pub(super) struct Relay {
    address: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    metrics: Metrics,
    keepalive: Keepalive,
    state: Mutex<State>,
    refusals: Arc<Semaphore>,
}

struct State {
    permit: Option<Arc<Permit>>,
    why_closed: String,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

/// Leave to forward to one target.
struct Permit {
    target: Target,
    /// Nanoseconds on the boot clock until which it holds.
    until: AtomicU64,
    revoked: AtomicBool,
}

impl Permit {
    fn holds(&self) -> bool {
        let now = u64::try_from(clock::now().since_boot().as_nanos()).unwrap_or(u64::MAX);
        !self.revoked.load(Ordering::Acquire) && now < self.until.load(Ordering::Acquire)
    }
}

struct Connection {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
}

impl Relay {
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        let state = State {
            permit: None,
            why_closed: "the cluster data were not read yet".to_owned(),
            connections: BTreeMap::new(),
            next: 0,
        };
        let shared = Shared {
            metrics,
            keepalive: config.keepalive,
            state: Mutex::new(state),
            refusals: Arc::new(Semaphore::new(MOST_REFUSALS)),
        };
        let host = &config.listen_address;
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{}", config.port)
        } else {
            format!("{host}:{}", config.port)
        };
        Self {
            address,
            shared: Arc::new(shared),
            listener: None,
        }
    }

    /// Accepts clients, or stops to.
    pub(super) fn listen(&mut self, listen: bool) {
        if let Some(task) = self.listener.take() {
            task.abort();
        }
        if listen {
            let (address, shared) = (self.address.clone(), self.shared.clone());
            self.listener = Some(tokio::spawn(accept(address, shared)));
        }
    }

    /// Lets clients go along a route and nowhere else. When this returns every connection to another
    /// place is gone, and every one whose permit had run out: a permit is prolonged only while it
    /// holds, so that nothing outlives a time in which nobody knew of it (I1).
    pub(super) fn set_route(&self, route: &Route) {
        match route {
            Route::Closed(why) => self.shared.close(why),
            Route::To { target, until } => {
                let until = u64::try_from(until.since_boot().as_nanos()).unwrap_or(u64::MAX);
                let mut state = self.shared.lock();
                if let Some(permit) = state
                    .permit
                    .as_ref()
                    .filter(|permit| permit.target == *target && permit.holds())
                {
                    permit.until.store(until, Ordering::Release);
                    return;
                }
                self.shared.revoke(&mut state);
                state.permit = Some(Arc::new(Permit {
                    target: target.clone(),
                    until: AtomicU64::new(until),
                    revoked: AtomicBool::new(false),
                }));
            }
        }
    }

    /// Ends everything.
    pub(super) fn close(&mut self, why: &str) {
        self.listen(false);
        self.shared.close(why);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        let mut state = self.lock();
        why.clone_into(&mut state.why_closed);
        self.revoke(&mut state);
    }

    fn revoke(&self, state: &mut State) {
        if let Some(permit) = state.permit.take() {
            permit.revoked.store(true, Ordering::Release);
        }
        for connection in state.connections.values() {
            abort(&connection.server);
        }
        for (_, connection) in std::mem::take(&mut state.connections) {
            abort(&connection.client);
            self.metrics.closed.inc();
        }
    }

    /// Enters a connection, unless its permit has ended meanwhile.
    fn enter(&self, permit: &Arc<Permit>, connection: Connection) -> Option<u64> {
        let mut state = self.lock();
        let current = state
            .permit
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, permit));
        if !current || !permit.holds() {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.connections.insert(id, connection);
        Some(id)
    }
}

/// Resets a connection at once, dropping what its socket still holds (connect(2) with `AF_UNSPEC`
/// aborts a TCP connection on Linux).
fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(stream);
}

async fn accept(address: String, shared: Arc<Shared>) {
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%error, address, "cannot listen for clients; trying again");
                tokio::time::sleep(RETRY.saturating_mul(5)).await;
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.metrics.accepted.inc();
                tokio::spawn(serve(client, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let (permit, why) = {
        let state = shared.lock();
        let permit = state.permit.clone().filter(|permit| permit.holds());
        (permit, state.why_closed.clone())
    };
    prepare(&client, shared.keepalive);
    let Some(permit) = permit else {
        return refuse(client, &shared, &why).await;
    };
    let address = (
        permit.target.host.as_str(),
        permit.target.port.parse().unwrap_or(0),
    );
    let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let server = match connecting {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            let why = format!(
                "the primary at {}:{} cannot be reached: {error}",
                address.0, address.1
            );
            return refuse(client, &shared, &why).await;
        }
        Err(_) => {
            let why = format!("the primary at {}:{} does not answer", address.0, address.1);
            return refuse(client, &shared, &why).await;
        }
    };
    prepare(&server, shared.keepalive);
    let (client, server) = (Arc::new(client), Arc::new(server));
    let connection = Connection {
        client: client.clone(),
        server: server.clone(),
    };
    let Some(id) = shared.enter(&permit, connection) else {
        abort(&server);
        abort(&client);
        return;
    };
    shared.metrics.connections.inc();
    let both = async {
        tokio::try_join!(
            carry(&client, &server, &permit),
            carry(&server, &client, &permit)
        )
    };
    if both.await.is_err() {
        // One side is broken, or the permit ended: neither side may believe it goes on.
        abort(&server);
        abort(&client);
    }
    shared.lock().connections.remove(&id);
    shared.metrics.connections.dec();
}

/// Tells a client why there is no primary for it, unless too many are being told.
async fn refuse(client: TcpStream, shared: &Shared, why: &str) {
    shared.metrics.refused.inc();
    if let Ok(_place) = shared.refusals.clone().try_acquire_owned() {
        greeting::refuse(client, why).await;
    }
}

/// Carries bytes one way until the end of the stream, which is passed on.
async fn carry(from: &TcpStream, to: &TcpStream, permit: &Permit) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        from.readable().await?;
        let count = match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        hand_over(buffer.get(..count).unwrap_or_default(), to, permit).await?;
    }
    rustix::net::shutdown(to, rustix::net::Shutdown::Write).map_err(std::io::Error::from)
}

async fn hand_over(mut bytes: &[u8], to: &TcpStream, permit: &Permit) -> std::io::Result<()> {
    while !bytes.is_empty() {
        if !permit.holds() {
            return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        }
        match to.try_write(bytes) {
            Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero)),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets a socket so that a peer that vanished is noticed (scenario D2).
fn prepare(stream: &TcpStream, keepalive: Keepalive) {
    let socket = SockRef::from(stream);
    let mut settings = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        settings = settings.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        settings = settings.with_interval(interval);
    }
    if let Some(count) = keepalive.count {
        settings = settings.with_retries(count);
    }
    let budget = match (keepalive.idle, keepalive.interval, keepalive.count) {
        (Some(idle), Some(interval), Some(count)) => idle + interval.saturating_mul(count),
        _ => USER_TIMEOUT,
    };
    // A socket without these still works; it only takes longer to see that a peer is gone.
    let _ = stream.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&settings);
    let _ = socket.set_tcp_user_timeout(Some(budget));
}

#[cfg(test)]
mod tests {
    use super::{Relay, Route, Target, clock};
    use crate::proxy::config::{Config, Keepalive};
    use crate::proxy::metrics;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const LIMIT: Duration = Duration::from_secs(20);

    async fn relay() -> (Relay, u16) {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let store = stolon_store::Config {
            backend: stolon_store::Backend::Sqlite,
            endpoints: vec![],
            prefix: String::new(),
            cluster_name: String::new(),
            timeout: LIMIT,
            tls: stolon_store::Tls::default(),
        };
        let log = crate::runtime::logging::LogConfig {
            level: tracing::Level::ERROR,
            color: false,
            format: crate::runtime::logging::LogFormat::Text,
        };
        let common = crate::config::CommonConfig {
            cluster_name: String::new(),
            store,
            metrics_listen_address: None,
            log,
        };
        let config = Config {
            common,
            listen_address: "127.0.0.1".into(),
            port,
            stop_listening: true,
            keepalive: Keepalive::default(),
        };
        let mut relay = Relay::new(&config, metrics::registry("test").1);
        relay.listen(true);
        (relay, port)
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
        let mut client = connect(port).await;
        let (mut served, _) = within(server.accept()).await.expect("a connection");
        within(client.write_all(b"hello")).await.expect("written");
        let mut buffer = [0; 5];
        within(served.read_exact(&mut buffer)).await.expect("read");
        assert_eq!(&buffer, b"hello");
        (client, served)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_and_the_end_of_a_stream_are_passed_on() {
        let (relay, port) = relay().await;
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
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_resets_both_sides_before_it_returns() {
        let (relay, port) = relay().await;
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
        let (relay, port) = relay().await;
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
        let (relay, port) = relay().await;
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let lasts = Duration::from_millis(300);
        relay.set_route(&to(&server, lasts));
        let mut client = connect(port).await;
        let (mut served, _) = within(server.accept()).await.expect("a connection");
        within(client.write_all(b"hello")).await.expect("written");
        let mut buffer = [0; 5];
        within(served.read_exact(&mut buffer)).await.expect("read");
        clock::sleep_until(Some(clock::now().after(lasts))).await;
        relay.set_route(&to(&server, LIMIT));
        let end = within(served.read(&mut buffer)).await;
        assert!(end.is_err(), "{end:?}");
        let mut again = connect(port).await;
        let (mut served, _) = within(server.accept()).await.expect("a connection");
        within(again.write_all(b"hello")).await.expect("written");
        within(served.read_exact(&mut buffer)).await.expect("read");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refused_client_is_told_why_and_nonsense_costs_nothing() {
        let (relay, port) = relay().await;
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
}
