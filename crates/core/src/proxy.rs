//! The proxy: where clients may go, and when they may go nowhere.
//!
//! A check is a linearizable read of the cluster data and a stored publication. A proxy forwards
//! only while its last good check, counted from when the read was sent, is younger than the
//! proxyTimeout it announced (I6); it publishes a generation only after the connections it forbids
//! are gone (I1). So the sentinel knows of a proxy that is silent for longer than that that it
//! forwards nothing.

mod checks;
mod decide;
mod event;
mod leave;
mod readers;
mod route;
mod seen;

use std::time::Duration;

use crate::model::report::{FEATURE_AGE_FROM_SEND, IMPLEMENTATION, ProxyInfo};
use crate::model::{ClusterData, EffectiveSpec, Generation, ProxyUid};
use crate::reason::Reason;
use crate::time::Instant;
use checks::{Checks, Pause};
pub use event::{Effect, Event};
pub(crate) use leave::forwards_for;
use leave::{Leave, Publication};
use readers::Readers;
pub use readers::{Fallback, Lag, LagError, ReadOnly};
pub use route::{Passage, Passages, Route, Target};
use seen::{Last, Seen};

/// The shortest time between two checks, whatever proxyCheckInterval says (0 is valid there).
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// How a proxy is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, new at each start.
    pub uid: ProxyUid,
    /// The program's version.
    pub version: String,
    /// Whether it stops listening while it cannot see the store.
    pub stop_listening: bool,
    /// How those are served who only read; none: they are not.
    pub read_only: Option<ReadOnly>,
}

/// One proxy.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    /// The newest document.
    seen: Option<Seen>,
    /// The last document that was one.
    last: Option<Last>,
    /// Until then other proxies may forward by newer cluster data than these.
    held_until: Option<Instant>,
    checks: Checks,
    leave: Leave,
    /// A publication is owed: a check was read, or what was carried out changed.
    owed: bool,
    publishing: Option<Publication>,
    publish_pause: Pause,
    /// The generation last sent to the store.
    published: Option<Generation>,
    listening: bool,
    route: Route,
    readers: Option<Readers>,
    /// Routes asked for and not set yet: connections they forbid may still be there.
    unset: u32,
    started_at: Option<Instant>,
    warned: bool,
}

