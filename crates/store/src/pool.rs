//! One client at a time, at one endpoint, until it fails: then the next endpoint's.
//!
//! The balancer of etcd's client library is no failover: it goes on choosing dead endpoints, and a
//! frozen one costs whole time limits (dependencies.md, 3.2); the one for HTTP has none. And a
//! client whose call got no answer in time is thrown away, because its connection may take long to
//! notice that the network is back.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, Kind};
use crate::{Config, Error, Revision, Written};

/// Pauses after rounds in which every endpoint failed at once: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How it looks when the other side ends a connection.
const CLOSED: [&str; 3] = ["connection closed", "broken pipe", "onnection reset"];

/// A kind of server, and how clients of its endpoints are made.
pub(crate) trait Connect: Send + Sync + 'static {
    /// What asks one endpoint. Clones share its connections.
    type Client: Clone + Send + Sync;
    /// Why it got no answer.
    type Error: Into<Failure> + Send;

    /// The store's name in messages, as in `--store-backend`.
    fn name(&self) -> &'static str;
    /// The server's name in messages.
    fn server(&self) -> &'static str;
    /// What says where it is, for messages.
    fn found_by(&self) -> &'static str {
        "--store-endpoints"
    }
    /// The endpoints' addresses, as shown in messages; at least one.
    fn addresses(&self) -> &[String];
    /// A client of the endpoint with this index. It connects when it is first used.
    fn client(&self, index: usize) -> impl Future<Output = Result<Self::Client, Failure>> + Send;
    /// What a failure means here, where its words alone do not tell.
    fn judge(&self, failure: Failure) -> Failure {
        failure
    }
}

/// The endpoints, and the client of the one in use.
pub(crate) struct Pool<C: Connect> {
    connect: C,
    timeout: Duration,
    current: Mutex<Current<C::Client>>,
    /// Counts the changes of client: what holds streams of an old one makes them anew.
    turns: watch::Sender<u64>,
}

struct Current<Client> {
    index: usize,
    turn: u64,
    client: Option<Client>,
}

/// Which client a try was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    turn: u64,
    index: usize,
}

/// What came of a call, with all its tries.
pub(crate) struct Outcome<T> {
    pub(crate) result: Result<T, Error>,
    /// Why a try failed that may have been carried out, or may be later.
    pub(crate) doubt: Option<Error>,
}

impl<T> Outcome<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        Outcome {
            result: self.result.map(change),
            doubt: self.doubt,
        }
    }
}

impl Outcome<Option<Revision>> {
    /// What came of a guarded write, with all its tries; none: the key was not as expected.
    pub(crate) fn written(self) -> Written {
        match (self.result, self.doubt) {
            (Ok(Some(revision)), _) => Written::Yes(revision),
            // Perhaps an earlier try of ours is what changed the key.
            (Ok(None), Some(doubt)) => Written::Unknown(doubt),
            (Ok(None), None) => Written::Conflict,
            (Err(error), Some(_)) => Written::Unknown(error),
            (Err(error), None) => Written::No(error),
        }
    }
}

impl<C: Connect> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("endpoints", &self.connect.addresses())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// `--store-timeout`, the bound on one call; refused when there is none.
pub(crate) fn timeout(config: &Config) -> Result<Duration, Error> {
    if config.timeout.is_zero() {
        return Err(Error::Config(
            "--store-timeout 0s: it must be longer, for example 5s".to_owned(),
        ));
    }
    Ok(config.timeout)
}

/// How long one endpoint may take to accept a connection.
pub(crate) fn connect_timeout(timeout: Duration, endpoints: usize) -> Duration {
    share(timeout, endpoints) / 2
}

impl<C: Connect> Pool<C> {
    pub(crate) fn new(connect: C, timeout: Duration) -> Self {
        Self {
            connect,
            timeout,
            current: Mutex::new(Current {
                index: 0,
                turn: 0,
                client: None,
            }),
            turns: watch::channel(0).0,
        }
    }

    /// When a call that begins now has to end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// What a call may take.
    pub(crate) fn longest_call(&self) -> Duration {
        self.timeout
    }

