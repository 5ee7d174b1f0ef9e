//! Proxies: core's state machine, and the relay that carries clients while it may (I1, I6).

use std::iter::Chain;
use std::sync::Arc;
use std::time::Duration;
use std::{option, slice};

use stolon_core::model::{ClusterData, ProxyInfo, ProxyUid};
use stolon_core::proxy::{Effect, Event, Proxy, Route, Settings};
use stolon_core::time::Instant;

use super::calls::Purpose;
use super::client::{Connection, Entry, Response};
use super::event::{Actor, ClientWord, ConnectionId, PostgresEvent, What};
use super::go::{CLOSES_WITHIN, GoProxy};
use super::network::Way;
use super::past::Origin;
use super::store::Operation;
use super::{Process, World};

/// Leave to forward to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(crate) serial: u64,
    /// The keeper of the instance.
    pub(crate) target: usize,
    pub(crate) until: Instant,
}

type Permits<'a> = Chain<option::Iter<'a, Permit>, slice::Iter<'a, Permit>>;

/// What decides in a proxy.
#[derive(Debug)]
enum Brain {
    Ours(Box<Proxy>),
    Go(Box<GoProxy>),
}

impl Brain {
    fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match self {
            Self::Ours(proxy) => proxy.handle(now, event),
            Self::Go(proxy) => proxy.handle(now, event),
        }
    }
}

/// A proxy.
#[derive(Debug)]
pub(crate) struct ProxyNode {
    pub(crate) process: Process,
    core: Option<Brain>,
    /// Whether it is one of the Go program.
    pub(crate) is_go: bool,
    starts: u32,
    listening: bool,
    pub(crate) permit: Option<Permit>,
    /// Leave to forward those who read, to one standby each.
    pub(crate) reading: Vec<Permit>,
    permits: u64,
    pub(crate) uid: ProxyUid,
    /// What it read last, and of which revision.
    pub(crate) read: Option<(Origin, u64, Option<Arc<ClusterData>>)>,
}

impl ProxyNode {
    /// A proxy that was not started.
    pub(crate) fn new(is_go: bool) -> Self {
        Self {
            process: Process::default(),
            core: None,
            is_go,
            starts: 0,
            listening: false,
            permit: None,
            reading: Vec::new(),
            permits: 0,
            uid: ProxyUid::default(),
            read: None,
        }
    }

    /// All leave to forward that it was given, whether it holds or not.
    pub(crate) fn permits(&self) -> Permits<'_> {
        self.permit.iter().chain(&self.reading)
    }

    pub(super) fn next_permit(&mut self) -> u64 {
        self.permits += 1;
        self.permits
    }
}

/// The number of the keeper whose instance has this address.
pub(crate) fn keeper_at(host: &str) -> Option<usize> {
    let (_, last) = host.rsplit_once('.')?;
    last.parse::<usize>().ok()?.checked_sub(1)
}

impl World {
    pub(crate) fn start_proxy(&mut self, p: usize) {
        let reads = self.max_lag(p);
        let node = &mut self.proxies[p];
        node.starts += 1;
        node.uid = ProxyUid::new(format!("p{p}x{}", node.starts));
        node.listening = false;
        node.permit = None;
        node.reading.clear();
        node.read = None;
        node.core = Some(if node.is_go {
            Brain::Go(Box::new(GoProxy::new(node.uid.clone())))
        } else {
            Brain::Ours(Box::new(Proxy::new(Settings {
                uid: node.uid.clone(),
                version: "0".to_owned(),
                stop_listening: p.is_multiple_of(2),
                reads,
            })))
        });
        self.proxy_hears(p, Event::StoreChanged);
    }

    /// It learns what the store holds.
    pub(crate) fn proxy_reads(
        &mut self,
        p: usize,
        sent_at: Instant,
        origin: Origin,
        found: Option<(u64, Arc<ClusterData>)>,
    ) {
        let revision = found.as_ref().map_or(0, |(revision, _)| *revision);
        let data = found.map(|(_, data)| data);
        let event = self.as_proxy_reads(p, sent_at, revision, data.as_ref());
        let before = self.proxies[p].read.replace((origin, revision, data));
        let permits = self.proxies[p].permits();
        let permits: Vec<u64> = permits.map(|permit| permit.serial).collect();
        self.proxy_hears(p, event);
        if let Some(before) = before.filter(|_| !self.proxies[p].is_go) {
            self.check_closes_first(p, &before, &permits);
        }
    }

