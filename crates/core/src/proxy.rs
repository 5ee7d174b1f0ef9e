//! The proxy: where clients may go, and when they may go nowhere.
//!
//! A check is a linearizable read of the cluster data and a stored publication. A proxy forwards
//! only while its last good check, counted from when the read was sent, is younger than proxyTimeout
//! (I6); it publishes a generation only after the connections it forbids are gone (I1). So the
//! sentinel knows of a proxy that is silent for longer than that that it forwards nothing.

use std::time::Duration;

use crate::model::report::{FEATURE_AGE_FROM_SEND, IMPLEMENTATION, ProxyInfo};
use crate::model::{ClusterData, ClusterSpec, DbUid, EffectiveSpec, Generation, ProxyUid};
use crate::reason::Reason;
use crate::time::Instant;

/// Where clients go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this instance, until the moment at the latest.
    To {
        /// The db.
        target: Target,
        /// When the permission ends by itself.
        until: Instant,
    },
    /// Nowhere, and why.
    Closed(String),
}

/// An instance that clients may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The db.
    pub db: DbUid,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: String,
}

/// What a proxy learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The time asked for has come.
    Wake,
    /// The store may have changed.
    StoreChanged,
    /// The document was read.
    Document {
        /// When the read was sent.
        sent_at: Instant,
        /// Its store revision.
        revision: u64,
        /// The document; none: there is no cluster.
        data: Option<Box<ClusterData>>,
    },
    /// The document could not be read.
    ReadFailed,
    /// What the last [`Effect::Route`] forbids is gone.
    RouteSet,
    /// A publication ended: whether it is stored.
    Published(bool),
}

/// What a proxy wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read the document; answer with [`Event::Document`] or [`Event::ReadFailed`].
    Read,
    /// Let clients go there and nowhere else; answer with [`Event::RouteSet`] once every connection
    /// to another place is gone.
    Route(Route),
    /// Accept connections, or do not.
    Listen(bool),
    /// Publish, to expire after the time given; answer with [`Event::Published`].
    Publish(Box<ProxyInfo>, Duration),
    /// Tell the operator.
    Log(Reason),
    /// Send [`Event::Wake`] at this moment at the latest; replaces the one asked for before.
    WakeAt(Instant),
}

/// How a proxy is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, new at each start.
    pub uid: ProxyUid,
    /// The program's version.
    pub version: String,
    /// Whether it stops listening while it cannot see the store.
    pub stop_listening: bool,
}

/// One proxy.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    /// What the newest document says, with its revision.
    seen: Option<Seen>,
    /// When the read of the newest document was sent.
    read_at: Option<Instant>,
    /// When the read of the last good check was sent.
    good_at: Option<Instant>,
    /// The read that the publication on its way belongs to.
    publishing: Option<Instant>,
    published_at: Option<Instant>,
    published: Option<Generation>,
    reading: bool,
    read_again: bool,
    listening: bool,
    route: Route,
    /// A route is being set: connections it forbids may still be there.
    setting: bool,
    started_at: Option<Instant>,
    warned: bool,
}

#[derive(Debug)]
struct Seen {
    revision: u64,
    data: Option<Box<ClusterData>>,
    /// The document is older than one seen before: everything closes first (I5).
    fallen: bool,
}