    /// What one endpoint gets of a call's time, so that others are reached when it is frozen.
    pub(crate) fn share(&self) -> Duration {
        share(self.timeout, self.connect.addresses().len())
    }

    /// The backend and the endpoint in use.
    pub(crate) fn describe(&self) -> String {
        self.named(self.lock().index)
    }

    /// Tells of every change of client.
    pub(crate) fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// Which client a try that begins now is made with.
    pub(crate) fn ticket(&self) -> Ticket {
        let current = self.lock();
        Ticket {
            turn: current.turn,
            index: current.index,
        }
    }

    /// The client of a ticket, made now if there is none. It connects when it is first used.
    pub(crate) async fn client(&self, ticket: Ticket) -> Result<C::Client, Failure> {
        if let Some(client) = self.present(ticket) {
            return Ok(client);
        }
        let client = self.connect.client(ticket.index).await?;
        let mut current = self.lock();
        if current.turn != ticket.turn {
            return Ok(client);
        }
        // Another call may have been faster: one client is enough.
        Ok(current.client.get_or_insert(client).clone())
    }

    /// Throws the client of a failed try away and turns to the next endpoint, once for all calls
    /// that failed with it.
    pub(crate) fn turn_from(&self, ticket: Ticket) {
        let mut current = self.lock();
        if current.turn != ticket.turn {
            return;
        }
        current.turn += 1;
        current.index = (current.index + 1) % self.connect.addresses().len();
        current.client = None;
        let turn = current.turn;
        drop(current);
        self.turns.send_replace(turn);
    }

    /// Asks the endpoints in turn until one answers or the time is over.
    ///
    /// What is asked must do no harm when it is done twice, or late.
    pub(crate) async fn call<T, F, W>(&self, end: Instant, ask: F) -> Outcome<T>
    where
        F: Fn(C::Client) -> W,
        W: Future<Output = Result<T, C::Error>>,
    {
        let mut tries = Tries::new(self);
        loop {
            let limit = tries.limit(end);
            let ticket = self.ticket();
            let attempt = async {
                let client = self.client(ticket).await?;
                ask(client).await.map_err(Into::into)
            };
            let failure = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => return tries.answered(answer),
                Ok(Err(failure)) => self.connect.judge(failure),
                Err(_) => Failure::timeout(limit),
            };
            // What a server says of itself says nothing against the connection to it.
            if !matches!(failure.kind, Kind::Refused | Kind::Busy) {
                self.turn_from(ticket);
            }
            tracing::debug!(
                endpoint = %self.connect.addresses()[ticket.index],
                cause = %failure.text,
                "a call to the store failed"
            );
            if let Some(error) = tries.failed(ticket.index, failure, end) {
                return tries.gave_up(error);
            }
            tokio::time::sleep(tries.pause()).await;
        }
    }

    fn present(&self, ticket: Ticket) -> Option<C::Client> {
        let current = self.lock();
        let client = current.client.as_ref()?;
        (current.turn == ticket.turn).then(|| client.clone())
    }

    fn named(&self, index: usize) -> String {
        let (name, addresses) = (self.connect.name(), self.connect.addresses());
        format!("{name} {}", addresses[index])
    }

    /// The backend and all endpoints.
    fn all(&self) -> String {
        let (name, addresses) = (self.connect.name(), self.connect.addresses());
        format!("{name} {}", addresses.join(","))
    }

    fn lock(&self) -> MutexGuard<'_, Current<C::Client>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(timeout: Duration, endpoints: usize) -> Duration {
    timeout / u32::try_from(endpoints.saturating_add(2)).unwrap_or(u32::MAX)
}

/// The tries of one call.
struct Tries<'a, C: Connect> {
    pool: &'a Pool<C>,
    count: usize,
    /// Why each endpoint failed last.
    causes: Vec<Option<(Kind, String)>>,
    /// How long the one that was asked last wants not to be asked again.
    wait: Duration,
    /// How long the last try was allowed to take.
    limit: Duration,
    doubt: Option<Error>,
}

impl<'a, C: Connect> Tries<'a, C> {
    fn new(pool: &'a Pool<C>) -> Self {
        Self {
            pool,
            count: 0,
            causes: vec![None; pool.connect.addresses().len()],
            wait: Duration::ZERO,
            limit: Duration::ZERO,
            doubt: None,
        }
    }