    /// Hands an event to the state machine and carries out what it wants. A route is set at once;
    /// core hears so before anything else.
    pub(crate) fn proxy_hears(&mut self, p: usize, event: Event) {
        let actor = Actor::Proxy(p);
        let mut event = Some(event);
        let mut routes_set = 0_u32;
        let revision = match &event {
            Some(Event::Document { revision, .. }) => Some(*revision),
            _ => None,
        };
        while let Some(next) = event.take() {
            let now = self.local(actor);
            let Some(core) = self.proxies[p].core.as_mut() else {
                return;
            };
            for effect in core.handle(now, next) {
                if matches!(effect, Effect::Route(_) | Effect::ReadRoute(_)) {
                    routes_set += 1;
                    let origin = self.proxies[p].read.as_ref().map(|(origin, _, _)| *origin);
                    if let Some((revision, origin)) = revision.zip(origin) {
                        self.check_order(actor, origin.incarnation, revision);
                    }
                }
                self.proxy_effect(p, effect);
                if self.may_crash(actor) {
                    return;
                }
            }
            if routes_set > 0 {
                routes_set -= 1;
                event = Some(Event::RouteSet);
            }
        }
    }

    fn proxy_effect(&mut self, p: usize, effect: Effect) {
        let actor = Actor::Proxy(p);
        match effect {
            Effect::Read => {
                let sent_at = self.local(actor);
                self.call(actor, Purpose::Read(sent_at), Operation::Get);
            }
            Effect::Route(route) => {
                if let Some(late) = self.late_route(p, &route) {
                    let life = self.proxies[p].process.life;
                    self.queue
                        .put(self.now + late, What::SetRoute(p, life, Box::new(route)));
                } else {
                    self.set_route(p, &route);
                }
            }
            Effect::Listen(listen) => self.proxies[p].listening = listen,
            Effect::Publish(info, ttl) => {
                let mut info = *info;
                info.info_uid = self.info_uid();
                self.check_acknowledgement(p, &info);
                self.publish_proxy(p, info, ttl);
            }
            Effect::Log(reason) => {
                self.note_reading(p, &reason);
                self.take_reason(actor, &reason);
            }
            Effect::WakeAt(at) => self.wake_at(actor, at),
            Effect::ReadReports => {
                let sent_at = self.local(actor);
                self.call(actor, Purpose::Reports(sent_at), Operation::Reports);
            }
            Effect::ReadRoute(route) => {
                if let Some(late) = self.tamper_with_read_route(p, &route) {
                    let life = self.proxies[p].process.life;
                    let what = What::SetReadRoute(p, life, Box::new(route));
                    self.queue.put(self.now + late, what);
                } else {
                    self.set_read_route(p, &route);
                }
            }
        }
    }

    /// How much later than is believed a route is set.
    fn late_route(&mut self, p: usize, route: &Route) -> Option<Duration> {
        let closes = matches!(route, Route::Closed(_)) && self.proxies[p].permit.is_some();
        if self.proxies[p].is_go && closes {
            return Some(self.store.chance.millis(0, CLOSES_WITHIN));
        }
        self.tamper_with_route(p, route)
    }

    fn publish_proxy(&mut self, p: usize, info: ProxyInfo, ttl: Duration) {
        let operation = Operation::PublishProxy(Arc::new(info), self.now + ttl);
        self.call(Actor::Proxy(p), Purpose::Publish, operation);
    }

    /// As the relay does it: a permit is prolonged only while it holds; otherwise every connection
    /// goes first, the server's side by a reset that drops what this host's kernel still held.
    pub(crate) fn set_route(&mut self, p: usize, route: &Route) {
        let now = self.local(Actor::Proxy(p));
        let wanted = match route {
            Route::Closed(_) => None,
            Route::To { target, until } => keeper_at(&target.host).map(|k| (k, *until)),
        };
        let node = &mut self.proxies[p];
        if let (Some((target, until)), Some(permit)) = (wanted, node.permit.as_mut())
            && permit.target == target
            && now < permit.until
        {
            permit.until = until;
            return;
        }
        if let Some(permit) = node.permit.take() {
            if permit.until <= now {
                self.note("proxy-fenced");
            }
            self.note("proxy-closed");
            self.say(|| format!("p{p} closes"));
        }
        let is_of_primary = |of: &Connection| of.proxy == Some(p) && of.entry == Entry::Primary;
        self.reset_connections(is_of_primary);
        if let Some((target, until)) = wanted {
            let node = &mut self.proxies[p];
            let serial = node.next_permit();
            node.permit = Some(Permit {
                serial,
                target,
                until,
            });
            self.note("proxy-opened");
            self.say(|| format!("p{p} opens to pg{target}"));
        }
    }

