//! A small world as the document and the view that a sentinel would decide by.

use std::time::Duration;

use stolon_core::model::db::PLACEHOLDER_STANDBY;
use stolon_core::model::report::IMPLEMENTATION;
use stolon_core::model::spec::ClusterInitMode;
use stolon_core::model::{
    ClusterData, ClusterSpec, ClusterUid, Db, DbUid, FollowConfig, Generation, InitMode,
    InstanceReport, Keeper, KeeperInfo, KeeperUid, List, Lsn, PeerReport, Phase, PostgresState,
    ProxyUid, Role, TimelineId, TimelineSwitch, Unknown,
};
use stolon_core::sentinel::observe::{DbView, KeeperView, ProxyView, View};
use stolon_core::time::Timestamp;

use super::{Health, Membership, Place, Primary, ProxyState, Route, Small, Standby};

const GENERATION: Generation = Generation(5);
const SECOND: Duration = Duration::from_secs(1);

/// The keeper of this number; the primary's is 0, then come those of the standbys.
pub(crate) fn keeper_uid(number: usize) -> KeeperUid {
    KeeperUid::new(format!("k{number}"))
}

/// The db of this number: the primary is 0.
pub(crate) fn db_uid(number: usize) -> DbUid {
    DbUid::new(format!("db{number}"))
}

/// The document and the view.
pub(crate) fn build(small: &Small) -> (ClusterData, View) {
    let mut data = ClusterData::new(ClusterUid::from("c0ffee00"), spec(small), stamp());
    let cluster = data.cluster.as_mut().expect("a cluster");
    cluster.status.phase = Some(Phase::Normal);
    cluster.status.master = Some(db_uid(0));
    let mut view = empty_view(small);
    for number in 0..=small.standbys.len() + small.free_keepers {
        add_keeper(small, number, &mut data, &mut view);
    }
    for (index, standby) in small.standbys.iter().enumerate() {
        add_standby(*standby, index + 1, &mut data, &mut view);
    }
    if small.primary != Primary::Gone {
        add_primary(small, &mut data, &mut view);
    }
    add_proxies(small, &mut data, &mut view);
    (data, view)
}

fn spec(small: &Small) -> ClusterSpec {
    let (least, most) = small.synchronous.unwrap_or((1, 1));
    ClusterSpec {
        init_mode: Some(ClusterInitMode::New),
        sleep_interval: Some(SECOND.into()),
        fail_interval: Some((4 * SECOND).into()),
        max_standby_lag: Some(100),
        max_standbys_per_sender: Some(small.senders),
        synchronous_replication: Some(small.synchronous.is_some()),
        min_synchronous_standbys: Some(least),
        max_synchronous_standbys: Some(most),
        ..ClusterSpec::default()
    }
}

fn stamp() -> Timestamp {
    Timestamp::from_utc(jiff::Timestamp::from_second(1_700_000_000).expect("a time"))
}

fn empty_view(small: &Small) -> View {
    View {
        wall: stamp(),
        entropy: 7,
        revision: 40,
        looks: 9,
        keepers: std::collections::BTreeMap::new(),
        dbs: std::collections::BTreeMap::new(),
        proxies: std::collections::BTreeMap::new(),
        gave_up: std::collections::BTreeSet::new(),
        proxies_reached: Generation::NONE,
        recent_failovers: small.recent_failovers,
        most_failovers: 3,
        asked: stolon_core::sentinel::observe::Asked::default(),
        next_change_in: SECOND,
    }
}

fn add_keeper(small: &Small, number: usize, data: &mut ClusterData, view: &mut View) {
    let uid = keeper_uid(number);
    let mut keeper = Keeper {
        uid: uid.clone(),
        generation: Generation::FIRST,
        ..Keeper::default()
    };
    keeper.status.healthy = true;
    keeper.status.last_healthy_time = stamp();
    keeper.status.can_be_master = Some(true);
    keeper.status.can_be_synchronous_replica = Some(true);
    keeper.status.force_fail = number == 0 && small.primary == Primary::Forced;
    data.keepers.insert(uid.clone(), keeper);
    let health = number
        .checked_sub(1)
        .and_then(|index| small.standbys.get(index))
        .map(|standby| standby.0);
    let silent =
        health == Some(Health::Silent) || (number == 0 && small.primary == Primary::Silent);
    let silent_for = match health {
        _ if silent => 5 * SECOND,
        Some(Health::Late) => Duration::from_millis(3500),
        _ => Duration::from_millis(100),
    };
    let info = KeeperInfo {
        uid: uid.clone(),
        can_be_master: Some(true),
        can_be_synchronous_replica: Some(true),
        implementation: IMPLEMENTATION.to_owned(),
        ..KeeperInfo::default()
    };
    let info = Some(info);
    view.keepers.insert(uid, KeeperView { info, silent_for });
}

