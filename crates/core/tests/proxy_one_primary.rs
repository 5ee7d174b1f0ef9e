//! I1 and I6 over time: one proxy, a store that is slow or fails, a sentinel that keeps to the
//! contract's section 7, changes of proxyTimeout, and pauses of the proxy's process at any moment.
//! Whatever the order of events, the proxy never carries clients to one instance while the document
//! opens another, and never to a standby to read that the document makes the primary.
//!
//! The same seed gives the same run. The check is shown to work: proxies that believe too early, in
//! the ways that are easy to get wrong, are caught by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::model::report::{FEATURE_READS, InstanceReport};
use stolon_core::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbUid, FollowConfig, Generation, InfoUid, KeeperInfo,
    Lsn, PostgresState, Role, SentinelInfo, TimelineId,
};
use stolon_core::proxy::{Effect, Event, MaxLag, Proxy, ReadRoute, Reports, Route, Settings};
use stolon_core::time::{Instant, Timestamp};

const RUN_MS: u64 = 60_000;
const SEEDS: u64 = 500;

/// What is wrong with the proxy under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A publication alone gives leave back: the read before it is taken for one after it.
    NoReadAfterPublication,
    /// It forwards for longer than the timeout that it announced lets the sentinel believe.
    OutlivesItsWord,
    /// It acknowledges a generation while the connections that it forbids are still there.
    AcknowledgesFirst,
}

/// Chance from a seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Mostly short, sometimes long enough to matter.
    fn delay(&mut self) -> u64 {
        if self.one_in(25) {
            self.below(4_000)
        } else {
            1 + self.below(20)
        }
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The store carries out the proxy's read, or its publication.
    ReadDone {
        sent_at: u64,
        answer_at: u64,
    },
    PublishDone {
        generation: Generation,
        timeout: u64,
    },
    /// The proxy is told.
    Tell(Box<Event>),
    Wake {
        number: u64,
    },
    RelayDone(Relayed),
    Look,
    /// The sentinel's write reaches the store, if the document is still the one it saw.
    Write {
        revision: u64,
        data: Box<ClusterData>,
    },
    ChangeSpec,
    Pause,
}

/// Where the relay carries clients from now on, and until when.
#[derive(Debug, Clone)]
enum Relayed {
    ToPrimary(Option<(DbUid, u64)>),
    ToStandbys(Vec<(DbUid, u64)>),
}

struct World {
    chance: Chance,
    flaw: Flaw,
    now: u64,
    steps: BTreeMap<(u64, u64), Step>,
    next_step: u64,
    paused_until: u64,
    proxy: Proxy,
    wakes: u64,
    /// Where the relay really carries clients, and until when.
    relay: Option<(DbUid, u64)>,
    /// Where it really carries those who read.
    reading: Vec<(DbUid, u64)>,
    relay_busy_until: u64,
    data: ClusterData,
    revision: u64,
    /// Publication number, generation, declared proxyTimeout.
    published: (u64, Generation, u64),
    seen: (u64, u64),
    wanted: &'static str,
    served: u64,
    /// How often somebody could read from a standby.
    read: u64,
}

fn instant(ms: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(1_000_000 + ms))
}

fn millis(moment: Instant) -> u64 {
    let since_boot = u64::try_from(moment.since_boot().as_millis()).expect("in range");
    since_boot.saturating_sub(1_000_000)
}

fn spec(timeout: u64) -> ClusterSpec {
    ClusterSpec {
        proxy_check_interval: Some(Duration::from_millis(1_500).into()),
        proxy_timeout: Some(Duration::from_millis(timeout).into()),
        ..ClusterSpec::default()
    }
}

fn document() -> ClusterData {
    let mut data = ClusterData::new(ClusterUid::from("c"), spec(3_000), Timestamp::ZERO);
    for (index, uid) in ["db1", "db2"].into_iter().enumerate() {
        let mut db = Db {
            uid: uid.into(),
            ..Db::default()
        };
        db.status.listen_address = format!("10.0.0.{index}");
        db.status.port = "5432".into();
        data.dbs.insert(uid.into(), db);
    }
    data.proxy.generation = Generation::FIRST;
    make_primary(&mut data, "db1");
    data
}

fn make_primary(data: &mut ClusterData, primary: &str) {
    for db in data.dbs.values_mut() {
        let is_primary = db.uid.as_str() == primary;
        db.spec.keeper_uid = format!("keeper-of-{}", db.uid).as_str().into();
        db.spec.role = Some(if is_primary {
            Role::Primary
        } else {
            Role::Standby
        });
        db.spec.follow_config = (!is_primary).then(|| FollowConfig::internal(primary.into()));
        db.status.healthy = true;
    }
    data.cluster.as_mut().expect("a cluster").status.master = Some(primary.into());
}

