//! One client at a time, at one endpoint, until it fails: then the next endpoint's.
//!
//! The balancer of the client library is no failover: it goes on choosing dead endpoints, and a
//! frozen one costs whole time limits (dependencies.md, 3.2). And a client whose call got no answer
//! in time is thrown away, because its connection may take long to notice that the network is back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error as EtcdError};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use super::endpoint;
use super::failure::{Failure, Kind, lease_is_gone};
use crate::{Config, Error};

/// Pauses after rounds in which every endpoint failed at once: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How it looks when the other side ends a connection.
const CLOSED: [&str; 3] = ["connection closed", "broken pipe", "onnection reset"];

/// The endpoints, and the client of the one in use.
pub(super) struct Pool {
    endpoints: Vec<(String, Endpoint)>,
    timeout: Duration,
    current: Mutex<Current>,
    /// Counts the changes of client: what holds streams of an old one makes them anew.
    turns: watch::Sender<u64>,
}

struct Current {
    index: usize,
    turn: u64,
    client: Option<Client>,
}

/// Which client a try was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    turn: u64,
    index: usize,
}

/// What came of a call, with all its tries.
pub(super) struct Outcome<T> {
    pub(super) result: Result<T, Error>,
    /// Why a try failed that may have been carried out, or may be later.
    pub(super) doubt: Option<Error>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("endpoints", &self.addresses())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        if config.timeout.is_zero() {
            return Err(Error::Config(
                "--store-timeout 0s: it must be longer, for example 5s".to_owned(),
            ));
        }
        let share = share(config.timeout, config.endpoints.len().max(1));
        Ok(Self {
            endpoints: endpoint::endpoints(config, share / 2)?,
            timeout: config.timeout,
            current: Mutex::new(Current {
                index: 0,
                turn: 0,
                client: None,
            }),
            turns: watch::channel(0).0,
        })
    }

    /// When a call that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// What one endpoint gets of a call's time, so that others are reached when it is frozen.
    pub(super) fn share(&self) -> Duration {
        share(self.timeout, self.endpoints.len())
    }

    /// The backend and the endpoint in use.
    pub(super) fn describe(&self) -> String {
        let index = self.lock().index;
        format!("etcdv3 {}", self.endpoints[index].0)
    }

    /// Tells of every change of client.
    pub(super) fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// Which client a try that begins now is made with.
    pub(super) fn ticket(&self) -> Ticket {
        let current = self.lock();
        Ticket {
            turn: current.turn,
            index: current.index,
        }
    }

    /// The client of a ticket, made now if there is none. It connects when it is first used.
    pub(super) async fn client(&self, ticket: Ticket) -> Result<Client, EtcdError> {
        if let Some(client) = self.present(ticket) {
            return Ok(client);
        }
        let channel = Channel::Tonic(self.endpoints[ticket.index].1.connect_lazy());
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(channel, Some(options)).await?;
        let mut current = self.lock();
        if current.turn != ticket.turn {
            return Ok(client);
        }
        // Another call may have been faster: one client is enough.
        Ok(current.client.get_or_insert(client).clone())
    }

    /// Throws the client of a failed try away and turns to the next endpoint, once for all calls
    /// that failed with it.
    pub(super) fn turn_from(&self, ticket: Ticket) {
        let mut current = self.lock();
        if current.turn != ticket.turn {
            return;
        }
        current.turn += 1;
        current.index = (current.index + 1) % self.endpoints.len();
        current.client = None;
        let turn = current.turn;
        drop(current);
        self.turns.send_replace(turn);
    }

    /// Asks the endpoints in turn until one answers or the time is over.
    ///
    /// What is asked must do no harm when it is done twice, or late.
    pub(super) async fn call<T, F, W>(&self, end: Instant, ask: F) -> Outcome<T>
    where
        F: Fn(Client) -> W,
        W: Future<Output = Result<T, EtcdError>>,
    {
        let mut tries = Tries::new(self);
        loop {
            let limit = tries.limit(end);
            let ticket = self.ticket();
            let attempt = async {
                let client = self.client(ticket).await?;
                ask(client).await
            };
            let failure = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => return tries.answered(answer),
                Ok(Err(error)) => Failure::new(&error),
                Err(_) => Failure::timeout(limit),
            };
            if failure.kind != Kind::Refused {
                self.turn_from(ticket);
            }
            tracing::debug!(
                endpoint = %self.endpoints[ticket.index].0,
                cause = %failure.text,
                "a call to the store failed"
            );
            if let Some(error) = tries.failed(ticket.index, failure, end) {
                return tries.gave_up(error);
            }
            tokio::time::sleep(tries.pause()).await;
        }
    }

    /// Ends a lease, and with it the keys that hang on it.
    pub(super) async fn revoke(&self, end: Instant, lease: i64) -> Result<(), Error> {
        let revoke = |mut client: Client| async move {
            match client.lease_revoke(lease).await {
                Err(error) if !lease_is_gone(&error) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        self.call(end, revoke).await.result
    }

    fn present(&self, ticket: Ticket) -> Option<Client> {
        let current = self.lock();
        let client = current.client.as_ref()?;
        (current.turn == ticket.turn).then(|| client.clone())
    }

    fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.endpoints.iter().map(|(name, _)| &**name).collect();
        addresses.join(",")
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(timeout: Duration, endpoints: usize) -> Duration {
    timeout / u32::try_from(endpoints.saturating_add(2)).unwrap_or(u32::MAX)
}

/// The tries of one call.
struct Tries<'a> {
    pool: &'a Pool,
    count: usize,
    /// Why each endpoint failed last.
    causes: Vec<Option<(Kind, String)>>,
    doubt: Option<Error>,
}

impl<'a> Tries<'a> {
    fn new(pool: &'a Pool) -> Self {
        Self {
            pool,
            count: 0,
            causes: vec![None; pool.endpoints.len()],
            doubt: None,
        }
    }

    /// How long the next try may take: in the first round over the endpoints a fixed share, later
    /// an equal part of what is left, so that a slow answer is waited for longer, and a frozen
    /// endpoint still leaves time for the others.
    fn limit(&self, end: Instant) -> Duration {
        let endpoints = self.pool.endpoints.len();
        let left = end.saturating_duration_since(Instant::now());
        let unasked = endpoints - self.count % endpoints;
        let part = left / u32::try_from(unasked).unwrap_or(u32::MAX);
        if self.count < endpoints {
            part.min(self.pool.share())
        } else {
            part
        }
    }

    /// A short wait after each round over all endpoints, longer each time.
    fn pause(&self) -> Duration {
        let endpoints = self.pool.endpoints.len();
        if !self.count.is_multiple_of(endpoints) {
            return Duration::ZERO;
        }
        let doublings = u32::try_from(self.count / endpoints).unwrap_or(u32::MAX);
        FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(doublings.saturating_sub(1)))
            .min(LONGEST_PAUSE)
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
        let store = format!("etcdv3 {}", self.pool.endpoints[index].0);
        let doubtful = failure.doubtful;
        if failure.kind == Kind::Refused {
            let cause = failure.text;
            return Some(Error::Denied { store, cause });
        }
        let mut text = failure.text;
        if store.contains(" http:") && CLOSED.iter().any(|words| text.contains(words)) {
            // All that a server that expects TLS lets one see.
            text.push_str(" (if it speaks TLS, its address begins with https://)");
        }
        self.causes[index] = Some((failure.kind, text));
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
        let store = format!("etcdv3 {}", self.pool.addresses());
        let failed: Vec<(&str, Kind, &str)> = self
            .pool
            .endpoints
            .iter()
            .zip(&self.causes)
            .filter_map(|((name, _), cause)| {
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
            [(_, _, text)] if self.pool.endpoints.len() == 1 => (*text).to_owned(),
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
            cause.push_str(" (does etcd run there? --store-endpoints says where)");
        }
        Error::Unavailable { store, cause }
    }
}