    /// The permit, while it holds by the proxy's own clock.
    pub(crate) fn permit(&self, p: usize) -> Option<&Permit> {
        let permit = self.proxies[p].permit.as_ref();
        permit.filter(|permit| self.holds(p, permit))
    }

    /// Whether leave to forward holds, by the proxy's own clock.
    pub(crate) fn holds(&self, p: usize, permit: &Permit) -> bool {
        self.local(Actor::Proxy(p)) < permit.until || self.tampers_with_leave()
    }

    /// The permit of a connection, while it holds.
    fn permit_of(&self, p: usize, connection: &Connection) -> Option<&Permit> {
        let mut permits = self.proxies[p].permits();
        let permit = permits.find(|permit| permit.serial == connection.permit);
        permit.filter(|permit| self.holds(p, permit))
    }

    /// Where a new client goes: to the primary, or to the standby with the fewest who read.
    fn permit_for(&self, p: usize, connection: &Connection) -> Option<&Permit> {
        if connection.entry != Entry::Reading {
            return self.permit(p);
        }
        let sessions = |permit: &&Permit| {
            let all = self.connections.values().filter(|of| of.proxy == Some(p));
            all.filter(|of| of.permit == permit.serial).count()
        };
        let permits = self.proxies[p].reading.iter();
        let holding = permits.filter(|permit| self.holds(p, permit));
        holding.min_by_key(sessions)
    }

    /// A client's word arrives.
    pub(crate) fn hear_client(&mut self, p: usize, id: ConnectionId, word: ClientWord) {
        let Some(connection) = self.connections.get(&id).cloned() else {
            return;
        };
        let client = connection.client;
        let permit = match word {
            ClientWord::Connect if self.proxies[p].listening => self.permit_for(p, &connection),
            ClientWord::Connect => None,
            ClientWord::Do(_) => self.permit_of(p, &connection),
        };
        let permit = permit.map(|permit| (permit.serial, permit.target));
        let connection = self.connections.get_mut(&id);
        let Some((connection, (serial, target))) = connection.zip(permit) else {
            self.connections.remove(&id);
            let closed = What::ToClient(client, id, Response::Closed);
            self.send(Actor::Proxy(p), Actor::Client(client), Way::Stream, closed);
            return;
        };
        connection.permit = serial;
        connection.target = target;
        let life = connection.server_life;
        let (event, life) = match word {
            ClientWord::Connect => (PostgresEvent::Connect(id), self.instances[target].life),
            ClientWord::Do(operation) => {
                self.check_forwarding(p, serial, target);
                (PostgresEvent::Do(id, operation), life)
            }
        };
        let what = What::Postgres(target, life, event);
        self.send(Actor::Proxy(p), Actor::Postgres(target), Way::Stream, what);
    }

    /// A server's answer arrives.
    pub(crate) fn hear_server(&mut self, p: usize, id: ConnectionId, response: Response) {
        let connection = self.connections.get(&id);
        let holds = connection.is_some_and(|connection| self.permit_of(p, connection).is_some());
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let client = connection.client;
        let response = match response {
            Response::Connected(life) if holds => {
                connection.server_life = life;
                Response::Connected(life)
            }
            Response::Closed => Response::Closed,
            response if holds => response,
            _ => Response::Closed,
        };
        if response == Response::Closed {
            self.connections.remove(&id);
        }
        let what = What::ToClient(client, id, response);
        self.send(Actor::Proxy(p), Actor::Client(client), Way::Stream, what);
    }

    /// Resets connections: what lay in the kernels of either side is dropped, and both ends hear.
    pub(crate) fn reset_connections(&mut self, which: impl Fn(&super::client::Connection) -> bool) {
        let gone: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| which(connection))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(connection) = self.connections.remove(&id) else {
                continue;
            };
            let of = |what: &What| match what {
                What::Postgres(
                    _,
                    _,
                    PostgresEvent::Do(other, _) | PostgresEvent::Connect(other),
                ) => *other == id,
                _ => false,
            };
            if let Some(p) = connection.proxy {
                let from = self.host_of(Actor::Proxy(p));
                let to = self.host_of(Actor::Postgres(connection.target));
                self.network.drop_parked(from, to, of);
                let closed = What::ToClient(connection.client, id, Response::Closed);
                self.send(
                    Actor::Proxy(p),
                    Actor::Client(connection.client),
                    Way::Stream,
                    closed,
                );
            }
        }
    }
}
