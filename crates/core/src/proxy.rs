//! The proxy: where clients may go, and when they may go nowhere.
//!
//! A check is a linearizable read of the cluster data and a stored publication. A proxy forwards
//! only while its last good check, counted from when the read was sent, is younger than the
//! proxyTimeout it announced (I6); it publishes a generation only after the connections it forbids
//! are gone (I1). So the sentinel knows of a proxy that is silent for longer than that that it
//! forwards nothing.

mod checks;
mod decide;
mod heard;
mod interface;
mod leave;
mod reads;
mod seen;

use std::time::Duration;

use crate::model::report::{FEATURE_AGE_FROM_SEND, FEATURE_READS, IMPLEMENTATION, ProxyInfo};
use crate::model::{ClusterData, EffectiveSpec, Generation};
use crate::reason::Reason;
use crate::time::Instant;
use checks::{Checks, Pause};
pub use heard::Reports;
pub use interface::{Effect, Event, ReadRoute, Route, Settings, Target};
pub(crate) use leave::forwards_for;
use leave::{Leave, Publication};
pub use reads::MaxLag;
use reads::{Ground, Reads};
use seen::{Last, Seen};

/// The shortest time between two checks, whatever proxyCheckInterval says (0 is valid there).
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

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
    /// None: clients do not read from standbys.
    reads: Option<Reads>,
    /// Routes asked for and not set yet: connections they forbid may still be there.
    unset: u32,
    started_at: Option<Instant>,
    warned: bool,
}

impl Proxy {
    /// A proxy that has seen nothing yet, and forwards nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            reads: settings.reads.map(Reads::new),
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

    /// Where clients go now that only read; none: they are not led to standbys.
    pub fn read_route(&self) -> Option<&ReadRoute> {
        self.reads.as_ref().map(Reads::route)
    }

    /// When the read of the last good check was sent.
    pub const fn good_at(&self) -> Option<Instant> {
        self.leave.good_at()
    }

