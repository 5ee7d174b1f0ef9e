//! The proxy with a clock, a document, and a store that answers within milliseconds or fails.

use super::{Effect, Event, Fallback, Proxy, ReadOnly, Route, Settings};
use crate::model::report::KeeperInfo;
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
    /// What the keepers publish.
    reports: Option<Vec<KeeperInfo>>,
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
        Self::with(Settings {
            uid: "p1".into(),
            version: "test".into(),
            stop_listening,
            read_only: None,
        })
    }

    fn with(settings: Settings) -> Self {
        let uid = ClusterUid::from("c");
        let now = Instant::from_boot(Duration::from_secs(100));
        let mut world = Self {
            proxy: Proxy::new(settings),
            now,
            wake_at: now,
            data: Some(ClusterData::new(uid, spec(3 * SECOND), Timestamp::ZERO)),
            revision: 10,
            reports: None,
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
                Effect::ReadReports
                | Effect::Readers(_)
                | Effect::Route(_)
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
            Effect::Route(_) | Effect::Readers(_) => Some(Event::RouteSet),
            Effect::ReadReports => Some(Event::Reports {
                sent_at: self.now,
                reports: self.reports.clone(),
            }),
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

#[test]
fn a_generation_is_acknowledged_only_when_those_who_only_read_are_closed_too() {
    // I1: with no standby they are on the primary.
    let mut world = World::with(Settings {
        uid: "p1".into(),
        version: "test".into(),
        stop_listening: false,
        read_only: Some(ReadOnly {
            max_lag: "32MB,30s".parse().expect("a bound"),
            fallback: Fallback::Primary,
        }),
    });
    world.change(|data| {
        data.cluster.as_mut().expect("a cluster").status.master = Some("db1".into());
    });
    world.settle(Event::StoreChanged);
    let on_primary = world.proxy.passages().expect("a port");
    assert!(
        on_primary
            .to
            .iter()
            .all(|to| to.is_spare && to.target.db == "db1".into())
    );
    assert_eq!(on_primary.to.len(), 1);
    world.close();
    world.published.clear();
    world.tell(Event::StoreChanged);
    let effects = world.tell(world.document());
    let closings = effects.iter().filter(|effect| match effect {
        Effect::Route(Route::Closed(_)) => true,
        Effect::Readers(passages) => passages.to.is_empty(),
        _ => false,
    });
    assert_eq!(closings.count(), 2, "{effects:?}");
    world.tell(Event::RouteSet);
    assert_eq!(world.published, []);
    world.tell(Event::RouteSet);
    assert_eq!(world.published, [Generation(8)]);
}