impl Proxy {
    /// A proxy that has seen nothing yet, and forwards nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            seen: None,
            read_at: None,
            good_at: None,
            publishing: None,
            published_at: None,
            published: None,
            reading: false,
            read_again: false,
            listening: false,
            route: Route::Closed("the cluster data were not read yet".to_owned()),
            setting: false,
            started_at: None,
            warned: false,
        }
    }

    /// Where clients go now.
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// When the last good check was sent.
    pub const fn good_at(&self) -> Option<Instant> {
        self.good_at
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let started_at = *self.started_at.get_or_insert(now);
        match event {
            Event::Wake => {}
            Event::StoreChanged => self.read(&mut effects),
            Event::Document {
                sent_at,
                revision,
                data,
            } => {
                self.reading = false;
                let fallen = self
                    .seen
                    .as_ref()
                    .is_some_and(|seen| revision < seen.revision);
                self.seen = Some(Seen {
                    revision,
                    data,
                    fallen,
                });
                self.read_at = Some(sent_at);
            }
            Event::ReadFailed => self.reading = false,
            Event::RouteSet => self.setting = false,
            Event::Published(stored) => {
                if let (Some(read_at), true) = (self.publishing.take(), stored) {
                    self.good_at = self.good_at.max(Some(read_at));
                }
            }
        }
        if !self.reading && std::mem::take(&mut self.read_again) {
            self.read(&mut effects);
        }
        self.listen(now, &mut effects);
        self.set_route(now, &mut effects);
        self.publish(now, &mut effects);
        self.warn(now, started_at, &mut effects);
        self.schedule(now, &mut effects);
        effects
    }

    fn spec(&self) -> EffectiveSpec {
        let data = self.seen.as_ref().and_then(|seen| seen.data.as_ref());
        let spec = data.and_then(|data| data.cluster.as_ref()?.spec.as_ref());
        spec.map_or_else(
            || ClusterSpec::default().effective(),
            ClusterSpec::effective,
        )
    }

    fn read(&mut self, effects: &mut Vec<Effect>) {
        if self.reading {
            self.read_again = true;
        } else {
            self.reading = true;
            effects.push(Effect::Read);
        }
    }

    /// Until when the last good check lets it forward.
    fn fresh_until(&self) -> Option<Instant> {
        self.good_at
            .map(|good| good.after(self.spec().proxy_timeout))
    }

    /// It does not listen before its first read; while it is blind it stops, where asked to.
    fn listen(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let timeout = self.spec().proxy_timeout;
        let read_lately = self.read_at.is_some_and(|read| now.since(read) < timeout);
        let wanted = if self.settings.stop_listening {
            read_lately
        } else {
            self.listening || self.read_at.is_some()
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
        let route = decide(
            &self.settings.uid,
            self.seen
                .as_ref()
                .filter(|seen| !seen.fallen)
                .and_then(|seen| seen.data.as_deref()),
            self.fresh_until().filter(|until| now < *until),
        );
        if route == self.route {
            return;
        }
        let target = |route: &Route| match route {
            Route::To { target, .. } => Some(target.clone()),
            Route::Closed(_) => None,
        };
        let (before, after) = (target(&self.route), target(&route));
        if before != after {
            let reason = match &route {
                Route::To { target, .. } => Reason::info("proxying", "proxying to the primary")
                    .with("db", &target.db)
                    .with("address", format!("{}:{}", target.host, target.port)),
                Route::Closed(why) => Reason::warn("closed", format!("closed to clients: {why}")),
            };
            effects.push(Effect::Log(reason));
        }
        // To forbid takes until it is done; to permit, or to prolong, is done at once.
        self.setting |= before.is_some() && before != after;
        self.route = route.clone();
        effects.push(Effect::Route(route));
    }

    /// Publishes what it has carried out: at once when that changed, else each proxyCheckInterval.
    fn publish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(read_at) = self.read_at else { return };
        if self.publishing.is_some() || self.setting {
            return;
        }
        let spec = self.spec();
        let seen = self.seen.as_ref();
        let generation = seen
            .and_then(|seen| seen.data.as_ref())
            .map_or(Generation::NONE, |d| d.proxy.generation);
        let age = self.published_at.map(|at| now.since(at));
        let due = age.is_none_or(|age| age >= spec.proxy_check_interval.mul_f64(0.9));
        if !due && self.published == Some(generation) {
            return;
        }
        // A read that is too old proves nothing: the next one is waited for.
        if now.since(read_at) >= spec.proxy_check_interval && age.is_some() {
            return;
        }
        self.publishing = Some(read_at);
        self.published_at = Some(now);
        self.published = Some(generation);
        if let Some(seen) = self.seen.as_mut() {
            // Everything is closed; from the next check on the older document counts.
            seen.fallen = false;
        }
        let info = ProxyInfo {
            uid: self.settings.uid.clone(),
            generation,
            proxy_timeout_nanos: i64::try_from(spec.proxy_timeout.as_nanos()).unwrap_or(i64::MAX),
            implementation: IMPLEMENTATION.to_owned(),
            version: self.settings.version.clone(),
            features: vec![FEATURE_AGE_FROM_SEND.to_owned()],
            ..ProxyInfo::default()
        };
        effects.push(Effect::Publish(
            Box::new(info),
            spec.proxy_timeout.saturating_mul(2),
        ));
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
        let data = self.seen.as_ref().and_then(|seen| seen.data.as_ref());
        data.is_some_and(|data| {
            let spec = &data.proxy.spec;
            !spec.primary_db_uid.is_empty() && !spec.enabled_proxies.contains(&self.settings.uid)
        })
    }

    fn schedule(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let interval = self.spec().proxy_check_interval;
        let since_read = self.read_at.map_or(Duration::MAX, |read| now.since(read));
        if since_read >= interval {
            self.read(effects);
            // One on its way is enough.
            self.read_again = false;
        }
        let next_read = self
            .read_at
            .map_or(now.after(interval), |read| read.after(interval));
        let mut wake = if next_read > now {
            next_read
        } else {
            now.after(interval)
        };
        for at in [
            self.fresh_until(),
            self.read_at.map(|r| r.after(self.spec().proxy_timeout)),
        ] {
            if let Some(at) = at.filter(|at| *at > now) {
                wake = wake.min(at);
            }
        }
        effects.push(Effect::WakeAt(wake));
    }
}

