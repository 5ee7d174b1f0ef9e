//! A cluster of a primary and two standbys, whose keepers publish every five seconds.

use std::time::Duration;

use super::{Ground, MaxLag, Reads};
use crate::model::report::{FEATURE_READS, InstanceReport};
use crate::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, FollowConfig, InfoUid, KeeperInfo, Lsn,
    PostgresState, ProxyUid, Role, SentinelInfo, TimelineId,
};
use crate::proxy::{Effect, ReadRoute, Reports};
use crate::time::{Instant, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const MAX_LAG: MaxLag = MaxLag {
    bytes: 1000,
    time: Duration::from_secs(30),
};

struct World {
    reads: Reads,
    proxy: ProxyUid,
    now: Instant,
    data: ClusterData,
    revision: u64,
    reports: Reports,
    published: u32,
    until: Option<Instant>,
    is_held: bool,
    told: Vec<String>,
}

impl World {
    fn new() -> Self {
        let cluster = ClusterUid::from("c");
        let mut data = ClusterData::new(cluster.clone(), ClusterSpec::default(), Timestamp::ZERO);
        let mut reports = Reports::default();
        for name in ["db1", "db2", "db3"] {
            let is_primary = name == "db1";
            let mut db = Db {
                uid: name.into(),
                ..Db::default()
            };
            db.spec.keeper_uid = name.replace("db", "k").as_str().into();
            db.spec.role = Some(if is_primary {
                Role::Primary
            } else {
                Role::Standby
            });
            db.spec.follow_config = (!is_primary).then(|| FollowConfig::internal("db1".into()));
            db.status.healthy = true;
            db.status.listen_address = format!("10.0.0.{}", &name[2..]);
            db.status.port = "5432".into();
            let state = PostgresState {
                uid: db.uid.clone(),
                healthy: true,
                timeline_id: TimelineId(1),
                xlog_pos: Lsn(10_000),
                instance: Some(InstanceReport {
                    in_recovery: Some(!is_primary),
                    replay_lsn: Lsn(10_000),
                    looked_ago_millis: Some(0),
                    ..InstanceReport::default()
                }),
                ..PostgresState::default()
            };
            reports.keepers.push(KeeperInfo {
                uid: db.spec.keeper_uid.clone(),
                cluster_uid: cluster.clone(),
                postgres_state: Some(state),
                ..KeeperInfo::default()
            });
            data.dbs.insert(db.uid.clone(), db);
        }
        data.cluster.as_mut().expect("a cluster").status.master = Some("db1".into());
        data.proxy.spec.enabled_proxies = vec!["p1".into()];
        reports.sentinels.push(SentinelInfo {
            uid: "s1".into(),
            features: vec![FEATURE_READS.to_owned()],
            ..SentinelInfo::default()
        });
        let now = Instant::from_boot(Duration::from_secs(100));
        Self {
            reads: Reads::new(MAX_LAG),
            proxy: "p1".into(),
            now,
            data,
            revision: 1,
            reports,
            published: 0,
            until: Some(now.after(1000 * SECOND)),
            is_held: false,
            told: Vec::new(),
        }
    }

    /// After two looks, between which all have published: both standbys are read from.
    fn reading() -> Self {
        let mut world = Self::new();
        world.pass(5 * SECOND);
        world.pass(5 * SECOND);
        assert_eq!(world.dbs(), ["db2", "db3"]);
        world.told.clear();
        world
    }

    fn state(&mut self, db: &str) -> &mut PostgresState {
        let infos = self.reports.keepers.iter_mut();
        let mut states = infos.filter_map(|info| info.postgres_state.as_mut());
        states.find(|state| state.uid.as_str() == db).expect("a db")
    }

    fn writes(&mut self, to: u64) {
        self.state("db1").xlog_pos = Lsn(to);
    }

    fn replays(&mut self, db: &str, to: u64) {
        self.state(db).instance.as_mut().expect("ours").replay_lsn = Lsn(to);
    }

    fn publish(&mut self, keepers: &[&str]) {
        for info in &mut self.reports.keepers {
            if keepers.contains(&info.uid.as_str()) {
                self.published += 1;
                info.info_uid = InfoUid::new(self.published.to_string());
            }
        }
    }

    fn look(&mut self) {
        let reports = self.reports.clone();
        let document = (Some(&self.data), self.revision);
        self.reads.learn(self.now, reports, document);
        self.turn();
    }

    fn turn(&mut self) {
        let ground = Ground {
            now: self.now,
            uid: &self.proxy,
            data: Some(&self.data),
            until: self.until,
            is_held: self.is_held,
            proxy_timeout: 15 * SECOND,
        };
        let mut effects = Vec::new();
        self.reads.turn(&ground, &mut effects);
        for effect in effects {
            if let Effect::Log(reason) = effect {
                self.told.push(reason.to_string());
            }
        }
    }

    /// All publish, and after the time it is looked.
    fn pass(&mut self, time: Duration) {
        self.publish(&["k1", "k2", "k3"]);
        self.now = self.now.after(time);
        self.look();
    }

    fn dbs(&self) -> Vec<&str> {
        match self.reads.route() {
            ReadRoute::To(targets) => targets.iter().map(|(to, _)| to.db.as_str()).collect(),
            ReadRoute::Closed(_) => Vec::new(),
        }
    }

    fn why_closed(&self) -> &str {
        match self.reads.route() {
            ReadRoute::To(_) => "",
            ReadRoute::Closed(why) => why,
        }
    }
}

#[test]
fn nobody_is_read_from_before_it_is_known_how_old_the_reports_are() {
    let mut world = World::new();
    world.publish(&["k1", "k2", "k3"]);
    world.look();
    let why = world.why_closed();
    assert!(why.contains("published nothing"), "{why}");
    world.now = world.now.after(SECOND);
    world.publish(&["k2"]);
    world.look();
    assert!(world.dbs().is_empty(), "nobody knows where the primary is");
    world.publish(&["k1"]);
    world.now = world.now.after(SECOND);
    world.look();
    assert_eq!(world.dbs(), ["db2"]);
}

#[test]
fn one_that_is_too_many_bytes_behind_is_left_and_comes_back() {
    let mut world = World::reading();
    world.writes(11_001);
    world.replays("db3", 11_000);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db3"]);
    let told = world.told.join("\n");
    assert!(
        told.contains("more bytes behind") && told.contains("db2"),
        "{told}"
    );
    world.replays("db2", 10_500);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db2", "db3"]);
}

#[test]
fn one_that_stands_still_is_left_when_the_primary_was_there_too_long_ago() {
    let mut world = World::reading();
    // Of the last report that showed the primary level it is only known that it came after the look
    // before it.
    let level = world.now;
    let mut written = 10_000;
    world.pass(5 * SECOND);
    while world.dbs().contains(&"db2") {
        written += 1;
        world.writes(written);
        world.replays("db3", written);
        world.pass(5 * SECOND);
        assert!(world.now.since(level) < 60 * SECOND, "it is never left");
    }
    assert_eq!(world.dbs(), ["db3"]);
    assert_eq!(world.now.since(level), MAX_LAG.time);
}

#[test]
fn a_primary_that_rests_makes_nobody_late() {
    let mut world = World::reading();
    for _ in 0..100 {
        world.pass(5 * SECOND);
        assert_eq!(world.dbs(), ["db2", "db3"]);
    }
}

#[test]
fn what_is_known_grows_old_by_itself() {
    let mut world = World::reading();
    let until = world.reads.until().expect("an end");
    // It was published after the look before.
    assert_eq!(
        until,
        world.now.after(15 * SECOND),
        "reports were read at that time"
    );
    world.now = until;
    world.turn();
    assert!(world.why_closed().contains("could not be read lately"));
    // They are read again, and the keepers have not published since.
    for _ in 0..3 {
        world.look();
        world.now = world.now.after(5 * SECOND);
    }
    assert!(
        world.why_closed().contains("further behind in time"),
        "{}",
        world.why_closed()
    );
}

#[test]
fn the_successor_is_left_at_once() {
    let mut world = World::reading();
    world.data.proxy.spec.successor_db_uid = "db2".into();
    world.turn();
    assert_eq!(world.dbs(), ["db3"]);
}

#[test]
fn one_that_is_the_primary_by_the_document_is_none_to_read_from() {
    let mut world = World::reading();
    let db = world.data.dbs.get_mut("db2").expect("a db");
    db.spec.role = Some(Role::Primary);
    db.spec.follow_config = None;
    world.turn();
    assert_eq!(world.dbs(), ["db3"]);
}

#[test]
fn one_whose_data_are_copied_anew_is_left() {
    let mut world = World::reading();
    let mut db = world.data.dbs.remove("db2").expect("a db");
    db.uid = "db4".into();
    world.data.dbs.insert("db4".into(), db);
    world.turn();
    assert_eq!(world.dbs(), ["db3"]);
    // Its keeper reports it while it is not healthy yet.
    world.state("db2").uid = "db4".into();
    world.state("db4").healthy = false;
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db3"]);
    world.state("db4").healthy = true;
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db3", "db4"]);
}

#[test]
fn one_that_was_promoted_by_hand_is_left() {
    let mut world = World::reading();
    let instance = world.state("db2").instance.as_mut();
    instance.expect("ours").in_recovery = Some(false);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db3"]);
}

#[test]
fn a_keeper_of_the_go_program_tells_too_little() {
    let mut world = World::reading();
    world.state("db2").instance = None;
    world.state("db3").instance = None;
    world.pass(5 * SECOND);
    assert!(
        world
            .why_closed()
            .contains("db2: how far it is behind is not known")
    );
}

#[test]
fn where_a_primary_of_the_go_program_is_says_nothing_of_its_standbys() {
    let mut world = World::reading();
    world.state("db1").instance = None;
    for _ in 0..12 {
        world.pass(5 * SECOND);
    }
    assert!(world.why_closed().contains("db2"), "{}", world.why_closed());
}

#[test]
fn a_report_is_as_old_as_the_look_that_it_tells_of() {
    let mut world = World::reading();
    let level = world.now;
    let age = |world: &mut World, db: &str, age: Duration| {
        let instance = world.state(db).instance.as_mut().expect("ours");
        instance.looked_ago_millis = Some(age.as_millis().try_into().expect("in range"));
    };
    // As of a primary whose connections are all taken: its keeper repeats what it saw last.
    while world.dbs() == ["db2", "db3"] {
        let since = world.now.since(level);
        age(&mut world, "db1", since);
        world.pass(5 * SECOND);
        assert!(world.now.since(level) < 60 * SECOND, "it is never left");
    }
    assert_eq!(world.now.since(level), MAX_LAG.time);
    let why = world.why_closed();
    assert!(why.contains("further behind in time"), "{why}");
    // And so of a standby.
    let mut world = World::reading();
    age(&mut world, "db2", MAX_LAG.time);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db3"]);
}

#[test]
fn reports_that_were_there_before_the_document_are_of_unknown_age() {
    let mut world = World::new();
    world.publish(&["k1", "k2", "k3"]);
    world
        .reads
        .learn(world.now, world.reports.clone(), (None, 0));
    for _ in 0..3 {
        world.now = world.now.after(SECOND);
        world.look();
        assert!(world.dbs().is_empty(), "nobody has published since");
    }
    world.pass(SECOND);
    assert_eq!(world.dbs(), ["db2", "db3"]);
}

#[test]
fn it_needs_sentinels_that_name_the_successor() {
    let mut world = World::reading();
    let ours = world.reports.sentinels.clone();
    world.reports.sentinels.push(SentinelInfo {
        uid: "go".into(),
        ..SentinelInfo::default()
    });
    world.look();
    let why = world.why_closed();
    assert!(why.ends_with("are running: go"), "{why}");
    // It may be frozen with a decision that it has made: until another document is there.
    world.reports.sentinels = ours;
    world.look();
    assert!(world.dbs().is_empty());
    world.revision += 1;
    world.look();
    assert_eq!(world.dbs(), ["db2", "db3"]);
    world.reports.sentinels.clear();
    world.look();
    let why = world.why_closed();
    assert!(why.contains("no sentinel is running"), "{why}");
}

#[test]
fn without_leave_nobody_is_led_anywhere() {
    let mut world = World::reading();
    for (word, change) in [
        ("no check", (|world| world.until = None) as fn(&mut World)),
        ("went back", |world| world.is_held = true),
        ("not enabled", |world| {
            world.data.proxy.spec.enabled_proxies.clear();
        }),
    ] {
        let mut world = std::mem::replace(&mut world, World::reading());
        change(&mut world);
        world.turn();
        assert!(world.why_closed().contains(word), "{}", world.why_closed());
    }
}

#[test]
fn standbys_that_have_not_reached_the_new_timeline_yet_are_measured_by_the_old_one() {
    let mut world = World::reading();
    // db3 was elected elsewhere and db2 has still to change over.
    world
        .data
        .cluster
        .as_mut()
        .expect("a cluster")
        .status
        .master = Some("db3".into());
    let db = world.data.dbs.get_mut("db3").expect("a db");
    db.spec.role = Some(Role::Primary);
    db.spec.follow_config = None;
    let state = world.state("db3");
    state.timeline_id = TimelineId(2);
    state.xlog_pos = Lsn(50_000);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db2"], "it is as near as it was");
    for _ in 0..6 {
        world.pass(5 * SECOND);
    }
    assert!(world.dbs().is_empty(), "and for so long only");
    world.state("db2").timeline_id = TimelineId(2);
    world.replays("db2", 50_000);
    world.pass(5 * SECOND);
    assert_eq!(world.dbs(), ["db2"]);
}

#[test]
fn a_reason_is_told_once() {
    let mut world = World::reading();
    world.writes(90_000);
    world.replays("db3", 90_000);
    for _ in 0..5 {
        world.pass(5 * SECOND);
    }
    let about = world.told.iter().filter(|told| told.contains("db2"));
    assert_eq!(about.count(), 1, "{:#?}", world.told);
}