impl Proxy {
    /// A proxy that has seen nothing yet, and forwards nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            readers: settings.read_only.map(Readers::new),
            settings,
            seen: None,
            last: None,
            held_until: None,
            checks: Checks::default(),
            leave: Leave::default(),
            owed: false,
            publishing: None,
            publish_pause: Pause::default(),
            published: None,
            listening: false,
            route: Route::Closed("the cluster data were not read yet".to_owned()),
            unset: 0,
            started_at: None,
            warned: false,
        }
    }

    /// Where clients go now.
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// Where those go who only read; none: they are not served.
    pub fn passages(&self) -> Option<&Passages> {
        self.readers.as_ref().map(Readers::passages)
    }

    /// When the read of the last good check was sent.
    pub const fn good_at(&self) -> Option<Instant> {
        self.leave.good_at()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let started_at = *self.started_at.get_or_insert(now);
        // First, whatever the event brings: a leave that has ended is never just prolonged, because
        // the connections it allowed have to be closed (I1). A paused process comes through here.
        self.leave.lapse(now);
        self.learn(now, event, &mut effects);
        self.checks.turn(now, self.interval());
        self.listen(now, &mut effects);
        self.set_route(now, &mut effects);
        self.publish(now, &mut effects);
        self.warn(now, started_at, &mut effects);
        if self.checks.send(now) {
            effects.push(Effect::Read);
            if self.readers.as_mut().is_some_and(Readers::ask) {
                effects.push(Effect::ReadReports);
            }
        }
        effects.push(Effect::WakeAt(self.wake_at(now)));
        effects
    }

    fn learn(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Wake => {}
            Event::StoreChanged => self.checks.want(),
            Event::Document {
                sent_at,
                revision,
                data,
            } => {
                let seen = Seen {
                    sent_at,
                    revision,
                    data,
                };
                self.take_document(now, seen, effects);
            }
            Event::ReadFailed => {
                self.checks.failed(now, self.interval());
                // What cannot be read must not look alive: the sentinel would wait for it.
                self.owed = false;
            }
            Event::Reports { sent_at, reports } => {
                let data = self.seen.as_ref().and_then(|seen| seen.data.as_deref());
                if let Some(readers) = &mut self.readers {
                    readers.take(sent_at, reports, data);
                }
            }
            Event::RouteSet => self.unset = self.unset.saturating_sub(1),
            Event::Published(stored) => self.take_publication(now, stored),
        }
    }

    fn take_document(&mut self, now: Instant, seen: Seen, effects: &mut Vec<Effect>) {
        self.owed |= self.checks.answered();
        let gone = self.seen.as_ref().is_some_and(|known| known.data.is_some());
        let last = self.last.as_ref();
        let behind = last.and_then(|last| seen.falls_behind(last, gone));
        let known = last.map_or(0, |last| last.revision);
        if let Some(why) = behind {
            // Everything closes; the document counts once a whole new check has found it again.
            self.leave.end();
            self.owed = true;
            self.checks.want();
            let reason = Reason::warn("document-fell", format!("closing to clients: {why}"));
            let reason = reason.with("revision", seen.revision);
            effects.push(Effect::Log(reason.with("known", known)));
        } else {
            self.leave.read(now, seen.sent_at);
        }
        let back = last.and_then(|last| seen.goes_back_by(last));
        if let Some(hold) = back {
            self.held_until = self.held_until.max(Some(now.after(hold)));
        }
        self.last = Last::of(&seen).or(self.last.take());
        self.seen = Some(seen);
        self.owed |= self.published != Some(self.generation());
    }

    fn take_publication(&mut self, now: Instant, stored: bool) {
        let Some(publication) = self.publishing.take() else {
            return;
        };
        if stored {
            self.publish_pause.reset();
            if self.leave.announced(now, publication) {
                self.checks.want();
            }
        } else {
            self.leave.unanswered(publication);
            self.publish_pause.lengthen(now, self.interval());
            self.owed = true;
        }
    }

    fn data(&self) -> Option<&ClusterData> {
        self.seen.as_ref()?.data.as_deref()
    }

    fn generation(&self) -> Generation {
        self.data()
            .map_or(Generation::NONE, |data| data.proxy.generation)
    }

    fn spec(&self) -> EffectiveSpec {
        seen::spec(self.data())
    }

    fn interval(&self) -> Duration {
        self.spec().proxy_check_interval.max(SHORTEST_INTERVAL)
    }

    /// Until when the newest document counts as seen lately, for listening.
    fn sighted_until(&self) -> Option<Instant> {
        let seen = self.seen.as_ref()?;
        Some(seen.sent_at.after(self.spec().proxy_timeout))
    }

    /// It does not listen before its first read; while it is blind it stops, where asked to.
    fn listen(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let wanted = if self.settings.stop_listening {
            self.sighted_until().is_some_and(|until| now < until)
        } else {
            self.listening || self.seen.is_some()
        };
        if wanted != self.listening {
            self.listening = wanted;
            let text = if wanted {
                "listening for clients"
            } else {
                "stopping to listen: the store cannot be seen"
            };
            let reason = Reason::info("listening", text);
            effects.push(Effect::Log(reason));
            effects.push(Effect::Listen(wanted));
        }
    }

    fn set_route(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.set_primary(now, effects);
        self.set_readers(now, effects);
    }

    fn set_readers(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let data = self.seen.as_ref().and_then(|seen| seen.data.as_deref());
        let Some(readers) = &mut self.readers else {
            return;
        };
        let until = self.leave.until().filter(|until| now < *until);
        // As for the primary: other proxies may yet act on newer cluster data.
        let until = until.filter(|_| self.held_until.is_none());
        if let Some(passages) = readers.turn(now, data, until, &self.route, effects) {
            self.unset = self.unset.saturating_add(1);
            effects.push(Effect::Readers(passages));
        }
    }

    fn set_primary(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let until = self.leave.until().filter(|until| now < *until);
        self.held_until = self.held_until.filter(|until| now < *until);
        let is_held = self.held_until.is_some();
        let route = decide::route(&self.settings.uid, self.data(), until, is_held);
        if route == self.route {
            return;
        }
        let target = |route: &Route| match route {
            Route::To { target, .. } => Some(target.clone()),
            Route::Closed(_) => None,
        };
        if target(&self.route) != target(&route) {
            let reason = match &route {
                Route::To { target, .. } => Reason::info("proxying", "proxying to the primary")
                    .with("db", &target.db)
                    .with("address", format!("{}:{}", target.host, target.port)),
                Route::Closed(why) => Reason::warn("closed", format!("closed to clients: {why}")),
            };
            effects.push(Effect::Log(reason));
        }
        self.unset = self.unset.saturating_add(1);
        self.route = route.clone();
        effects.push(Effect::Route(route));
    }

    /// Publishes what it has carried out: once in each check, and at once when that changed.
    fn publish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(read_at) = self.seen.as_ref().map(|seen| seen.sent_at) else {
            return;
        };
        let waits = self.publishing.is_some() || self.unset > 0;
        if !self.owed || waits || !self.publish_pause.is_over(now) {
            return;
        }
        let timeout = self.spec().proxy_timeout;
        if now.since(read_at) >= timeout {
            // A read that old proves nothing.
            return;
        }
        self.leave.shorten(now.after(timeout));
        self.set_route(now, effects);
        if self.unset > 0 {
            return;
        }
        let generation = self.generation();
        let publication = Publication {
            read_at,
            sent_at: now,
            timeout,
        };
        self.owed = false;
        self.publishing = Some(publication);
        self.published = Some(generation);
        let info = ProxyInfo {
            uid: self.settings.uid.clone(),
            generation,
            proxy_timeout_nanos: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            implementation: IMPLEMENTATION.to_owned(),
            version: self.settings.version.clone(),
            features: vec![FEATURE_AGE_FROM_SEND.to_owned()],
            ..ProxyInfo::default()
        };
        effects.push(Effect::Publish(Box::new(info), timeout.saturating_mul(2)));
    }

    /// A live proxy is enabled within a round; one that waits for longer tells (scenario B7).
    fn warn(&mut self, now: Instant, started_at: Instant, effects: &mut Vec<Effect>) {
        let waits = self.waits_to_be_enabled();
        if !waits {
            self.warned = false;
        } else if !self.warned && now.since(started_at) > self.spec().proxy_timeout {
            self.warned = true;
            let text = "this proxy publishes and no sentinel enables it";
            effects.push(Effect::Log(Reason::warn("not-enabled", text)));
        }
    }

    /// Whether there is a primary to go to, and no leave to.
    pub fn waits_to_be_enabled(&self) -> bool {
        self.data().is_some_and(|data| {
            let spec = &data.proxy.spec;
            !spec.primary_db_uid.is_empty() && !spec.enabled_proxies.contains(&self.settings.uid)
        })
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let interval = self.interval();
        let retry = self.publish_pause.until().filter(|_| self.owed);
        [
            self.leave.until(),
            self.sighted_until(),
            retry,
            self.held_until,
            self.readers.as_ref().and_then(Readers::ends_at),
        ]
        .into_iter()
        .flatten()
        .chain([self.checks.wake_at(now, interval)])
        .filter(|at| *at > now)
        .min()
        .unwrap_or_else(|| now.after(interval))
    }
}

#[cfg(test)]
mod tests;
