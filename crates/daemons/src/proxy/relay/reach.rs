//! The way to a primary: the addresses that its name has, a connection within a time, and a word in
//! the log when that ceases to work, not one for each client.
//!
//! Names are asked for by one question at a time, which a name server that hangs may keep for half a
//! minute and more: on threads that the store's calls need too. What a name meant last is used while
//! it is asked again, and for as long as nobody answers: as long as the same primary is open to
//! clients. Another one is asked for anew.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stolon_core::proxy::Target;
use stolon_core::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::runtime::clock;

/// How long the addresses of a name count without asking again.
const FRESH: Duration = Duration::from_secs(10);
/// How long to wait after one question before the next.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a client waits for new addresses when older ones are known.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a question for a name is answered with.
type Answer = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;
/// Asks for the addresses of a host and a port.
pub(super) type Ask = fn(String, u16) -> Answer;

/// The way to one target.
#[derive(Debug)]
pub(super) struct Reach {
    /// What it is, in words: the primary, or a standby.
    kind: &'static str,
    host: String,
    /// None: what stands there is no port.
    port: Option<u16>,
    /// Where the host is an address and no name.
    address: Option<SocketAddr>,
    ask: Ask,
    known: Arc<watch::Sender<Known>>,
    /// It was told that the target cannot be reached.
    lost: AtomicBool,
    /// It was told that the target takes connections and says nothing.
    is_mute: AtomicBool,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// When they were answered.
    at: Option<Instant>,
    /// Since when the question that is on its way waits for its answer.
    asked: Option<Instant>,
    /// When the last question was asked.
    last: Option<Instant>,
    /// Why the last question was not answered.
    error: Option<String>,
}

impl Reach {
    pub(super) fn new(target: &Target, kind: &'static str) -> Self {
        Self::by(target, kind, by_system)
    }

    fn by(target: &Target, kind: &'static str, ask: Ask) -> Self {
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let port = target.port.parse().ok();
        let address = host.parse::<IpAddr>().ok().zip(port).map(SocketAddr::from);
        Self {
            kind,
            host: host.to_owned(),
            port,
            address,
            ask,
            known: Arc::default(),
            lost: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
        }
    }

    /// Connects within a time; or why not, in words for the client.
    pub(super) async fn connect(&self, limit: Duration) -> Result<TcpStream, String> {
        let connecting = async {
            let addresses = self.addresses().await.map_err(|why| self.tell_lost(&why))?;
            let each = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
            let mut refusal = None;
            // One that is silent leaves the others their time.
            for address in addresses {
                refusal = match timeout(each, TcpStream::connect(address)).await {
                    Ok(Ok(connected)) => return Ok(connected),
                    Ok(Err(error)) => Some(error),
                    Err(_) => None,
                };
            }
            Err(refusal.map_or_else(|| self.too_late(), |error| self.refused(&error)))
        };
        let connected = timeout(limit, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(self.too_late()))?;
        self.reached();
        Ok(connected)
    }

    /// The one address that it has, where that is known without asking anybody.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        if self.address.is_some() {
            return self.address;
        }
        let known = self.known.borrow();
        let is_fresh = known.at.is_some_and(|at| clock::now().since(at) < FRESH);
        match known.addresses.as_slice() {
            [one] if is_fresh => Some(*one),
            _ => None,
        }
    }

    /// A connection was made.
    pub(super) fn reached(&self) {
        if self.lost.load(Ordering::Relaxed) && self.lost.swap(false, Ordering::Relaxed) {
            tracing::info!("the {} at {self} is reached again", self.kind);
        }
    }

    /// Connecting failed: why, in words for the client.
    pub(super) fn refused(&self, error: &std::io::Error) -> String {
        // It may have other addresses by now.
        self.known.send_modify(|known| known.at = None);
        self.tell_lost(&format!("cannot be reached: {error}"))
    }

    /// Connecting took too long: why, in words for the client.
    pub(super) fn too_late(&self) -> String {
        let is_asked_for = {
            let known = self.known.borrow();
            known.asked.is_some() && known.addresses.is_empty()
        };
        self.tell_lost(if is_asked_for {
            "has no address yet: no name server answers"
        } else {
            "does not answer"
        })
    }

    fn tell_lost(&self, why: &str) -> String {
        let why = format!("the {} at {self} {why}", self.kind);
        if !self.lost.swap(true, Ordering::Relaxed) {
            tracing::warn!("clients wait: {why}");
        }
        why
    }

    /// Notes whether a session that has asked something was answered in good time.
    pub(super) fn answered(&self, answered: bool) {
        let kind = self.kind;
        let was_mute = self.is_mute.swap(!answered, Ordering::Relaxed);
        match (was_mute, answered) {
            (false, false) => tracing::warn!(
                "the {kind} at {self} takes connections and does not answer: clients wait for it, \
                 until its keeper or a sentinel acts"
            ),
            (true, true) => tracing::info!("the {kind} at {self} answers again"),
            (false, true) | (true, false) => {}
        }
    }

    /// Whether the last attempt to connect failed.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether the target takes connections and says nothing.
    #[cfg(test)]
    pub(super) fn is_mute(&self) -> bool {
        self.is_mute.load(Ordering::Relaxed)
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let Some(port) = self.port else {
            return Err("has no port".to_owned());
        };
        if let Some(address) = self.address {
            return Ok(vec![address]);
        }
        let mut known = self.known.subscribe();
        let patience = self.ask_when_old(port);
        let asked = known.wait_for(|known| known.asked.is_none());
        match patience {
            // Whoever connects bounds it.
            None => drop(asked.await),
            Some(patience) => drop(timeout(patience, asked).await),
        }
        let known = self.known.borrow();
        if known.addresses.is_empty() {
            let error = known.error.as_deref().unwrap_or("there is none");
            return Err(format!("has no address: {error}"));
        }
        Ok(known.addresses.clone())
    }

    /// Asks for the name where what is known is old and no question is on its way; how long to wait
    /// for the answer; none: as long as it takes, because nothing is known.
    fn ask_when_old(&self, port: u16) -> Option<Duration> {
        let now = clock::now();
        let mut patience = None;
        self.known.send_if_modified(|known| {
            let is_fresh = known.at.is_some_and(|at| now.since(at) < FRESH);
            let is_soon = known.last.is_some_and(|at| now.since(at) < ASK_AGAIN);
            let begins = !is_fresh && !is_soon && known.asked.is_none();
            if begins {
                known.asked = Some(now);
                known.last = Some(now);
                let (answer, news) = ((self.ask)(self.host.clone(), port), self.known.clone());
                tokio::spawn(async move {
                    let answer = answer.await;
                    news.send_modify(|known| known.learn(answer));
                });
            }
            if !known.addresses.is_empty() {
                let waited = known.asked.map_or(PATIENCE, |asked| now.since(asked));
                patience = Some(PATIENCE.saturating_sub(waited));
            }
            begins
        });
        patience
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.port.unwrap_or_default();
        write!(f, "{}:{port}", self.host)
    }
}