/// A db that looks, in the document, as the parameters of the spec make it.
fn db(number: usize) -> Db {
    let mut db = Db {
        uid: db_uid(number),
        generation: GENERATION,
        ..Db::default()
    };
    db.spec.keeper_uid = keeper_uid(number);
    db.spec.request_timeout = Duration::from_secs(10).into();
    db.spec.max_standbys = 20;
    db.spec.additional_wal_senders = 5;
    db.spec.init_mode = Some(InitMode::None);
    db.spec.followers = List(Some(Vec::new()));
    db.status.healthy = true;
    db.status.current_generation = GENERATION;
    "7275812345678901234".clone_into(&mut db.status.system_id);
    db.status.timeline_id = TimelineId(3);
    db.status.xlog_pos = Lsn(1000);
    db.status.timelines_history = history(&[(1, 100), (2, 500)]);
    db
}

fn history(switches: &[(u64, u64)]) -> Vec<TimelineSwitch> {
    let switch = |(timeline, point): &(u64, u64)| TimelineSwitch {
        timeline_id: TimelineId(*timeline),
        switch_point: Lsn(*point),
        reason: String::new(),
        unknown: Unknown::new(),
    };
    switches.iter().map(switch).collect()
}

fn report(db: &Db) -> PostgresState {
    PostgresState {
        uid: db.uid.clone(),
        generation: db.status.current_generation,
        healthy: true,
        system_id: db.status.system_id.clone(),
        timeline_id: db.status.timeline_id,
        xlog_pos: db.status.xlog_pos,
        timelines_history: db.status.timelines_history.clone(),
        instance: Some(InstanceReport::default()),
        ..PostgresState::default()
    }
}

fn add_standby(standby: Standby, number: usize, data: &mut ClusterData, view: &mut View) {
    let Standby(health, place, _) = standby;
    let mut db = db(number);
    db.spec.role = Some(Role::Standby);
    db.spec.follow_config = Some(FollowConfig::internal(db_uid(0)));
    let (timeline, lsn, switches): (u64, u64, &[(u64, u64)]) = match place {
        Place::Level => (3, 1000, &[(1, 100), (2, 500)]),
        Place::Behind => (3, 900, &[(1, 100), (2, 500)]),
        Place::FarBehind => (3, 600, &[(1, 100), (2, 500)]),
        Place::Unknown => (3, 0, &[(1, 100), (2, 500)]),
        Place::Earlier => (2, 450, &[(1, 100)]),
        Place::Overrun => (2, 900, &[(1, 100)]),
        Place::Half | Place::HalfForLong => (2, 540, &[(1, 100)]),
        Place::Later => (4, 1000, &[(2, 500), (3, 950)]),
        Place::Elsewhere => (3, 1000, &[(1, 100), (2, 450)]),
        Place::ElsewhereBehind => (3, 900, &[(1, 100), (2, 450)]),
        Place::ElsewhereFarBehind => (3, 600, &[(1, 100), (2, 450)]),
    };
    db.status.timeline_id = TimelineId(timeline);
    db.status.xlog_pos = Lsn(lsn);
    db.status.timelines_history = history(switches);
    let mut seen = DbView::default();
    if health == Health::Copying {
        db.spec.init_mode = Some(InitMode::Resync);
        db.status = stolon_core::model::DbStatus::default();
        seen.converging_for = Some(SECOND);
    } else {
        let mut state = report(&db);
        state.healthy = health != Health::Sick;
        let streams = matches!(health, Health::Streams | Health::Late);
        let instance = state.instance.as_mut().expect("an instance");
        instance.streaming = Some(streams);
        instance.in_recovery = Some(true);
        match place {
            Place::Half => {
                instance.replay_lsn = Lsn(500);
                seen.astray_for = Some(SECOND);
            }
            Place::HalfForLong => {
                instance.replay_lsn = Lsn(500);
                seen.astray_for = Some(5 * SECOND);
            }
            _ => instance.replay_lsn = Lsn(lsn),
        }
        seen.report = Some(state);
        seen.unhealthy_for = Some(match health {
            Health::Sick | Health::Silent => 5 * SECOND,
            Health::Late => Duration::from_millis(3500),
            _ => Duration::from_millis(100),
        });
    }
    view.dbs.insert(db.uid.clone(), seen);
    data.dbs.insert(db.uid.clone(), db);
}

