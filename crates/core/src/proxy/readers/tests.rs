//! Standbys that clients read from, by what a primary and two standbys report.

use super::{Fallback, Lag, ReadOnly, Readers, primary};
use crate::model::report::{InstanceReport, KeeperInfo, PostgresState};
use crate::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, Lsn, Role, TimelineId, TimelineSwitch,
};
use crate::proxy::{Effect, Passages, Route, Target};
use crate::time::{Instant, Timestamp};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Reports of `db1` to `db3`, by the keepers of the same numbers.
struct World {
    readers: Readers,
    data: ClusterData,
    infos: Vec<KeeperInfo>,
    now: Instant,
    serial: u32,
    said: Vec<String>,
}

impl World {
    fn new(max_lag: &str, fallback: Fallback) -> Self {
        let max_lag: Lag = max_lag.parse().expect("a bound");
        let mut data = ClusterData::new(
            ClusterUid::from("c"),
            ClusterSpec::default(),
            Timestamp::ZERO,
        );
        let mut infos = Vec::new();
        for number in ["1", "2", "3"] {
            let uid = format!("db{number}");
            let mut db = Db {
                uid: uid.as_str().into(),
                ..Db::default()
            };
            db.spec.role = Some(Role::Standby);
            db.spec.keeper_uid = format!("k{number}").as_str().into();
            db.status.healthy = true;
            db.status.listen_address = format!("10.0.0.{number}");
            db.status.port = "5432".into();
            data.dbs.insert(db.uid.clone(), db);
            infos.push(KeeperInfo {
                uid: format!("k{number}").as_str().into(),
                cluster_uid: "c".into(),
                postgres_state: Some(PostgresState {
                    uid: uid.as_str().into(),
                    healthy: true,
                    timeline_id: TimelineId(1),
                    instance: Some(InstanceReport::default()),
                    ..PostgresState::default()
                }),
                ..KeeperInfo::default()
            });
        }
        let mut world = Self {
            readers: Readers::new(ReadOnly { max_lag, fallback }),
            data,
            infos,
            now: Instant::from_boot(100 * SECOND),
            serial: 0,
            said: Vec::new(),
        };
        world.is_primary(1);
        world
    }

    /// The cluster after two rounds in which everybody had everything.
    fn settled(max_lag: &str, fallback: Fallback) -> Self {
        let mut world = Self::new(max_lag, fallback);
        for _ in 0..2 {
            for number in 1..=3 {
                world.reports(number, 1_000);
            }
            world.read();
        }
        world
    }

    fn db(&mut self, number: usize) -> &mut Db {
        let uid = format!("db{number}");
        self.data.dbs.get_mut(uid.as_str()).expect("a db")
    }

    fn state(&mut self, number: usize) -> &mut PostgresState {
        let info = &mut self.infos[number - 1];
        info.postgres_state.as_mut().expect("a state")
    }

    /// As the sentinel does it: one that was deposed keeps its role.
    fn is_primary(&mut self, number: usize) {
        self.db(number).spec.role = Some(Role::Primary);
        let uid = self.db(number).uid.clone();
        self.data.cluster.as_mut().expect("a cluster").status.master = Some(uid);
    }

    /// A keeper publishes that its instance has flushed and shows everything up to there.
    fn reports(&mut self, number: usize, position: u64) {
        self.serial += 1;
        let serial = self.serial.to_string();
        self.infos[number - 1].info_uid = serial.as_str().into();
        let state = self.state(number);
        state.xlog_pos = Lsn(position);
        if let Some(instance) = &mut state.instance {
            instance.replay_lsn = Lsn(position);
        }
    }

    /// A second later the proxy reads what the keepers have published.
    fn read(&mut self) -> Passages {
        self.now = self.now.after(SECOND);
        let infos = Some(self.infos.clone());
        self.readers.take(self.now, infos, Some(&self.data));
        self.turn(Some(self.now.after(60 * SECOND)))
    }

    fn turn(&mut self, until: Option<Instant>) -> Passages {
        let db = primary(&self.data).expect("a primary");
        let route = Route::To {
            target: Target {
                db: db.uid.clone(),
                host: db.status.listen_address.clone(),
                port: db.status.port.clone(),
            },
            until: self.now.after(60 * SECOND),
        };
        let mut effects = Vec::new();
        self.readers
            .turn(self.now, Some(&self.data), until, &route, &mut effects);
        for effect in effects {
            match effect {
                Effect::Log(reason) => self.said.push(reason.to_string()),
                other => panic!("{other:?}"),
            }
        }
        self.readers.passages().clone()
    }
}

/// The dbs that clients go to, a spare one in brackets.
fn dbs(passages: &Passages) -> String {
    let name = |passage: &crate::proxy::Passage| {
        let db = passage.target.db.to_string();
        if passage.is_spare {
            format!("({db})")
        } else {
            db
        }
    };
    let names: Vec<_> = passages.to.iter().map(name).collect();
    names.join(" ")
}

#[test]
fn a_standby_is_read_from_once_it_is_known_to_be_up_to_date() {
    let mut world = World::new("100B,30s", Fallback::Refuse);
    for number in 1..=3 {
        world.reports(number, 1_000);
    }
    let first = world.read();
    assert_eq!(dbs(&first), "", "reports of any age prove nothing");
    assert!(
        first.closed.contains("db2: its lag is not known"),
        "{first:?}"
    );
    world.reports(1, 1_050);
    world.reports(2, 1_050);
    assert_eq!(
        dbs(&world.read()),
        "db2",
        "db3 has not what the primary had"
    );
    world.reports(3, 1_050);
    assert_eq!(dbs(&world.read()), "db2 db3");
    assert_eq!(world.said.len(), 2, "{:?}", world.said);
}

