//! The simulated world: hosts, a network, a store, PostgreSQL, the components, clients, faults; all on
//! one queue of events.
//!
//! Nothing here decides for the cluster. Sentinels, keepers and proxies are core's state machines with
//! their own effects; the world does what the daemons' shells do.

mod calls;
pub(crate) mod client;
mod clock;
pub(crate) mod event;
mod faults;
mod go;
pub(crate) mod keeper;
pub(crate) mod network;
pub(crate) mod outside;
pub mod past;
pub(crate) mod postgres;
mod process;
pub(crate) mod proxy;
mod queue;
mod reading;
mod requests;
mod sentinel;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::model::InfoUid;
use stolon_core::reason::{Reason, Severity};

use crate::chance::Chance;
use crate::check::Checks;
use crate::check::history::History;
use crate::plan::Plan;
use crate::record::Record;
use client::{Client, Connection, Entry};
pub use event::Actor;
use event::{ConnectionId, What};
use keeper::KeeperNode;
use network::Network;
use outside::Outside;
use postgres::Instance;
use process::Host;
pub(crate) use process::Process;
use proxy::ProxyNode;
use queue::Queue;
use sentinel::SentinelNode;
use store::Store;

/// Time since the beginning of the world.
pub type Time = Duration;

/// The world.
#[derive(Debug)]
pub struct World {
    /// What happens in it.
    pub plan: Plan,
    /// The time.
    pub now: Time,
    queue: Queue,
    hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) store: Store,
    pub(crate) keepers: Vec<KeeperNode>,
    /// Of the keepers, and then the servers outside.
    pub(crate) instances: Vec<Instance>,
    outside: Outside,
    pub(crate) sentinels: Vec<SentinelNode>,
    pub(crate) proxies: Vec<ProxyNode>,
    pub(crate) clients: Vec<Client>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    calls: BTreeMap<u64, calls::Call>,
    /// For names that are to be new.
    serial: u64,
    /// What clients did, and were told.
    pub history: History,
    /// What was seen, said and found.
    pub record: Record,
    pub(crate) checks: Checks,
}

impl World {
    /// A world at its beginning, with everything about to start.
    pub fn new(plan: Plan, record: Record) -> Self {
        let (seed, shape) = (plan.seed, plan.shape.clone());
        let hosts = 1
            + shape.keepers
            + shape.sentinels
            + shape.proxies
            + shape.clients
            + shape.direct_clients
            + shape.outside
            + shape.reading_clients();
        let host = |number| Host::new(seed, number);
        let client = |number| {
            let entry = Entry::of(&shape, number);
            Client::new(seed, number, entry)
        };
        let clients = shape.clients + shape.direct_clients + shape.reading_clients();
        let mut world = Self {
            now: Time::ZERO,
            queue: Queue::default(),
            hosts: (0..hosts).map(host).collect(),
            network: Network::new(seed),
            store: Store::new(seed),
            keepers: (0..shape.keepers)
                .map(|k| KeeperNode::new(seed, k, k < shape.go_keepers))
                .collect(),
            instances: (0..shape.keepers + shape.outside)
                .map(|k| Instance::new(seed, k))
                .collect(),
            outside: Outside::new(seed),
            sentinels: (0..shape.sentinels)
                .map(|s| SentinelNode::new(seed, s, s < shape.go_sentinels))
                .collect(),
            proxies: (0..shape.proxies)
                .map(|p| ProxyNode::new(p < shape.go_proxies))
                .collect(),
            clients: (0..clients).map(client).collect(),
            connections: BTreeMap::new(),
            calls: BTreeMap::new(),
            serial: 0,
            history: History::default(),
            record,
            checks: Checks::default(),
            plan,
        };
        world.store.past.is_kept = world.plan.goes_back();
        world.begin();
        world.begin_outside();
        world
    }

    fn begin(&mut self) {
        let mut chance = Chance::of(self.plan.seed, "beginning", 0);
        let actors = self.actors();
        for actor in actors {
            self.queue.put(chance.millis(1, 3000), What::Start(actor));
        }
        for c in 0..self.clients.len() {
            self.client_later(c, chance.millis(3000, 6000));
        }
        for (number, fault) in self.plan.faults.iter().enumerate() {
            self.queue.put(fault.at, What::Fault(number));
        }
    }

