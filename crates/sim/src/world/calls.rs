//! Calls to the store: sent, answered or given up, and what their callers learn.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::request::Request;
use stolon_core::model::{ClusterData, KeeperInfo, ProxyInfo};
use stolon_core::sentinel::WriteOutcome;
use stolon_core::time::Instant;
use stolon_core::{keeper, proxy, sentinel};

use super::World;
use super::event::{Actor, What};
use super::network::Way;
use super::store::{Operation, Reply};

/// A watch tells of a change within so many milliseconds.
const WATCH_DELAY: u64 = 30;

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) actor: Actor,
    life: u32,
    purpose: Purpose,
}

/// What a call is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// A keeper or a proxy reads the cluster data.
    Read(Instant),
    /// A proxy reads what keepers and sentinels published.
    Reports(Instant),
    /// Somebody publishes.
    Publish,
    /// A keeper reads what is asked for, and what the others publish when it needs that.
    Ask(bool),
    /// A keeper tells what came of a request.
    Note,
    /// One of the three reads of a sentinel's look of that number.
    Look(u64),
    /// A sentinel writes the cluster data.
    Write,
    /// A sentinel takes or renews the lease.
    Lease(Instant),
}

/// A sentinel's look on its way.
#[derive(Debug, Default)]
#[allow(
    clippy::option_option,
    reason = "that there is no document is an answer too"
)]
pub(crate) struct Looking {
    pub(crate) serial: u64,
    pub(crate) sent_at: Instant,
    pub(crate) document: Option<Option<(u64, Arc<ClusterData>)>>,
    pub(crate) keepers: Option<Vec<Arc<KeeperInfo>>>,
    pub(crate) proxies: Option<Vec<Arc<ProxyInfo>>>,
    pub(crate) requests: Vec<Request>,
}

impl World {
    /// Sends a request to the store.
    pub(crate) fn call(&mut self, actor: Actor, purpose: Purpose, operation: Operation) {
        self.serial += 1;
        let id = self.serial;
        let life = self.process(actor).life;
        self.calls.insert(
            id,
            Call {
                actor,
                life,
                purpose,
            },
        );
        let request = What::AtStore(id, Box::new(operation));
        self.send(actor, Actor::Store, Way::Call, request);
        let limit = self.clock_of(actor).span(self.plan.shape.store_timeout);
        self.queue.put(self.now + limit, What::CallTimeout(id));
    }

    /// Who is waiting for a call, while somebody is.
    pub(crate) fn caller(&self, id: u64) -> Option<Actor> {
        self.calls.get(&id).map(|call| call.actor)
    }