#[test]
fn one_that_falls_behind_is_left_until_it_has_caught_up() {
    let mut world = World::settled("100B,30s", Fallback::Refuse);
    world.reports(1, 1_101);
    world.reports(2, 1_000);
    // Of reports that come together nobody knows which was made first.
    assert_eq!(dbs(&world.read()), "db2 db3");
    world.reports(2, 1_000);
    world.reports(3, 1_001);
    let behind = world.read();
    assert_eq!(dbs(&behind), "db3");
    assert!(
        behind.closed.contains("db2: it lags by too many bytes"),
        "{behind:?}"
    );
    assert!(world.said.last().expect("a word").contains("db2"));
    world.reports(2, 1_001);
    assert_eq!(dbs(&world.read()), "db2 db3");
    // One whose instance did not answer is no news.
    world.reports(2, 0);
    assert_eq!(dbs(&world.read()), "db2 db3");
}

#[test]
fn what_was_not_seen_up_to_date_for_long_is_left_in_time() {
    let mut world = World::settled("10s", Fallback::Refuse);
    // The report that all had replayed was made after the first read was sent, a second ago.
    let complete = Instant::from_boot(101 * SECOND);
    let passages = world.turn(Some(world.now.after(60 * SECOND)));
    assert!(
        passages
            .to
            .iter()
            .all(|passage| passage.until == complete.after(10 * SECOND))
    );
    assert_eq!(world.readers.ends_at(), Some(complete.after(10 * SECOND)));
    world.now = complete.after(10 * SECOND);
    let passages = world.turn(Some(world.now.after(60 * SECOND)));
    assert_eq!(dbs(&passages), "");
    assert!(
        passages.closed.contains("not seen up to date"),
        "{passages:?}"
    );
    // A report that may be as old as the last read proves nothing either.
    world.reports(1, 1_000);
    assert_eq!(dbs(&world.read()), "");
    // However quiet the primary was: it had no more.
    world.reports(1, 1_000);
    assert_eq!(dbs(&world.read()), "db2 db3");
}

#[test]
fn no_permission_outlasts_that_of_the_proxy() {
    let mut world = World::settled("32MB,1h", Fallback::Primary);
    let until = world.now.after(3 * SECOND);
    let passages = world.turn(Some(until));
    let regular = passages.to.iter().filter(|passage| !passage.is_spare);
    assert!(regular.clone().count() == 2 && regular.clone().all(|passage| passage.until == until));
    let closed = world.turn(None);
    assert_eq!(dbs(&closed), "");
    assert!(closed.closed.contains("no check"), "{closed:?}");
}

#[test]
fn what_is_not_healthy_or_tells_no_lag_is_not_read_from() {
    let mut world = World::settled("1h", Fallback::Refuse);
    world.db(2).status.healthy = false;
    world.state(3).instance = None;
    world.reports(3, 1_000);
    let passages = world.read();
    assert_eq!(dbs(&passages), "");
    assert!(passages.closed.contains("db2: not healthy"), "{passages:?}");
    assert!(
        passages.closed.contains("db3: its lag is not known"),
        "{passages:?}"
    );
}

#[test]
fn reports_of_an_earlier_life_or_another_cluster_do_not_count() {
    let mut world = World::settled("1h", Fallback::Refuse);
    world.state(2).uid = "db-of-before".into();
    world.infos[2].cluster_uid = "d".into();
    assert_eq!(dbs(&world.read()), "");
}

#[test]
fn the_primary_takes_those_for_whom_there_is_no_standby_where_it_may() {
    let mut world = World::settled("100B,30s", Fallback::Primary);
    assert_eq!(dbs(&world.read()), "db2 db3 (db1)");
    world.reports(1, 9_000);
    world.read();
    world.reports(2, 1_000);
    world.reports(3, 1_000);
    assert_eq!(dbs(&world.read()), "(db1)");
}

#[test]
fn reads_go_on_through_a_failover_and_leave_who_is_promoted() {
    let mut world = World::settled("100B,30s", Fallback::Refuse);
    world.is_primary(2);
    assert_eq!(dbs(&world.read()), "db3");
    // The new timeline began behind what db3 has.
    world.reports(2, 1_020);
    world.state(2).timeline_id = TimelineId(2);
    world.state(2).timelines_history = vec![TimelineSwitch {
        timeline_id: TimelineId(1),
        switch_point: Lsn(1_000),
        ..TimelineSwitch::default()
    }];
    assert_eq!(dbs(&world.read()), "db3");
    assert_eq!(world.said.len(), 3, "{:?}", world.said);
}

#[test]
fn what_shows_rows_that_the_primary_does_not_have_is_left_at_once() {
    let mut world = World::settled("1MB,1h", Fallback::Refuse);
    world.is_primary(2);
    world.reports(2, 1_020);
    world.reports(3, 1_010);
    world.state(2).timeline_id = TimelineId(2);
    world.state(2).timelines_history = vec![TimelineSwitch {
        timeline_id: TimelineId(1),
        switch_point: Lsn(1_000),
        ..TimelineSwitch::default()
    }];
    let passages = world.read();
    assert_eq!(dbs(&passages), "");
    assert!(
        passages.closed.contains("db3: it has left the history"),
        "{passages:?}"
    );
}