/// Where the document lets this proxy forward while its last good check is fresh.
fn decide(uid: &ProxyUid, data: Option<&ClusterData>, until: Option<Instant>) -> Route {
    let closed = |why: &str| Route::Closed(why.to_owned());
    let Some(until) = until else {
        return closed("no check of the cluster data succeeded lately");
    };
    let Some(data) = data else {
        return closed("there is no cluster");
    };
    let spec = &data.proxy.spec;
    if spec.primary_db_uid.is_empty() {
        return closed("no primary is open to clients now");
    }
    if !spec.enabled_proxies.contains(uid) {
        return closed("this proxy is not enabled by the sentinel yet");
    }
    let Some(db) = data.dbs.get(&spec.primary_db_uid) else {
        return closed("the primary is not among the dbs");
    };
    if db.status.listen_address.is_empty() || db.status.port.is_empty() {
        return closed("the primary's address is not known");
    }
    let target = Target {
        db: db.uid.clone(),
        host: db.status.listen_address.clone(),
        port: db.status.port.clone(),
    };
    Route::To { target, until }
}

#[cfg(test)]
mod tests {
    use super::{Effect, Event, Proxy, Route, Settings};
    use crate::model::{ClusterData, ClusterSpec, ClusterUid, Db, Generation};
    use crate::time::{Instant, Timestamp};
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    /// A proxy with a clock, a document, and a log of what it wanted done.
    struct World {
        proxy: Proxy,
        now: Instant,
        data: ClusterData,
        revision: u64,
    }

    impl World {
        fn new(stop_listening: bool) -> Self {
            let settings = Settings {
                uid: "p1".into(),
                version: "test".into(),
                stop_listening,
            };
            let spec = ClusterSpec {
                proxy_check_interval: Some(Duration::from_secs(1).into()),
                proxy_timeout: Some(Duration::from_secs(3).into()),
                ..ClusterSpec::default()
            };
            let data = ClusterData::new(ClusterUid::from("c"), spec, Timestamp::ZERO);
            let now = Instant::from_boot(Duration::from_secs(100));
            Self {
                proxy: Proxy::new(settings),
                now,
                data,
                revision: 1,
            }
        }

        fn open_to(&mut self, db: &str) {
            self.data.dbs.clear();
            let mut primary = Db {
                uid: db.into(),
                ..Db::default()
            };
            primary.status.listen_address = "10.0.0.1".into();
            primary.status.port = "5432".into();
            self.data.dbs.insert(db.into(), primary);
            self.data.proxy.spec.primary_db_uid = db.into();
            self.data.proxy.spec.enabled_proxies = vec!["p1".into()];
            self.raise();
        }

        fn close(&mut self) {
            self.data.proxy.spec.primary_db_uid = "".into();
            self.raise();
        }

        fn raise(&mut self) {
            self.data.proxy.generation = self.data.proxy.generation.next();
            self.revision += 1;
        }

        fn tell(&mut self, event: Event) -> Vec<Effect> {
            self.now = self.now.after(MS);
            self.proxy.handle(self.now, event)
        }

        fn document(&mut self) -> Vec<Effect> {
            let (sent_at, revision) = (self.now, self.revision);
            let data = Some(Box::new(self.data.clone()));
            self.tell(Event::Document {
                sent_at,
                revision,
                data,
            })
        }

        /// A whole good check.
        fn check(&mut self) -> Vec<Effect> {
            let mut effects = self.document();
            effects.extend(self.tell(Event::RouteSet));
            effects.extend(self.tell(Event::Published(true)));
            effects.extend(self.tell(Event::Published(true)));
            effects
        }

