//! I1, I6 and I8: one writable instance that clients reach through proxies; proxies acknowledge what
//! they have carried out; an instance becomes writable on a fresh word only.

use stolon_core::keeper::decide::Step;
use stolon_core::model::ProxyInfo;

use crate::world::World;
use crate::world::event::{Actor, ConnectionId};
use crate::world::proxy::ProxyNode;

impl World {
    /// The instances that are writable and that some proxy may forward to, now or when it goes on
    /// after a pause that ends now.
    fn reachable(&self) -> impl Iterator<Item = (usize, usize)> {
        let proxies = self.proxies.iter().enumerate();
        let permits = proxies.flat_map(|(p, proxy)| proxy.permits().map(move |permit| (p, permit)));
        let writable = permits.filter(|(_, permit)| self.instances[permit.target].is_writable());
        let holding = writable.filter(|(p, permit)| self.holds(*p, permit));
        holding.map(|(p, permit)| (p, permit.target))
    }

    /// I1.
    pub(crate) fn check_one_primary(&mut self) {
        let permits = self.proxies.iter().flat_map(ProxyNode::permits);
        let targets = permits.map(|permit| permit.target);
        let mut writable = targets.filter(|target| self.instances[*target].is_writable());
        let first = writable.next();
        if writable.all(|target| Some(target) == first) {
            return;
        }
        let reachable: Vec<(usize, usize)> = self.reachable().collect();
        let Some((p, one)) = reachable.first().copied() else {
            return;
        };
        if let Some((q, other)) = reachable.iter().find(|(_, target)| *target != one) {
            let text = format!(
                "pg{one} and pg{other} are writable; p{p} forwards to the one, p{q} to the other"
            );
            self.fail("I1-two-primaries", text);
        }
    }

    /// A statement that may write arrives at a writable instance.
    pub(crate) fn check_writing(&mut self, k: usize, id: ConnectionId) {
        let other = self
            .reachable()
            .map(|(_, target)| target)
            .find(|target| *target != k);
        let Some(other) = other else {
            return;
        };
        let direct = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.proxy.is_none());
        if !direct {
            // Its bytes were in a kernel already when the proxy closed.
            self.note("late-bytes");
            return;
        }
        self.note("direct-hole");
        if self.checks.minds_direct_clients {
            let text =
                format!("a client writes to pg{k} round the proxies, which forward to pg{other}");
            self.fail("I1-direct-client", text);
        }
    }

    /// A proxy hands a client's bytes over.
    pub(crate) fn check_forwarding(&mut self, p: usize, serial: u64, target: usize) {
        let now = self.local(Actor::Proxy(p));
        let mut permits = self.proxies[p].permits();
        let permit = permits.find(|permit| permit.serial == serial);
        let allowed = permit.is_some_and(|permit| permit.target == target && now < permit.until);
        if !allowed {
            self.fail(
                "I6-forwarded-without-leave",
                format!("p{p} forwards to pg{target}"),
            );
        }
    }

    /// I6: what a proxy acknowledges it has carried out.
    pub(crate) fn check_acknowledgement(&mut self, p: usize, info: &ProxyInfo) {
        if self.proxies[p].is_go {
            // It acknowledges first; sentinels wait for its connections.
            return;
        }
        // Generations come again when the store goes back: it means the one that it read.
        let read = self.proxies[p].read.as_ref();
        let read = read
            .and_then(|(_, _, data)| Some(&data.as_ref()?.proxy))
            .filter(|proxy| proxy.generation == info.generation)
            .map(|proxy| &proxy.spec);
        let told = self.checks.told.get(&info.generation);
        let Some(spec) = read.or(told).cloned() else {
            return;
        };
        self.check_standbys_left(p, info, &spec);
        let primary = &spec.primary_db_uid;
        let closed = primary.is_empty() || !spec.enabled_proxies.contains(&info.uid);
        let told = if closed {
            None
        } else {
            self.keeper_of(primary)
        };
        let permit = self.permit(p).map(|permit| permit.target);
        if let Some(target) = permit
            && (closed || told.is_some_and(|told| told != target))
        {
            let generation = info.generation;
            let text =
                format!("p{p} acknowledges generation {generation} and forwards to pg{target}");
            self.fail("I6-acknowledged-early", text);
        }
    }

    /// I8: the word that makes an instance writable.
    pub(crate) fn check_permission(&mut self, k: usize, step: &Step) {
        let instance = &self.instances[k];
        let makes_writable = match step {
            Step::Start { .. } => !instance.pgdata.signal,
            Step::Promote { .. } => true,
            _ => false,
        };
        let Some(document) = self.keepers[k].core().and_then(|core| core.document()) else {
            return;
        };
        if !makes_writable {
            return;
        }
        let uid = crate::world::keeper::keeper_uid(k);
        let db = document.data.db_of(&uid).map(|db| db.uid.clone());
        let primary = document.data.primary().map(|db| db.uid.clone());
        let sent_at = self.clock_of(Actor::Keeper(k)).world(document.sent_at);
        let (identity, until) = (instance.pgdata.identity.clone(), instance.writable_until);
        if db.is_none() || db != primary || identity != db {
            let text =
                format!("k{k} runs {identity:?} as primary, and the document names {primary:?}");
            self.fail("I8-not-named", text);
        } else if sent_at + std::time::Duration::from_micros(1) < until {
            let text = format!("k{k} runs {db:?} on a word from before its end");
            self.fail("I8-stale-word", text);
        }
    }

    /// I3 compares histories by the numbers of their timelines: each begins once.
    pub(crate) fn timeline_begun(&mut self, k: usize, system: String, timeline: u64) {
        // By the word of a store that has forgotten which timelines may have begun (ADR 11).
        let server = self.instances[k].server.as_ref();
        if k >= self.keepers.len() {
            return;
        }
        let is_forgotten = server.is_some_and(|server| server.promoted_by_lost_word);
        if self.checks.is_unsettled || is_forgotten {
            return;
        }
        if let Some(first) = self.checks.begun.insert((system, timeline), k) {
            let text = format!("pg{k} begins timeline {timeline}, which pg{first} began before");
            self.fail("I3-timeline-begun-twice", text);
        }
    }

    /// An instance is writable from now on.
    pub(crate) fn became_writable(&mut self, k: usize) {
        self.instances[k].writable_lives += 1;
        self.check_role(k);
        self.say(|| format!("pg{k} is writable"));
    }
}