fn add_primary(small: &Small, data: &mut ClusterData, view: &mut View) {
    let mut db = db(0);
    db.spec.role = Some(Role::Primary);
    let members_that = |wanted: &[Membership]| -> Vec<DbUid> {
        let members = small.standbys.iter().enumerate();
        let members = members.filter(|(_, standby)| wanted.contains(&standby.2));
        members.map(|(index, _)| db_uid(index + 1)).collect()
    };
    db.spec.followers = data.dbs.keys().cloned().collect();
    if small.in_force {
        let listed = members_that(&[
            Membership::Listed,
            Membership::JustConfirmed,
            Membership::Confirmed,
        ]);
        let least = small.synchronous.map_or(1, |members| members.0);
        let placeholder = listed.len() < usize::from(least);
        let placeholder = placeholder.then(|| PLACEHOLDER_STANDBY.to_owned());
        db.spec.synchronous_replication = true;
        db.spec.synchronous_standbys = List(Some(listed));
        db.spec.external_synchronous_standbys = placeholder.into_iter().collect();
        db.status.synchronous_standbys = List(Some(members_that(&[Membership::Confirmed])));
    }
    let mut seen = DbView {
        unhealthy_for: Some(Duration::from_millis(100)),
        ..DbView::default()
    };
    if matches!(small.primary, Primary::Converging | Primary::Overdue) {
        db.status.current_generation = Generation(GENERATION.0 - 1);
        let overdue = small.primary == Primary::Overdue;
        seen.converging_for = Some(if overdue { 60 * SECOND } else { SECOND });
    }
    let mut state = report(&db);
    if small.in_force {
        state.synchronous_standbys = List(Some(members_that(&[
            Membership::JustConfirmed,
            Membership::Confirmed,
        ])));
    }
    let instance = state.instance.as_mut().expect("an instance");
    instance.in_recovery = Some(small.primary == Primary::Recovering);
    let streams = |standby: &Standby| matches!(standby.0, Health::Streams | Health::Late);
    let peers = small.standbys.iter().enumerate();
    let peers = peers.filter(|(_, standby)| streams(standby));
    let peer = |(index, _): (usize, &Standby)| PeerReport {
        db_uid: db_uid(index + 1),
        state: "streaming".to_owned(),
        ..PeerReport::default()
    };
    instance.peers = peers.map(peer).collect();
    match small.primary {
        Primary::Sick => {
            state.healthy = false;
            seen.unhealthy_for = Some(5 * SECOND);
            // What it says of its position now counts for nothing.
            state.xlog_pos = Lsn::UNKNOWN;
        }
        Primary::Silent => seen.unhealthy_for = Some(5 * SECOND),
        Primary::Released => {
            state.healthy = false;
            instance.released_at_revision = Some(view.revision);
        }
        _ => {}
    }
    seen.report = Some(state);
    view.dbs.insert(db.uid.clone(), seen);
    data.dbs.insert(db.uid.clone(), db);
}

fn add_proxies(small: &Small, data: &mut ClusterData, view: &mut View) {
    let proxy = &mut data.proxy;
    proxy.generation = GENERATION;
    proxy.spec.primary_db_uid = match small.route {
        Route::Open => db_uid(0),
        Route::Closed => DbUid::default(),
        Route::Astray => DbUid::from("db-of-old"),
    };
    proxy.spec.successor_db_uid = small.successor.map(db_uid).unwrap_or_default();
    for (index, state) in small.proxies.iter().enumerate() {
        let uid = ProxyUid::new(format!("p{index}"));
        proxy.spec.enabled_proxies.push(uid.clone());
        let heard = *state != ProxyState::Unheard;
        let behind = matches!(state, ProxyState::Behind | ProxyState::ReadsBehind);
        let generation = Generation(GENERATION.0 - i64::from(behind));
        let seen = ProxyView {
            generation: heard.then_some(generation),
            live: !matches!(state, ProxyState::Dead | ProxyState::ReadsDead),
            heard,
            closes_first: !matches!(state, ProxyState::GoJustNow | ProxyState::GoLongAgo),
            reads: matches!(
                state,
                ProxyState::Unheard
                    | ProxyState::Reads
                    | ProxyState::ReadsBehind
                    | ProxyState::ReadsDead
            ),
            acknowledged_for: if *state == ProxyState::GoLongAgo {
                2 * SECOND
            } else {
                Duration::from_millis(100)
            },
        };
        view.proxies.insert(uid, seen);
    }
}