    /// How long the next try may take: in the first round over the endpoints a fixed share, later
    /// an equal part of what is left, so that a slow answer is waited for longer, and a frozen
    /// endpoint still leaves time for the others.
    fn limit(&mut self, end: Instant) -> Duration {
        let endpoints = self.pool.connect.addresses().len();
        let left = end.saturating_duration_since(Instant::now());
        let unasked = endpoints - self.count % endpoints;
        let part = left / u32::try_from(unasked).unwrap_or(u32::MAX);
        let most = (self.count < endpoints).then(|| self.pool.share());
        self.limit = most.map_or(part, |most| most.min(part));
        self.limit
    }

    /// A short wait after each round over all endpoints, longer each time; or what a server wants.
    fn pause(&self) -> Duration {
        let endpoints = self.pool.connect.addresses().len();
        if !self.count.is_multiple_of(endpoints) {
            return self.wait;
        }
        let doublings = u32::try_from(self.count / endpoints).unwrap_or(u32::MAX);
        FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(doublings.saturating_sub(1)))
            .min(LONGEST_PAUSE)
            .max(self.wait)
    }

    fn answered<T>(self, answer: T) -> Outcome<T> {
        Outcome {
            result: Ok(answer),
            doubt: self.doubt,
        }
    }

    fn gave_up<T>(self, error: Error) -> Outcome<T> {
        Outcome {
            result: Err(error),
            doubt: self.doubt,
        }
    }

    /// Notes a failure; an error when it is time to give up.
    fn failed(&mut self, index: usize, failure: Failure, end: Instant) -> Option<Error> {
        self.count += 1;
        let store = self.pool.named(index);
        let doubtful = failure.doubtful;
        self.wait = failure.wait;
        if failure.kind == Kind::Refused {
            let cause = failure.text;
            return Some(Error::Denied { store, cause });
        }
        let mut text = failure.text;
        if store.contains(" http:") && CLOSED.iter().any(|words| text.contains(words)) {
            // All that a server that expects TLS lets one see.
            text.push_str(" (if it speaks TLS, its address begins with https://)");
        }
        let cut_short = failure.kind == Kind::Timeout && self.limit < self.pool.share();
        // What the end of the call cut short says less than the try before it.
        if !cut_short || self.causes[index].is_none() {
            self.causes[index] = Some((failure.kind, text));
        }
        if doubtful {
            self.doubt = Some(self.error());
        }
        let over = Instant::now() + self.pause() >= end;
        // Certificates do not become right by trying again.
        let hopeless = self
            .causes
            .iter()
            .all(|cause| matches!(cause, Some((Kind::Tls, _))));
        (over || hopeless).then(|| self.error())
    }

    /// What there is to say of all endpoints that were asked.
    fn error(&self) -> Error {
        let store = self.pool.all();
        let failed: Vec<(&str, Kind, &str)> = self
            .pool
            .connect
            .addresses()
            .iter()
            .zip(&self.causes)
            .filter_map(|(name, cause)| {
                let (kind, text) = cause.as_ref()?;
                Some((name.as_str(), *kind, text.as_str()))
            })
            .collect();
        let all = |wanted: Kind| failed.iter().all(|(_, kind, _)| *kind == wanted);
        if all(Kind::Timeout) {
            let limit = self.pool.timeout;
            return Error::Timeout { store, limit };
        }
        let mut cause = match failed.as_slice() {
            [(_, _, text)] if self.pool.connect.addresses().len() == 1 => (*text).to_owned(),
            several => several
                .iter()
                .map(|(name, _, text)| format!("{name}: {text}"))
                .collect::<Vec<_>>()
                .join("; "),
        };
        if failed.iter().any(|(_, kind, _)| *kind == Kind::Tls) {
            return Error::Tls { store, cause };
        }
        if all(Kind::Unreachable) {
            let connect = &self.pool.connect;
            let (server, found_by) = (connect.server(), connect.found_by());
            let _ = write!(cause, " (does {server} run there? {found_by} says where)");
        }
        Error::Unavailable { store, cause }
    }
}