    /// An answer arrives; none: it did not in time.
    pub(crate) fn answered(&mut self, id: u64, reply: Option<Reply>) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        let process = self.process(call.actor);
        if !process.up || process.life != call.life {
            return;
        }
        let is_refused = matches!(reply, Some(Reply::Refused));
        let reply = reply.filter(|_| !is_refused);
        match (call.actor, call.purpose) {
            (Actor::Keeper(k), Purpose::Read(sent_at)) => {
                let Some(Reply::Document(found, origin)) = reply else {
                    return self.keeper_hears(k, keeper::Event::ReadFailed);
                };
                let event = keeper::Event::Document {
                    sent_at,
                    revision: found.as_ref().map_or(0, |(revision, _)| *revision),
                    data: found
                        .as_ref()
                        .map(|(_, data)| self.as_keeper_reads(k, data)),
                    settings: None,
                };
                self.keepers[k].read = found.map(|(_, data)| (sent_at, origin, data));
                self.keeper_hears(k, event);
            }
            (Actor::Keeper(k), Purpose::Ask(peers)) => {
                let told = match reply {
                    Some(Reply::Keepers(infos, requests)) => Some((requests, infos)),
                    _ => None,
                };
                self.keeper_is_told(k, told, peers);
            }
            (Actor::Keeper(k), Purpose::Note) => {
                let stored = matches!(reply, Some(Reply::Written));
                self.keeper_hears(k, keeper::Event::Noted(stored));
            }
            (Actor::Keeper(k), _) => self.keeper_hears(k, keeper::Event::Published),
            (Actor::Proxy(p), Purpose::Read(sent_at)) => {
                let Some(Reply::Document(found, origin)) = reply else {
                    return self.proxy_hears(p, proxy::Event::ReadFailed);
                };
                self.proxy_reads(p, sent_at, origin, found);
            }
            (Actor::Proxy(p), Purpose::Reports(sent_at)) => {
                let event = match reply {
                    Some(Reply::Reports(reports)) => proxy::Event::Reports { sent_at, reports },
                    _ => proxy::Event::ReportsFailed,
                };
                self.proxy_hears(p, event);
            }
            (Actor::Proxy(p), _) => {
                let stored = matches!(reply, Some(Reply::Written));
                self.proxy_hears(p, proxy::Event::Published(stored));
            }
            (Actor::Sentinel(s), Purpose::Look(serial)) => self.looked(s, serial, reply),
            (Actor::Sentinel(s), Purpose::Write) => self.wrote(s, reply.as_ref(), is_refused),
            (Actor::Sentinel(s), Purpose::Lease(sent_at)) => {
                let held = match reply {
                    Some(Reply::Held(held)) => Some(held),
                    _ => None,
                };
                self.lease_answered(s, sent_at, held);
            }
            (Actor::Sentinel(_) | Actor::Store | Actor::Postgres(_) | Actor::Client(_), _) => {}
        }
    }

    fn wrote(&mut self, s: usize, reply: Option<&Reply>, is_refused: bool) {
        let outcome = match reply {
            Some(Reply::Written) => WriteOutcome::Stored,
            Some(Reply::Conflict) => WriteOutcome::Conflict,
            _ if is_refused => WriteOutcome::Refused,
            _ => WriteOutcome::Unknown,
        };
        if outcome == WriteOutcome::Unknown {
            self.note("write-unknown");
        }
        self.sentinel_hears(s, sentinel::Event::Wrote(outcome));
    }

    fn looked(&mut self, s: usize, serial: u64, reply: Option<Reply>) {
        let Some(looking) = self.sentinels[s].looking.as_mut() else {
            return;
        };
        if looking.serial != serial {
            return;
        }
        match reply {
            Some(Reply::Document(found, _)) => looking.document = Some(found),
            Some(Reply::Keepers(found, requests)) => {
                looking.keepers = Some(found);
                looking.requests = requests;
            }
            Some(Reply::Proxies(found)) => looking.proxies = Some(found),
            _ => {
                self.sentinels[s].looking = None;
                self.look_failed(s);
                return;
            }
        }
        let is_whole =
            looking.document.is_some() && looking.keepers.is_some() && looking.proxies.is_some();
        if !is_whole {
            return;
        }
        let looking = self.sentinels[s].looking.take().unwrap_or_default();
        let document = looking.document.flatten();
        let wall = self.clock_of(Actor::Sentinel(s)).wall(self.now);
        let entropy = self.sentinels[s].chance.any();
        let published =
            |infos: Vec<Arc<KeeperInfo>>| infos.iter().map(|info| (**info).clone()).collect();
        let look = sentinel::Look {
            sentinels: Vec::new(),
            requests: looking.requests,
            sent_at: looking.sent_at,
            wall,
            entropy,
            revision: document.as_ref().map(|(revision, _)| *revision),
            data: document.as_ref().map(|(_, data)| Arc::clone(data)),
            keepers: published(looking.keepers.unwrap_or_default()),
            proxies: self.as_sentinel_reads(s, looking.proxies.unwrap_or_default()),
        };
        self.take_look(s, look);
    }

    /// Tells who watches that something may have changed. A publication wakes sentinels only: real
    /// watches wake keepers and proxies too, which read again what has not changed.
    pub(crate) fn wake_watchers(&mut self, document: bool) {
        let mut actors: Vec<Actor> = (0..self.sentinels.len()).map(Actor::Sentinel).collect();
        if document {
            actors.extend((0..self.keepers.len()).map(Actor::Keeper));
            actors.extend((0..self.proxies.len()).map(Actor::Proxy));
        }
        for actor in actors {
            let process = self.process(actor);
            let (up, life) = (process.up, process.life);
            let ends = (self.host_of(Actor::Store), self.host_of(actor));
            // Processes of the Go program look again after a pause, and hear of nothing.
            if !up
                || self.is_go(actor)
                || self.store.stalled.contains(&actor)
                || self.network.is_cut(ends.0, ends.1)
            {
                continue;
            }
            let delay = Duration::from_micros(100) + self.store.chance.millis(0, WATCH_DELAY);
            let what = match actor {
                Actor::Keeper(k) => What::Keeper(k, life, Box::new(keeper::Event::StoreChanged)),
                Actor::Sentinel(s) => What::Sentinel(s, life, Box::new(sentinel::Event::Wake)),
                Actor::Proxy(p) => What::Proxy(p, life, Box::new(proxy::Event::StoreChanged)),
                Actor::Store | Actor::Postgres(_) | Actor::Client(_) => continue,
            };
            self.queue.put(self.now + delay, what);
        }
    }
}
