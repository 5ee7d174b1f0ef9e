//! Processes of the Go program among ours, as far as the contract tells of them (sections 3 and 7).
//!
//! A proxy of theirs is a machine of its own: it looks every proxyCheckInterval, hears of no change, says
//! that it has carried out what its connections are still to feel, and counts its timeout from the end of
//! a check. One of its holes is left out: after its timer has fired, the real one is open again from a
//! read whose publication fails.
//!
//! A keeper of theirs decides as ours do, since the world is to try the sentinels and the proxies with
//! what they are told; but it publishes without our fields and no more often than every sleepInterval,
//! hears of no change, knows no requests, and stops its instance when it starts. A sentinel of theirs decides
//! as ours do, but knows nothing of clients that read from standbys: it names no successor. What theirs risks by
//! itself (data removed before they are copied, `sync_state` believed) are deliberate breaks of
//! [`crate::broken`].

use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::report::FEATURE_READS;
use stolon_core::model::{
    ClusterData, DbUid, EffectiveSpec, KeeperInfo, ProxyInfo, ProxyUid, SentinelInfo,
};
use stolon_core::proxy::{Effect, Event, Route, Target};
use stolon_core::time::Instant;

use super::World;
use super::event::{Actor, What};
use super::postgres::Ending;

/// How long connections live on after the proxy was told to close them: less than any sleepInterval, for
/// which sentinels wait.
pub(super) const CLOSES_WITHIN: u64 = 200;

/// A proxy of the Go program.
#[derive(Debug)]
pub(super) struct GoProxy {
    uid: ProxyUid,
    is_checking: bool,
    /// When its timer was last started: at its own start, and at the end of every good check.
    timer_from: Option<Instant>,
    /// Where the last document read sends clients.
    target: Option<Target>,
    spec: EffectiveSpec,
    is_listening: bool,
}

impl GoProxy {
    pub(super) fn new(uid: ProxyUid) -> Self {
        Self {
            uid,
            is_checking: false,
            timer_from: None,
            target: None,
            spec: stolon_core::model::ClusterSpec::default().effective(),
            is_listening: false,
        }
    }

    /// Takes in what happened and says what is to be done, in the words of core's proxy.
    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let is_first = self.timer_from.is_none();
        self.timer_from.get_or_insert(now);
        match event {
            Event::StoreChanged | Event::Wake if is_first || event == Event::Wake => {
                self.check(now)
            }
            Event::StoreChanged
            | Event::Wake
            | Event::RouteSet
            | Event::Reports { .. }
            | Event::ReportsFailed => Vec::new(),
            Event::Document { data, .. } => self.take(now, data.as_deref()),
            Event::ReadFailed => self.end_check(now, false),
            Event::Published(stored) => self.end_check(now, stored),
        }
    }

    fn timer_ends(&self) -> Option<Instant> {
        Some(self.timer_from?.after(self.spec.proxy_timeout))
    }

    fn check(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.timer_ends().is_some_and(|ends| ends <= now) {
            self.target = None;
            effects.push(Effect::Route(Route::Closed("its timer fired".to_owned())));
            effects.extend(self.listen(false));
        }
        if !std::mem::replace(&mut self.is_checking, true) {
            effects.push(Effect::Read);
        }
        effects
    }

    fn listen(&mut self, wanted: bool) -> Option<Effect> {
        let was = std::mem::replace(&mut self.is_listening, wanted);
        (was != wanted).then_some(Effect::Listen(wanted))
    }

    fn take(&mut self, now: Instant, data: Option<&ClusterData>) -> Vec<Effect> {
        let mut effects = Vec::from_iter(self.listen(true));
        let spec = data.and_then(|data| data.cluster.as_ref()?.spec.clone());
        self.spec = spec.unwrap_or_default().effective();
        self.target = data.and_then(|data| self.target_of(data));
        effects.push(Effect::Route(self.route(now)));
        let timeout = self.spec.proxy_timeout;
        let info = ProxyInfo {
            uid: self.uid.clone(),
            generation: data.map(|data| data.proxy.generation).unwrap_or_default(),
            proxy_timeout_nanos: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            ..ProxyInfo::default()
        };
        effects.push(Effect::Publish(Box::new(info), timeout * 2));
        effects
    }

    fn target_of(&self, data: &ClusterData) -> Option<Target> {
        let proxy = &data.proxy.spec;
        let db = data.dbs.get(&proxy.primary_db_uid)?;
        let is_enabled = proxy.enabled_proxies.contains(&self.uid);
        let (host, port) = (&db.status.listen_address, &db.status.port);
        (is_enabled && !host.is_empty()).then(|| Target {
            db: db.uid.clone(),
            host: host.clone(),
            port: port.clone(),
        })
    }

    fn route(&self, now: Instant) -> Route {
        let until = self.timer_ends().filter(|until| now < *until);
        match self.target.clone().zip(until) {
            Some((target, until)) => Route::To { target, until },
            None => Route::Closed("closed".to_owned()),
        }
    }

    /// A check has ended: the next one comes after a pause.
    fn end_check(&mut self, now: Instant, is_good: bool) -> Vec<Effect> {
        self.is_checking = false;
        let mut effects = Vec::new();
        if is_good {
            self.timer_from = Some(now);
            if self.target.is_some() {
                effects.push(Effect::Route(self.route(now)));
            }
        }
        let next = now.after(self.spec.proxy_check_interval);
        let timer = self.timer_ends().filter(|ends| now < *ends);
        effects.push(Effect::WakeAt(timer.map_or(next, |ends| ends.min(next))));
        effects
    }
}