fn primary(data: &ClusterData) -> &DbUid {
    let cluster = data.cluster.as_ref().expect("a cluster");
    cluster.status.master.as_ref().expect("a primary")
}

impl World {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let settings = Settings {
            uid: "p1".into(),
            version: "test".into(),
            stop_listening: true,
            reads: Some(MaxLag {
                bytes: 1,
                time: Duration::from_secs(30),
            }),
        };
        let mut world = Self {
            chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            flaw,
            now: 0,
            steps: BTreeMap::new(),
            next_step: 0,
            paused_until: 0,
            proxy: Proxy::new(settings),
            wakes: 0,
            relay: None,
            reading: Vec::new(),
            relay_busy_until: 0,
            data: document(),
            revision: 1,
            published: (0, Generation::NONE, 0),
            seen: (0, 0),
            wanted: "db1",
            served: 0,
            read: 0,
        };
        world.at(0, Step::Tell(Box::new(Event::StoreChanged)));
        world.at(1, Step::Look);
        world.at(2_000, Step::Pause);
        world.at(5_000, Step::ChangeSpec);
        world
    }

    fn at(&mut self, time: u64, step: Step) {
        self.next_step += 1;
        self.steps.insert((time, self.next_step), step);
    }

    /// Runs to the end, or to the moment at which there are two primaries for clients.
    fn run(mut self) -> Result<(u64, u64), String> {
        while let Some(((time, _), step)) = self.steps.pop_first() {
            if time > RUN_MS {
                break;
            }
            self.now = time;
            self.carry_out(step);
            self.check()?;
        }
        Ok((self.served, self.read))
    }

    fn check(&mut self) -> Result<(), String> {
        let primary = primary(&self.data);
        for (db, until) in self.reading.iter().filter(|(_, until)| self.now < *until) {
            if db == primary {
                let now = self.now;
                return Err(format!(
                    "at {now} ms clients read from {db} until {until} ms, which is the primary"
                ));
            }
            self.read += 1;
        }
        let carries_to = self.relay.as_ref().filter(|(_, until)| self.now < *until);
        let open_to = &self.data.proxy.spec.primary_db_uid;
        match carries_to {
            Some((db, until)) if !open_to.is_empty() && db != open_to => Err(format!(
                "at {} ms clients reach {db} until {until} ms, and {open_to} is open",
                self.now
            )),
            Some(_) => {
                self.served += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn carry_out(&mut self, step: Step) {
        let of_the_proxy = match &step {
            Step::Tell(_) | Step::Wake { .. } | Step::RelayDone(_) => true,
            // What the process has already sent goes its way; what it has not, waits with it.
            Step::ReadDone { .. } | Step::PublishDone { .. } => self.chance.one_in(2),
            Step::Look | Step::Write { .. } | Step::ChangeSpec | Step::Pause => false,
        };
        if of_the_proxy && self.now < self.paused_until {
            let late = self.paused_until;
            self.at(late, step);
            return;
        }
        match step {
            Step::ReadDone { sent_at, answer_at } => self.read(sent_at, answer_at.max(self.now)),
            Step::PublishDone {
                generation,
                timeout,
            } => self.publish(generation, timeout),
            Step::Tell(event) => self.tell(*event),
            Step::Wake { number } if number == self.wakes => self.tell(Event::Wake),
            Step::Wake { .. } => {}
            Step::RelayDone(relayed) => {
                match relayed {
                    Relayed::ToPrimary(target) => self.relay = target,
                    Relayed::ToStandbys(targets) => self.reading = targets,
                }
                self.tell(Event::RouteSet);
            }
            Step::Look => self.look(),
            Step::Write { revision, data } => self.write(revision, *data),
            Step::ChangeSpec => self.change_spec(),
            Step::Pause => {
                // Often for about as long as the sentinel waits.
                let pause = if self.chance.one_in(2) {
                    2_500 + self.chance.below(1_500)
                } else {
                    self.chance.below(6_000)
                };
                self.paused_until = self.paused_until.max(self.now + pause);
                let next = self.now + 4_000 + self.chance.below(8_000);
                self.at(next, Step::Pause);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let again = self.flaw == Flaw::NoReadAfterPublication && event == Event::Published(true);
        for effect in self.proxy.handle(instant(self.now), event) {
            self.effect(effect);
        }
        if again {
            let (now, revision) = (instant(self.now), self.revision);
            let data = self.seen_by_proxy();
            self.tell(Event::Document {
                sent_at: now,
                revision,
                data: Some(Arc::new(data)),
            });
        }
    }

    /// The document as the flawed proxy last saw it: as if its earlier read had been this one.
    fn seen_by_proxy(&self) -> ClusterData {
        let mut data = self.data.clone();
        if let Route::Closed(_) = self.proxy.route()
            && let Some((db, _)) = &self.relay
        {
            data.proxy.spec.primary_db_uid = db.clone();
            data.proxy.spec.enabled_proxies = vec!["p1".into()];
        }
        data
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Read => {
                let (sent_at, done) = (self.now, self.now + self.chance.delay());
                let answer_at = done + self.chance.delay();
                if self.chance.one_in(12) {
                    self.at(answer_at, Step::Tell(Box::new(Event::ReadFailed)));
                } else {
                    self.at(done, Step::ReadDone { sent_at, answer_at });
                }
            }
            Effect::Publish(info, _) => {
                let timeout = Duration::from_nanos(info.proxy_timeout_nanos.unsigned_abs());
                self.send_publication(info.generation, timeout);
            }
            Effect::Route(route) => {
                let target = match route {
                    Route::To { target, until } => Some((target.db, millis(until))),
                    Route::Closed(_) => None,
                };
                self.relay(Relayed::ToPrimary(target));
            }
            Effect::ReadRoute(route) => {
                let targets = match route {
                    ReadRoute::To(targets) => targets,
                    ReadRoute::Closed(_) => Vec::new(),
                };
                let targets = targets.into_iter();
                let targets = targets.map(|(target, until)| (target.db, millis(until)));
                self.relay(Relayed::ToStandbys(targets.collect()));
            }
            Effect::ReadReports => {
                let event = if self.chance.one_in(12) {
                    Event::ReportsFailed
                } else {
                    Event::Reports {
                        sent_at: instant(self.now),
                        reports: self.reports(),
                    }
                };
                let later = self.now + self.chance.delay();
                self.at(later, Step::Tell(Box::new(event)));
            }
            Effect::WakeAt(at) => {
                assert!(at > instant(self.now), "a wake that has passed never ends");
                self.wakes += 1;
                let number = self.wakes;
                self.at(millis(at), Step::Wake { number });
            }
            Effect::Listen(_) | Effect::Log(_) => {}
        }
    }

    /// One after the other, as they were asked for.
    fn relay(&mut self, relayed: Relayed) {
        let later = self.relay_busy_until.max(self.now + self.chance.below(300));
        self.relay_busy_until = later;
        if self.flaw == Flaw::AcknowledgesFirst {
            self.at(self.now, Step::Tell(Box::new(Event::RouteSet)));
        }
        self.at(later, Step::RelayDone(relayed));
    }

    /// All keepers have just published, and nobody lags.
    fn reports(&mut self) -> Reports {
        let states = self.data.dbs.values().map(|db| PostgresState {
            uid: db.uid.clone(),
            healthy: true,
            timeline_id: TimelineId(1),
            xlog_pos: Lsn(1),
            instance: Some(InstanceReport {
                in_recovery: Some(db.spec.role == Some(Role::Standby)),
                replay_lsn: Lsn(1),
                looked_ago_millis: Some(0),
                ..InstanceReport::default()
            }),
            ..PostgresState::default()
        });
        let keepers = states.map(|state| KeeperInfo {
            info_uid: InfoUid::new(format!("{}-{}", state.uid, self.now)),
            uid: format!("keeper-of-{}", state.uid).as_str().into(),
            cluster_uid: "c".into(),
            postgres_state: Some(state),
            ..KeeperInfo::default()
        });
        let sentinel = SentinelInfo {
            uid: "s1".into(),
            features: vec![FEATURE_READS.to_owned()],
            ..SentinelInfo::default()
        };
        Reports {
            keepers: keepers.collect(),
            sentinels: vec![sentinel],
        }
    }

    fn send_publication(&mut self, generation: Generation, timeout: Duration) {
        let mut timeout = u64::try_from(timeout.as_millis()).expect("in range");
        if self.flaw == Flaw::OutlivesItsWord {
            timeout /= 2;
        }
        let done = self.now + self.chance.delay();
        let answer_at = done + self.chance.delay();
        let answered = !self.chance.one_in(10);
        // One that is not answered is stored all the same, or later, or never.
        let stored_at = match self.chance.below(3) {
            1 if !answered => Some(answer_at + self.chance.below(5_000)),
            2 if !answered => None,
            _ => Some(done),
        };
        if let Some(stored_at) = stored_at {
            let step = Step::PublishDone {
                generation,
                timeout,
            };
            self.at(stored_at, step);
        }
        let answer = Event::Published(answered);
        self.at(answer_at, Step::Tell(Box::new(answer)));
    }

    fn read(&mut self, sent_at: u64, answer_at: u64) {
        let event = Event::Document {
            sent_at: instant(sent_at),
            revision: self.revision,
            data: Some(Arc::new(self.data.clone())),
        };
        self.at(answer_at, Step::Tell(Box::new(event)));
    }

    fn publish(&mut self, generation: Generation, timeout: u64) {
        self.published = (self.published.0 + 1, generation, timeout);
    }

    /// One look of a sentinel, and what it decides, by the contract's section 7.
    fn look(&mut self) {
        let next = self.now + 20 + self.chance.below(200);
        self.at(next, Step::Look);
        let (number, generation, timeout) = self.published;
        if number != self.seen.0 {
            self.seen = (number, self.now);
        }
        let bound = timeout + timeout / 20 + 500;
        let live = number > 0 && self.now - self.seen.1 < bound;
        if self.chance.one_in(if live { 60 } else { 2 }) {
            self.wanted = if self.wanted == "db1" { "db2" } else { "db1" };
        }
        let mut data = self.data.clone();
        let is_left = !live || generation == self.data.proxy.generation;
        let is_named = data.proxy.spec.successor_db_uid.as_str() == self.wanted;
        if primary(&data).as_str() == self.wanted {
            let spec = &mut data.proxy.spec;
            spec.successor_db_uid = DbUid::default();
            if spec.primary_db_uid.is_empty() && is_left {
                spec.primary_db_uid = self.wanted.into();
            }
        } else if is_named && is_left {
            make_primary(&mut data, self.wanted);
            data.proxy.spec.successor_db_uid = DbUid::default();
        } else {
            data.proxy.spec.primary_db_uid = DbUid::default();
            data.proxy.spec.successor_db_uid = self.wanted.into();
        }
        let spec = &mut data.proxy.spec;
        spec.enabled_proxies = if live { vec!["p1".into()] } else { vec![] };
        if data.proxy.spec != self.data.proxy.spec {
            data.proxy.generation = data.proxy.generation.next();
            let (revision, later) = (self.revision, self.now + 1 + self.chance.below(30));
            let data = Box::new(data);
            self.at(later, Step::Write { revision, data });
        }
    }

    fn write(&mut self, revision: u64, data: ClusterData) {
        if revision != self.revision {
            return;
        }
        self.data = data;
        self.changed();
    }

    fn change_spec(&mut self) {
        let timeout = if self.chance.one_in(2) { 3_000 } else { 8_000 };
        if let Some(cluster) = self.data.cluster.as_mut() {
            cluster.spec = Some(spec(timeout));
        }
        self.changed();
        let next = self.now + 2_000 + self.chance.below(10_000);
        self.at(next, Step::ChangeSpec);
    }

    fn changed(&mut self) {
        self.revision += 1;
        if self.chance.one_in(2) {
            let later = self.now + self.chance.delay();
            self.at(later, Step::Tell(Box::new(Event::StoreChanged)));
        }
    }
}

#[test]
fn clients_reach_one_primary_whatever_the_order_of_events() {
    let (mut served, mut read) = (0, 0);
    for seed in 0..SEEDS {
        let run = World::new(seed, Flaw::None).run();
        let (writes, reads) = run.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        served += writes;
        read += reads;
    }
    assert!(served > SEEDS * 50, "clients were hardly served: {served}");
    assert!(read > SEEDS * 50, "hardly anybody could read: {read}");
}

#[test]
fn a_proxy_that_believes_too_early_is_caught() {
    let errors = |flaw| (0..SEEDS).filter_map(move |seed| World::new(seed, flaw).run().err());
    let caught = |flaw, what| {
        let caught = errors(flaw).any(|error: String| error.contains(what));
        assert!(caught, "{flaw:?} went unnoticed where {what}");
    };
    caught(Flaw::NoReadAfterPublication, "clients reach");
    for flaw in [Flaw::OutlivesItsWord, Flaw::AcknowledgesFirst] {
        caught(flaw, "clients reach");
        // What keepers publish has to be read anew too, after a pause: the first flaw finds nobody here.
        caught(flaw, "clients read");
    }
}