    /// Keepers, sentinels and proxies.
    pub(crate) fn actors(&self) -> Vec<Actor> {
        let keepers = (0..self.keepers.len()).map(Actor::Keeper);
        let sentinels = (0..self.sentinels.len()).map(Actor::Sentinel);
        let proxies = (0..self.proxies.len()).map(Actor::Proxy);
        keepers.chain(sentinels).chain(proxies).collect()
    }

    /// Lets time pass until then, or until something is found.
    pub fn run_until(&mut self, end: Time) {
        while self.record.violation.is_none() {
            let Some((at, what)) = self.queue.take(end) else {
                self.now = self.now.max(end);
                return;
            };
            self.now = self.now.max(at);
            if let Some(later) = self
                .addressee(&what)
                .and_then(|actor| self.resumes_at(actor))
            {
                self.queue.put(later, what);
                continue;
            }
            self.record.count(self.now);
            self.happens(what);
            self.check_one_primary();
        }
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Start(actor) => self.start(actor),
            What::Wake(actor, life, serial) => self.wake(actor, life, serial),
            What::Keeper(k, life, event) => {
                if self.lives(Actor::Keeper(k), life) {
                    self.keeper_hears(k, *event);
                }
            }
            What::Act(k, life) => {
                if self.lives(Actor::Keeper(k), life) {
                    self.work_on(k);
                }
            }
            What::Sentinel(s, life, event) => {
                if self.lives(Actor::Sentinel(s), life) {
                    self.sentinel_hears(s, *event);
                }
            }
            What::Renew(s, life) => {
                if self.lives(Actor::Sentinel(s), life) {
                    self.renew(s);
                }
            }
            What::LeaseEnds(s, life) => {
                if self.lives(Actor::Sentinel(s), life) {
                    self.lease_turn(s);
                }
            }
            What::Proxy(p, life, event) => {
                if self.lives(Actor::Proxy(p), life) {
                    self.proxy_hears(p, *event);
                }
            }
            What::AtStore(call, operation) => self.at_store(call, &operation),
            What::Answer(call, reply) => self.answered(call, Some(*reply)),
            What::CallTimeout(call) => self.answered(call, None),
            What::Postgres(k, life, event) => self.postgres_hears(k, life, event),
            What::SetRoute(p, life, route) => {
                if self.lives(Actor::Proxy(p), life) {
                    self.set_route(p, &route);
                }
            }
            What::SetReadRoute(p, life, route) => {
                if self.lives(Actor::Proxy(p), life) {
                    self.set_read_route(p, &route);
                }
            }
            What::FromClient(p, life, id, word) => {
                if self.lives(Actor::Proxy(p), life) {
                    self.hear_client(p, id, word);
                } else {
                    self.connection_dies(id);
                }
            }
            What::FromServer(p, life, id, response) => {
                if self.lives(Actor::Proxy(p), life) {
                    self.hear_server(p, id, response);
                }
            }
            What::ToClient(c, id, response) => self.client_hears(c, id, &response),
            What::ClientTurn(c, turn) => self.client_turn(c, turn),
            What::ClientTimeout(c, turn) => self.client_timeout(c, turn),
            What::OutsideWrites => self.outside_writes(),
            What::Fault(number) => self.fault_begins(number),
            What::FaultEnds(number) => self.fault_ends(number),
        }
    }

    fn connection_dies(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.client_hears(connection.client, id, &client::Response::Closed);
        }
    }

    pub(crate) fn info_uid(&mut self) -> InfoUid {
        self.serial += 1;
        InfoUid::new(format!("i{}", self.serial))
    }

    /// Takes note of a reason that somebody logs.
    pub(crate) fn take_reason(&mut self, actor: Actor, reason: &Reason) {
        if reason.code == "invariant" {
            self.fail(
                "withheld",
                format!("{actor} withholds a decision: {reason}"),
            );
        }
        match reason.code.as_ref() {
            "no-eligible-standby" => self.note("election-refused"),
            "failover-limit" => self.note("failover-limit"),
            _ => {}
        }
        self.record.reason(&reason.code);
        if reason.severity >= Severity::Info && reason.code != "round" {
            self.say(|| format!("{actor} {}: {reason}", reason.code));
        }
    }

    /// Tells the trace.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        self.record.say(self.now, text);
    }

    /// Notes that something happened that is to happen sometimes.
    pub(crate) fn note(&mut self, what: &'static str) {
        self.record.note(what);
    }

    /// Something must not be.
    pub(crate) fn fail(&mut self, rule: &'static str, text: String) {
        self.record.fail(self.now, rule, text);
    }
}