/// What a keeper of the Go program publishes where ours publishes this.
pub(super) fn without_our_fields(mut info: KeeperInfo) -> KeeperInfo {
    info.implementation.clear();
    info.version.clear();
    info.features.clear();
    if let Some(state) = info.postgres_state.as_mut() {
        state.instance = None;
        // The last two only.
        let known = state.timelines_history.len();
        state.timelines_history.drain(..known.saturating_sub(2));
    }
    info
}

impl World {
    /// Whether it is a process of the Go program.
    pub(crate) fn is_go(&self, actor: Actor) -> bool {
        match actor {
            Actor::Keeper(k) => self.keepers[k].is_go,
            Actor::Proxy(p) => self.proxies[p].is_go,
            Actor::Sentinel(s) => self.sentinels[s].is_go,
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => false,
        }
    }

    /// From its next start on a process is one of the other program.
    pub(crate) fn exchange(&mut self, actor: Actor) {
        self.note(if self.is_go(actor) {
            "go-replaced"
        } else {
            "go-returns"
        });
        self.kill(actor);
        match actor {
            Actor::Keeper(k) => self.keepers[k].is_go ^= true,
            Actor::Proxy(p) => self.proxies[p].is_go ^= true,
            Actor::Sentinel(s) => self.sentinels[s].is_go ^= true,
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {}
        }
    }

    /// What a sentinel publishes: one of the Go program does not say that it cares for those who read.
    pub(super) fn as_sentinel_publishes(&self, s: usize, mut info: SentinelInfo) -> SentinelInfo {
        if self.sentinels[s].is_go {
            info.implementation.clear();
            info.version.clear();
            info.features.clear();
        }
        info
    }

    /// What proxies published, as a sentinel reads it.
    pub(super) fn as_sentinel_reads(
        &mut self,
        s: usize,
        infos: Vec<Arc<ProxyInfo>>,
    ) -> Vec<ProxyInfo> {
        let ignores = self.sentinels[s].is_go || self.ignores_readers();
        let infos = infos.into_iter().map(Arc::unwrap_or_clone);
        let mut infos: Vec<ProxyInfo> = infos.collect();
        if ignores {
            for info in &mut infos {
                info.features.retain(|name| name != FEATURE_READS);
            }
        }
        infos
    }

    /// The cluster data as a sentinel writes them: one of the Go program keeps no field that it does not
    /// know.
    pub(super) fn as_sentinel_writes(&self, s: usize, mut data: ClusterData) -> ClusterData {
        if self.sentinels[s].is_go {
            data.proxy.spec.successor_db_uid = DbUid::default();
        }
        data
    }

    /// It stops what it finds running when it starts.
    pub(super) fn stop_at_start(&mut self, k: usize) {
        let Some(server) = self.instances[k].server.as_ref() else {
            return;
        };
        let ending = match (server.accepts(), server.writable) {
            (true, true) => Ending::Shutdown,
            (true, false) => Ending::InRecovery,
            (false, _) => Ending::Crash,
        };
        if ending != Ending::Crash {
            self.shutdown_checkpoint(k);
        }
        self.note("go-stops-at-start");
        self.end_server(k, ending);
    }

    /// Whether a publication of a keeper of the Go program is due; one that is not counts as stored.
    pub(super) fn is_publication_due(&mut self, k: usize) -> bool {
        if !self.keepers[k].is_go {
            return true;
        }
        let pause = self.spec().sleep_interval.mul_f64(0.8);
        let due = self.keepers[k]
            .published_at
            .is_none_or(|at| at + pause <= self.now);
        if due {
            self.keepers[k].published_at = Some(self.now);
        } else {
            let life = self.keepers[k].process.life;
            let event = Box::new(stolon_core::keeper::Event::Published);
            let soon = self.now + Duration::from_millis(1);
            self.queue.put(soon, What::Keeper(k, life, event));
        }
        due
    }
}