    /// Whether it knows what the cluster data say: its last good check still counts (B7).
    pub fn is_sighted(&self, now: Instant) -> bool {
        self.held_until.is_none() && self.leave.until().is_some_and(|until| now < until)
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
        self.set_routes(now, &mut effects);
        self.publish(now, &mut effects);
        self.warn(now, started_at, &mut effects);
        if self.checks.send(now) {
            effects.push(Effect::Read);
            if self.reads.as_mut().is_some_and(Reads::ask) {
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
                let seen = self.seen.as_ref();
                let data = seen.and_then(|seen| seen.data.as_deref());
                let revision = seen.map_or(0, |seen| seen.revision);
                if let Some(reads) = &mut self.reads {
                    reads.learn(sent_at, reports, (data, revision));
                }
            }
            Event::ReportsFailed => {
                if let Some(reads) = &mut self.reads {
                    reads.failed();
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
            if let Some(reads) = &mut self.reads {
                reads.forget();
            }
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

    fn set_routes(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.set_route(now, effects);
        let proxy_timeout = self.spec().proxy_timeout;
        let Some(reads) = &mut self.reads else {
            return;
        };
        let ground = Ground {
            now,
            uid: &self.settings.uid,
            data: self.seen.as_ref().and_then(|seen| seen.data.as_deref()),
            until: self.leave.until().filter(|until| now < *until),
            is_held: self.held_until.is_some(),
            proxy_timeout,
        };
        if reads.turn(&ground, effects) {
            self.unset = self.unset.saturating_add(1);
        }
    }

    fn set_route(&mut self, now: Instant, effects: &mut Vec<Effect>) {
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
        self.set_routes(now, effects);
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
            features: self.features(),
            ..ProxyInfo::default()
        };
        effects.push(Effect::Publish(Box::new(info), timeout.saturating_mul(2)));
    }

    fn features(&self) -> Vec<String> {
        let reads = self.reads.as_ref().map(|_| FEATURE_READS);
        let features = [FEATURE_AGE_FROM_SEND].into_iter().chain(reads);
        features.map(ToOwned::to_owned).collect()
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
            self.reads.as_ref().and_then(Reads::until),
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
mod tests {
    use super::{Effect, Event, Proxy, Route, Settings};
    use crate::model::{ClusterData, ClusterSpec, ClusterUid, Db, Generation};
    use crate::time::{Instant, Timestamp};
    use std::sync::Arc;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn spec(timeout: Duration) -> ClusterSpec {
        ClusterSpec {
            proxy_check_interval: Some(SECOND.into()),
            proxy_timeout: Some(timeout.into()),
            ..ClusterSpec::default()
        }
    }

    /// A proxy with a clock, a document, and a store that answers within milliseconds or fails.
    struct World {
        proxy: Proxy,
        now: Instant,
        wake_at: Instant,
        data: Option<ClusterData>,
        revision: u64,
        reads_fail: bool,
        publications_fail: bool,
        /// When reads were sent.
        reads: Vec<Instant>,
        /// What was published.
        published: Vec<Generation>,
    }

    impl World {
        /// A proxy that was started a moment ago, with a document that lets it go to `db1`.
        fn new(stop_listening: bool) -> Self {
            let settings = Settings {
                uid: "p1".into(),
                version: "test".into(),
                stop_listening,
                reads: None,
            };
            let uid = ClusterUid::from("c");
            let now = Instant::from_boot(Duration::from_secs(100));
            let mut world = Self {
                proxy: Proxy::new(settings),
                now,
                wake_at: now,
                data: Some(ClusterData::new(uid, spec(3 * SECOND), Timestamp::ZERO)),
                revision: 10,
                reads_fail: false,
                publications_fail: false,
                reads: Vec::new(),
                published: Vec::new(),
            };
            world.change(|data| {
                let mut primary = Db {
                    uid: "db1".into(),
                    ..Db::default()
                };
                primary.status.listen_address = "10.0.0.1".into();
                primary.status.port = "5432".into();
                data.dbs.insert("db1".into(), primary);
                data.proxy.spec.primary_db_uid = "db1".into();
                data.proxy.spec.enabled_proxies = vec!["p1".into()];
                data.proxy.generation = Generation(7);
            });
            world
        }

        /// The same after its first check.
        fn open(stop_listening: bool) -> Self {
            let mut world = Self::new(stop_listening);
            world.settle(Event::StoreChanged);
            assert!(world.is_open());
            world
        }

        fn change(&mut self, change: impl FnOnce(&mut ClusterData)) {
            change(self.data.as_mut().expect("a document"));
            self.revision += 1;
        }

        fn close(&mut self) {
            self.change(|data| {
                data.proxy.spec.primary_db_uid = "".into();
                data.proxy.generation = data.proxy.generation.next();
            });
        }

        fn tell(&mut self, event: Event) -> Vec<Effect> {
            self.now = self.now.after(MS);
            let effects = self.proxy.handle(self.now, event);
            for effect in &effects {
                match effect {
                    Effect::WakeAt(at) => {
                        assert!(*at > self.now, "a wake that has passed never ends");
                        self.wake_at = *at;
                    }
                    Effect::Read => self.reads.push(self.now),
                    Effect::Publish(info, _) => self.published.push(info.generation),
                    Effect::Route(_)
                    | Effect::ReadRoute(_)
                    | Effect::ReadReports
                    | Effect::Listen(_)
                    | Effect::Log(_) => {}
                }
            }
            effects
        }

        fn answer(&self, effect: &Effect) -> Option<Event> {
            match effect {
                Effect::Read if self.reads_fail => Some(Event::ReadFailed),
                Effect::Read => Some(self.document()),
                Effect::Publish(..) => Some(Event::Published(!self.publications_fail)),
                Effect::Route(_) | Effect::ReadRoute(_) => Some(Event::RouteSet),
                Effect::ReadReports => Some(Event::ReportsFailed),
                Effect::WakeAt(_) | Effect::Listen(_) | Effect::Log(_) => None,
            }
        }

        fn document(&self) -> Event {
            Event::Document {
                sent_at: self.now,
                revision: self.revision,
                data: self.data.clone().map(Arc::new),
            }
        }

        /// Tells it, answers whatever it asks for, until it asks for nothing more.
        fn settle(&mut self, event: Event) -> Vec<Effect> {
            let mut all = Vec::new();
            let mut waiting = std::collections::VecDeque::from([event]);
            while let Some(event) = waiting.pop_front() {
                let effects = self.tell(event);
                waiting.extend(effects.iter().filter_map(|effect| self.answer(effect)));
                all.extend(effects);
                assert!(all.len() < 1_000, "it never comes to rest");
            }
            all
        }

        /// Lets time pass.
        fn pass(&mut self, time: Duration) -> Vec<Effect> {
            let end = self.now.after(time);
            let mut all = Vec::new();
            while self.wake_at <= end {
                self.now = self.now.max(self.wake_at);
                all.extend(self.settle(Event::Wake));
            }
            self.now = end;
            all
        }

        fn is_open(&self) -> bool {
            matches!(self.proxy.route(), Route::To { .. })
        }

        fn open_until(&self) -> Instant {
            match self.proxy.route() {
                Route::To { until, .. } => *until,
                Route::Closed(why) => panic!("closed: {why}"),
            }
        }
    }

    fn publishes(effects: &[Effect]) -> bool {
        let publish = |effect: &Effect| matches!(effect, Effect::Publish(..));
        effects.iter().any(publish)
    }

    fn closes(effects: &[Effect]) -> bool {
        let close = |effect: &Effect| matches!(effect, Effect::Route(Route::Closed(_)));
        effects.iter().any(close)
    }

    #[test]
    fn it_opens_only_after_a_stored_publication_and_a_read_sent_after_it() {
        let mut world = World::new(true);
        world.tell(Event::StoreChanged);
        let effects = world.tell(world.document());
        assert!(effects.contains(&Effect::Listen(true)), "{effects:?}");
        assert!(publishes(&world.tell(Event::RouteSet)));
        assert!(!world.is_open());
        // Before this moment the sentinel may have opened another instance without waiting for us.
        assert!(world.tell(Event::Published(true)).contains(&Effect::Read));
        assert!(!world.is_open(), "what was read may be out of date");
        world.tell(world.document());
        assert!(world.is_open());
    }

    #[test]
    fn a_publication_that_failed_is_no_good_check() {
        let mut world = World::new(true);
        world.publications_fail = true;
        world.settle(Event::StoreChanged);
        world.pass(5 * SECOND);
        assert!(!world.is_open());
        world.publications_fail = false;
        world.pass(SECOND);
        assert!(world.is_open());
    }

    #[test]
    fn it_is_sighted_without_a_primary_and_not_when_its_checks_fail() {
        let world = World::new(true);
        assert!(!world.proxy.is_sighted(world.now));
        let mut world = World::open(true);
        world.close();
        world.pass(5 * SECOND);
        assert!(!world.is_open() && world.proxy.is_sighted(world.now));
        world.reads_fail = true;
        world.pass(30 * SECOND);
        assert!(!world.proxy.is_sighted(world.now), "blind (B7)");
        world.reads_fail = false;
        world.pass(2 * SECOND);
        assert!(world.proxy.is_sighted(world.now));
    }

    #[test]
    fn it_acknowledges_only_after_the_forbidden_connections_are_gone() {
        let mut world = World::open(true);
        world.close();
        assert!(world.tell(Event::StoreChanged).contains(&Effect::Read));
        let effects = world.tell(world.document());
        assert!(closes(&effects) && !world.is_open());
        assert!(!publishes(&effects), "the connections are still there");
        world.tell(Event::Wake);
        assert_eq!(world.published.last(), Some(&Generation(7)));
        world.tell(Event::RouteSet);
        assert_eq!(world.published.last(), Some(&Generation(8)));
    }

    #[test]
    fn it_closes_by_its_own_clock_and_stops_listening_when_blind() {
        for stop_listening in [true, false] {
            let mut world = World::open(stop_listening);
            let until = world.open_until();
            world.reads_fail = true;
            world.pass(until.since(world.now).saturating_sub(10 * MS));
            assert!(world.is_open(), "younger than proxyTimeout");
            let effects = world.pass(20 * MS);
            assert!(!world.is_open() && closes(&effects), "I6");
            let effects = world.pass(SECOND);
            let stopped = world.proxy.listening;
            assert_eq!(stopped, !stop_listening, "{effects:?}");
            world.reads_fail = false;
            let effects = world.pass(2 * SECOND);
            assert!(world.is_open());
            assert_eq!(effects.contains(&Effect::Listen(true)), stop_listening);
        }
    }

    #[test]
    fn the_age_of_a_check_counts_from_when_its_read_was_sent() {
        let mut world = World::open(true);
        world.now = world.wake_at;
        assert!(world.tell(Event::Wake).contains(&Effect::Read));
        let (asked, asked_at) = (world.document(), world.now);
        world.now = world.now.after(900 * MS);
        world.settle(asked);
        assert_eq!(world.open_until(), asked_at.after(3 * SECOND));
    }

    #[test]
    fn it_is_closed_when_not_enabled_not_named_or_without_an_address() {
        let cases: [fn(&mut ClusterData); 3] = [
            |data| data.proxy.spec.enabled_proxies.clear(),
            |data| data.dbs.clear(),
            |data| data.dbs.values_mut().for_each(|db| db.status.port.clear()),
        ];
        for spoil in cases {
            let mut world = World::open(true);
            world.change(spoil);
            world.settle(Event::StoreChanged);
            assert!(!world.is_open());
        }
    }

    #[test]
    fn an_older_document_closes_everything_and_counts_only_after_a_whole_new_check() {
        type Fall = fn(&mut World);
        let cases: [(&str, Fall); 4] = [
            ("a lower revision", |world| world.revision = 1),
            ("a lower generation", |world| {
                world.change(|data| data.proxy.generation = Generation(3));
            }),
            ("another cluster", |world| {
                world.change(|data| {
                    let cluster = data.cluster.as_mut().expect("a cluster");
                    cluster.uid = "other".into();
                });
            }),
            ("no cluster", |world| world.data = None),
        ];
        for (case, fall) in cases {
            let mut world = World::open(true);
            let before = world.data.clone();
            fall(&mut world);
            world.tell(Event::StoreChanged);
            let effects = world.tell(world.document());
            assert!(closes(&effects) && !world.is_open(), "I5: {case}");
            assert!(!publishes(&effects), "{case}");
            // Found again, but by no check that the sentinel could have seen.
            world.tell(world.document());
            assert!(!world.is_open(), "{case}");
            if world.data.is_none() {
                world.data = before;
            }
            world.settle(Event::RouteSet);
            world.pass(7 * SECOND);
            assert!(world.is_open(), "{case} is believed in the end");
        }
    }

    #[test]
    fn what_went_back_is_gone_by_only_when_no_other_proxy_can_go_by_what_was_newer() {
        type Fall = fn(&mut World);
        let cases: [(&str, Fall); 3] = [
            ("a lower generation", |world| {
                world.change(|data| data.proxy.generation = Generation(3));
            }),
            ("after there was nothing", |world| {
                let data = world.data.take();
                world.settle(Event::StoreChanged);
                world.data = data;
                world.change(|data| data.proxy.generation = Generation(3));
            }),
            ("another cluster", |world| {
                world.change(|data| {
                    let cluster = data.cluster.as_mut().expect("a cluster");
                    cluster.uid = "other".into();
                });
            }),
        ];
        // Others announced 3s, as this one did: 2 x 3s for one of the Go program.
        let bound = Duration::from_secs(6);
        for (case, fall) in cases {
            let mut world = World::open(true);
            fall(&mut world);
            let began = world.now;
            world.settle(Event::StoreChanged);
            while !world.is_open() {
                world.pass(100 * MS);
                assert!(
                    world.now < began.after(2 * bound),
                    "{case} is believed in the end"
                );
            }
            assert!(began.after(bound) <= world.now, "I1: {case}");
        }
    }

    #[test]
    fn a_leave_that_has_ended_is_closed_before_anything_renews_it() {
        // As a process that was stopped and goes on, with answers waiting for it.
        let late: [fn(&World) -> Event; 3] = [
            |_| Event::Published(true),
            |world| world.document(),
            |_| Event::RouteSet,
        ];
        for event in late {
            let mut world = World::open(true);
            world.now = world.wake_at;
            world.tell(Event::Wake);
            assert!(publishes(&world.tell(world.document())));
            world.now = world.open_until();
            let event = event(&world);
            let effects = world.tell(event);
            assert!(closes(&effects) && !world.is_open(), "I1: {effects:?}");
        }
    }

    #[test]
    fn a_longer_timeout_counts_from_when_it_was_announced_and_a_shorter_one_at_once() {
        let change = |world: &mut World, timeout: Duration| {
            world.change(|data| {
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.spec = Some(spec(timeout));
            });
        };
        let mut world = World::open(true);
        let before = world.open_until();
        change(&mut world, 20 * SECOND);
        world.publications_fail = true;
        world.pass(SECOND);
        assert_eq!(world.open_until(), before, "nobody was told of the new one");
        world.publications_fail = false;
        world.pass(2 * SECOND);
        let doubtful = world.now.after(4 * SECOND);
        assert!(world.open_until() > doubtful);
        // Told or not: the sentinel may have seen it.
        change(&mut world, 2 * SECOND);
        world.publications_fail = true;
        world.pass(1100 * MS);
        assert!(world.open_until() <= world.now.after(2 * SECOND));
    }

    #[test]
    fn a_publication_that_nobody_answered_still_counts_with_its_timeout() {
        let mut world = World::open(true);
        world.publications_fail = true;
        world.pass(SECOND);
        world.change(|data| {
            let cluster = data.cluster.as_mut().expect("a cluster");
            cluster.spec = Some(spec(20 * SECOND));
        });
        world.publications_fail = false;
        world.pass(3 * SECOND);
        // It may be stored yet, over the newer one: then the sentinel waits for three seconds.
        assert!(world.open_until() <= world.now.after(3 * SECOND));
        world.pass(Duration::from_hours(1));
        assert!(world.open_until() > world.now.after(10 * SECOND));
    }

    #[test]
    fn a_failed_read_is_sent_again_soon_but_not_at_once() {
        let mut world = World::open(true);
        world.reads_fail = true;
        world.reads.clear();
        world.pass(10 * SECOND);
        assert!((9..=16).contains(&world.reads.len()), "{:?}", world.reads);
        // A watch that breaks tells of a change each time.
        world.reads.clear();
        for _ in 0..1_000 {
            world.settle(Event::StoreChanged);
        }
        assert!(world.reads.len() <= 3, "{:?}", world.reads);
    }

    #[test]
    fn checks_keep_to_the_grid_of_their_interval() {
        let mut world = World::open(true);
        world.reads.clear();
        world.published.clear();
        world.pass(60 * SECOND);
        assert_eq!(world.published.len(), 60);
        for pair in world.reads.windows(2) {
            let [one, next] = pair else { continue };
            assert_eq!(next.since(*one), SECOND);
        }
    }

    #[test]
    fn a_change_that_comes_while_it_reads_is_read_too() {
        let mut world = World::open(true);
        world.tell(Event::StoreChanged);
        let asked = world.document();
        world.close();
        assert!(!world.tell(Event::StoreChanged).contains(&Effect::Read));
        assert!(world.tell(asked).contains(&Effect::Read));
        world.settle(world.document());
        assert_eq!(world.published.last(), Some(&Generation(8)));
    }

    #[test]
    fn it_does_not_look_alive_while_it_cannot_read() {
        let mut world = World::open(true);
        world.publications_fail = true;
        world.pass(SECOND);
        world.reads_fail = true;
        world.publications_fail = false;
        world.pass(SECOND);
        world.published.clear();
        world.pass(5 * SECOND);
        assert!(world.published.is_empty());
    }

    #[test]
    fn an_interval_of_zero_is_no_hot_loop() {
        let mut world = World::open(true);
        world.change(|data| {
            let cluster = data.cluster.as_mut().expect("a cluster");
            let mut spec = spec(3 * SECOND);
            spec.proxy_check_interval = Some(Duration::ZERO.into());
            cluster.spec = Some(spec);
        });
        world.settle(Event::StoreChanged);
        world.reads.clear();
        world.pass(SECOND);
        assert!(world.reads.len() <= 10, "{:?}", world.reads);
    }
}