impl Known {
    fn learn(&mut self, answer: std::io::Result<Vec<SocketAddr>>) {
        self.asked = None;
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
                self.at = Some(clock::now());
                self.error = None;
            }
            Ok(_) => self.error = None,
            Err(error) => self.error = Some(error.to_string()),
        }
    }
}

/// Asks as the system does (nsswitch.conf(5)).
fn by_system(host: String, port: u16) -> Answer {
    Box::pin(async move {
        let found = tokio::net::lookup_host((host, port)).await?;
        Ok(found.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::{Answer, FRESH, Reach};
    use crate::runtime::clock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;
    use stolon_core::proxy::Target;
    use stolon_core::time::Instant;
    use tokio::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    fn reach(port: &str, ask: super::Ask) -> Reach {
        let target = Target {
            db: "db1".into(),
            host: "pg1.example".into(),
            port: port.to_owned(),
        };
        Reach::by(&target, "primary", ask)
    }

    fn found(_: String, port: u16) -> Answer {
        Box::pin(async move { Ok(vec![([127, 0, 0, 1], port).into()]) })
    }

    fn failing(_: String, _: u16) -> Answer {
        Box::pin(async { Err(std::io::Error::other("no such host")) })
    }

    static HANGING: AtomicU32 = AtomicU32::new(0);

    fn hanging(_: String, _: u16) -> Answer {
        HANGING.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }

    /// What is known is as old as it may be, and more.
    fn grow_old(reach: &Reach) {
        let at = clock::now().since_boot().saturating_sub(FRESH);
        let at = Some(Instant::from_boot(at));
        reach.known.send_modify(|known| known.at = at);
    }

    #[tokio::test]
    async fn a_name_server_that_hangs_is_asked_once_and_keeps_nobody_for_long() {
        let reach = reach("5432", hanging);
        for _ in 0..5 {
            let why = reach.connect(SHORT).await.expect_err("nowhere to go");
            assert!(why.contains("no name server answers"), "{why}");
        }
        assert_eq!(HANGING.load(Ordering::SeqCst), 1);
        assert!(reach.lost.load(Ordering::SeqCst), "it is told");
    }

    #[tokio::test]
    async fn what_a_name_meant_last_is_used_while_name_servers_are_gone() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let port = server.local_addr().expect("an address").port().to_string();
        let never: super::Ask = |_, _| Box::pin(std::future::pending());
        for gone in [failing, never] {
            let mut reach = reach(&port, found);
            reach.connect(LONG).await.expect("a connection");
            reach.ask = gone;
            grow_old(&reach);
            reach.connect(LONG).await.expect("by the address of before");
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_told_and_asked_for_again() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a server");
        let port = server.local_addr().expect("an address").port().to_string();
        let mut reach = reach(&port, failing);
        let why = reach.connect(LONG).await.expect_err("nowhere to go");
        assert!(
            why.contains("pg1.example") && why.contains("no such host"),
            "{why}"
        );
        reach.ask = found;
        let why = reach.connect(LONG).await.expect_err("not so soon");
        assert!(why.contains("no such host"), "{why}");
        reach.known.send_modify(|known| known.last = None);
        reach.connect(LONG).await.expect("a connection");
        assert!(
            !reach.lost.load(Ordering::SeqCst),
            "it is told that it is over"
        );
    }

    #[tokio::test]
    async fn a_primary_whose_queue_is_full_is_given_up_in_time() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("an address");
        let server = socket.listen(1).expect("a server");
        let port = server.local_addr().expect("an address").port().to_string();
        let reach = reach(&port, found);
        let mut queued = Vec::new();
        // Nobody accepts: the kernel does, as far as its queue goes.
        let why = loop {
            match reach.connect(SHORT).await {
                Ok(connection) => queued.push(connection),
                Err(why) => break why,
            }
            assert!(queued.len() < 100, "the queue has no end");
        };
        assert!(why.contains("does not answer"), "{why}");
        drop(server);
    }
}