        fn is_open(&self) -> bool {
            matches!(self.proxy.route(), Route::To { .. })
        }
    }

    fn published(effects: &[Effect]) -> Option<Generation> {
        effects.iter().rev().find_map(|effect| match effect {
            Effect::Publish(info, _) => Some(info.generation),
            _ => None,
        })
    }

    #[test]
    fn it_opens_only_after_a_read_and_a_stored_publication() {
        let mut world = World::new(true);
        world.open_to("db1");
        let effects = world.document();
        assert!(effects.contains(&Effect::Listen(true)), "{effects:?}");
        assert_eq!(published(&effects), Some(Generation(1)));
        assert!(!world.is_open());
        world.tell(Event::Published(false));
        assert!(
            !world.is_open(),
            "a publication that failed is no good check"
        );
        world.now = world.now.after(MS * 950);
        world.check();
        assert!(world.is_open());
    }

    #[test]
    fn it_acknowledges_only_after_the_forbidden_connections_are_gone() {
        let mut world = World::new(true);
        world.open_to("db1");
        world.check();
        assert!(world.is_open());
        world.close();
        let effects = world.document();
        assert!(!world.is_open());
        assert_eq!(published(&effects), None, "the connections are still there");
        let effects = world.tell(Event::RouteSet);
        assert_eq!(published(&effects), Some(Generation(2)));
    }

    #[test]
    fn it_closes_by_its_own_clock_and_stops_listening_when_blind() {
        for stop_listening in [true, false] {
            let mut world = World::new(stop_listening);
            world.open_to("db1");
            world.check();
            world.tell(Event::ReadFailed);
            world.now = world.now.after(Duration::from_millis(2900));
            world.tell(Event::Wake);
            assert!(world.is_open(), "younger than proxyTimeout");
            world.now = world.now.after(Duration::from_millis(200));
            let effects = world.tell(Event::Wake);
            assert!(!world.is_open(), "I6");
            assert_eq!(effects.contains(&Effect::Listen(false)), stop_listening);
            world.tell(Event::ReadFailed);
            let effects = world.check();
            assert_eq!(effects.contains(&Effect::Listen(true)), stop_listening);
            world.now = world.now.after(MS * 950);
            world.check();
            assert!(world.is_open());
        }
    }

    #[test]
    fn the_age_of_a_check_counts_from_when_its_read_was_sent() {
        let mut world = World::new(true);
        world.open_to("db1");
        let (sent_at, revision) = (world.now, world.revision);
        // The answer takes almost proxyTimeout.
        world.now = world.now.after(Duration::from_millis(2900));
        let data = Some(Box::new(world.data.clone()));
        world.tell(Event::Document {
            sent_at,
            revision,
            data,
        });
        world.tell(Event::Published(true));
        match world.proxy.route() {
            Route::To { until, .. } => assert_eq!(*until, sent_at.after(Duration::from_secs(3))),
            Route::Closed(why) => panic!("closed: {why}"),
        }
    }

    #[test]
    fn it_is_closed_when_not_enabled_not_named_or_without_an_address() {
        let cases: [fn(&mut ClusterData); 3] = [
            |data| data.proxy.spec.enabled_proxies.clear(),
            |data| data.dbs.clear(),
            |data| data.dbs.values_mut().for_each(|db| db.status.port.clear()),
        ];
        for spoil in cases {
            let mut world = World::new(true);
            world.open_to("db1");
            spoil(&mut world.data);
            world.check();
            assert!(!world.is_open());
        }
    }

    #[test]
    fn an_older_document_closes_everything_first() {
        let mut world = World::new(true);
        world.open_to("db1");
        world.check();
        world.revision = 1;
        world.document();
        assert!(!world.is_open(), "I5");
        world.tell(Event::RouteSet);
        world.now = world.now.after(MS * 950);
        world.check();
        world.now = world.now.after(MS * 950);
        world.check();
        assert!(
            world.is_open(),
            "the store is another one, and is believed from now on"
        );
    }

    #[test]
    fn a_publication_is_renewed_and_never_on_an_old_read() {
        let mut world = World::new(true);
        world.open_to("db1");
        world.check();
        world.now = world.now.after(Duration::from_millis(1500));
        let effects = world.tell(Event::Wake);
        assert!(effects.contains(&Effect::Read));
        assert_eq!(published(&effects), None, "the last read is too old");
        assert_eq!(published(&world.document()), Some(Generation(1)));
    }
}
