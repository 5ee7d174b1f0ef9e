//! All small worlds: every cluster of a few members in every combination of states, each decided
//! once, checked, and then decided until it rests.

#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the proofs, which use other parts")]
mod small;

use small::{
    Health, Membership, Names, Place, Primary, ProxyState, Route, Small, Standby, build, judge,
};
use std::time::Duration;

use stolon_core::invariants::settle;
use stolon_core::model::{ClusterData, DbUid, KeeperUid, Phase, wire};
use stolon_core::sentinel::decide::decide;

/// Judges every world and tells of the first few that are decided badly.
fn all_good(worlds: impl Iterator<Item = Small>) -> usize {
    let mut bad = Vec::new();
    let mut count = 0;
    for world in worlds {
        count += 1;
        let violations = judge(&world);
        if !violations.is_empty() {
            let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
            bad.push(format!("{world:?}\n  {}", list.join("\n  ")));
        }
    }
    let some: Vec<&String> = bad.iter().take(5).collect();
    assert!(
        bad.is_empty(),
        "{} of {count} are bad, for example {some:#?}",
        bad.len()
    );
    count
}

fn standbys(healths: &[Health], places: &[Place], roles: &[Membership]) -> Vec<Standby> {
    let mut all = Vec::new();
    for health in healths {
        // What is being copied is nowhere yet.
        let places = if *health == Health::Copying {
            &places[..1]
        } else {
            places
        };
        for place in places {
            all.extend(roles.iter().map(|role| Standby(*health, *place, *role)));
        }
    }
    all
}

/// Every choice of `number` standbys, in one order.
fn groups(all: &[Standby], number: usize) -> Vec<Vec<Standby>> {
    let mut groups = vec![(0, Vec::new())];
    for _ in 0..number {
        let mut longer = Vec::new();
        for (from, group) in &groups {
            for (index, standby) in all.iter().enumerate().skip(*from) {
                let mut group: Vec<Standby> = group.clone();
                group.push(*standby);
                longer.push((index, group));
            }
        }
        groups = longer;
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

const ALL_PRIMARIES: [Primary; 9] = [
    Primary::Good,
    Primary::Sick,
    Primary::Silent,
    Primary::Converging,
    Primary::Overdue,
    Primary::Released,
    Primary::Forced,
    Primary::Gone,
    Primary::Recovering,
];
const ALL_HEALTHS: [Health; 6] = [
    Health::Streams,
    Health::Apart,
    Health::Sick,
    Health::Silent,
    Health::Late,
    Health::Copying,
];
const ALL_PLACES: [Place; 8] = [
    Place::Level,
    Place::Behind,
    Place::FarBehind,
    Place::Unknown,
    Place::Earlier,
    Place::Overrun,
    Place::Later,
    Place::Elsewhere,
];
const ALL_MEMBERSHIPS: [Membership; 4] = [
    Membership::Out,
    Membership::Listed,
    Membership::JustConfirmed,
    Membership::Confirmed,
];

#[test]
fn asynchronous_clusters_of_up_to_three() {
    let all = standbys(&ALL_HEALTHS, &ALL_PLACES, &[Membership::Out]);
    let mut worlds = Vec::new();
    for number in 0..=2 {
        for group in groups(&all, number) {
            for primary in ALL_PRIMARIES {
                worlds.push(Small::asynchronous(primary, &group));
            }
        }
    }
    let count = all_good(worlds.into_iter());
    assert!(count > 7_000, "{count}");
}

#[test]
fn synchronous_clusters_of_up_to_three() {
    let all = standbys(
        &[
            Health::Streams,
            Health::Apart,
            Health::Silent,
            Health::Copying,
        ],
        &[Place::Level, Place::Behind, Place::Overrun],
        &ALL_MEMBERSHIPS,
    );
    let mut worlds = Vec::new();
    for number in 0..=2 {
        for group in groups(&all, number) {
            for primary in ALL_PRIMARIES {
                for members in [(0, 1), (1, 1), (1, 2), (2, 2)] {
                    worlds.push(Small::synchronous(members, primary, &group));
                }
            }
        }
    }
    let count = all_good(worlds.into_iter());
    assert!(count > 20_000, "{count}");
}

#[test]
fn synchronous_clusters_of_four_and_five() {
    let all = standbys(
        &[Health::Streams, Health::Silent],
        &[Place::Level, Place::Behind],
        &[Membership::Out, Membership::Listed, Membership::Confirmed],
    );
    let mut worlds = Vec::new();
    for number in 3..=4 {
        for group in groups(&all, number) {
            for primary in [Primary::Good, Primary::Silent] {
                for members in [(1, 1), (1, 2), (2, 3)] {
                    let mut world = Small::synchronous(members, primary, &group);
                    world.senders = 4;
                    worlds.push(world);
                }
            }
        }
    }
    let count = all_good(worlds.into_iter());
    assert!(count > 10_000, "{count}");
}

#[test]
fn changes_of_the_replication_mode_and_of_the_number_of_standbys() {
    let all = standbys(
        &[Health::Streams, Health::Silent, Health::Copying],
        &[Place::Level, Place::Overrun],
        &[Membership::Out, Membership::Confirmed],
    );
    let mut worlds = Vec::new();
    for number in 0..=3 {
        for group in groups(&all, number) {
            for primary in ALL_PRIMARIES {
                for (synchronous, in_force) in [(None, true), (Some((1, 1)), false)] {
                    for (senders, free_keepers) in [(1, 0), (3, 2)] {
                        worlds.push(Small {
                            synchronous,
                            in_force,
                            free_keepers,
                            senders,
                            ..Small::asynchronous(primary, &group)
                        });
                    }
                }
            }
        }
    }
    let count = all_good(worlds.into_iter());
    assert!(count > 4_000, "{count}");
}

#[test]
fn proxies_in_every_state() {
    let states = [
        ProxyState::Acknowledged,
        ProxyState::Behind,
        ProxyState::Dead,
        ProxyState::GoJustNow,
        ProxyState::GoLongAgo,
        ProxyState::Unheard,
    ];
    let standby = Standby(Health::Streams, Place::Level, Membership::Confirmed);
    let mut worlds = Vec::new();
    for first in states {
        for second in states {
            for route in [Route::Open, Route::Closed, Route::Astray] {
                for primary in ALL_PRIMARIES {
                    for synchronous in [None, Some((1, 1))] {
                        for recent_failovers in [0, 3] {
                            worlds.push(Small {
                                synchronous,
                                in_force: synchronous.is_some(),
                                proxies: vec![first, second],
                                route,
                                recent_failovers,
                                ..Small::asynchronous(primary, &[standby])
                            });
                        }
                    }
                }
            }
        }
    }
    let count = all_good(worlds.into_iter());
    assert!(count > 3_000, "{count}");
}

/// Keepers of a cluster that is being made: heard at this moment, a while ago, for too long not,
/// never; and whether they may run the primary.
#[test]
fn clusters_of_up_to_three_that_are_being_made() {
    let mut states = Vec::new();
    for (silent_for, heard) in [(0, true), (3500, true), (5000, true), (0, false)] {
        states.extend([true, false].map(|able| (Duration::from_millis(silent_for), heard, able)));
    }
    let mut bad = Vec::new();
    for first in 0..=states.len() {
        for second in 0..states.len() {
            for third in 0..states.len() {
                let mut world = Small::asynchronous(Primary::Gone, &[]);
                world.free_keepers = 2;
                world.route = Route::Closed;
                let (mut data, mut view) = build(&world, &NAMED);
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.status.phase = Some(Phase::Initializing);
                cluster.status.master = None;
                for (number, state) in [first, second, third].into_iter().enumerate() {
                    let uid = (NAMED.keeper)(number);
                    let Some((silent_for, heard, able)) = states.get(state).copied() else {
                        data.keepers.remove(&uid);
                        view.keepers.remove(&uid);
                        continue;
                    };
                    let seen = view.keepers.get_mut(&uid).expect("a keeper");
                    seen.silent_for = silent_for;
                    let info = seen.info.as_mut().expect("heard");
                    info.can_be_master = Some(able);
                    seen.info = seen.info.take().filter(|_| heard);
                }
                let settled = settle(&data, &view, |data, view| decide(data, view).next);
                let made = decide(&data, &view).next.dbs.len();
                let fresh = |state: &usize| states.get(*state) == Some(&states[0]);
                let any = [first, second, third].iter().any(fresh);
                if settled.is_err() || made != usize::from(any) {
                    bad.push(format!(
                        "{first} {second} {third}: {made} made, {settled:?}"
                    ));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{} are bad: {:#?}", bad.len(), bad.first());
}

/// Every list of a document the other way round.
fn turned(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.proxy.spec.enabled_proxies.reverse();
    for db in data.dbs.values_mut() {
        let lists = [
            &mut db.spec.followers,
            &mut db.spec.synchronous_standbys,
            &mut db.status.synchronous_standbys,
        ];
        for list in lists.into_iter().filter_map(|list| list.0.as_mut()) {
            list.reverse();
        }
    }
    data
}

fn sorted(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.proxy.spec.enabled_proxies.sort();
    for db in data.dbs.values_mut() {
        let lists = [
            &mut db.spec.followers,
            &mut db.spec.synchronous_standbys,
            &mut db.status.synchronous_standbys,
        ];
        for list in lists.into_iter().filter_map(|list| list.0.as_mut()) {
            list.sort();
        }
    }
    data
}

/// Sorts behind every generated name, as [`RENAMED`] does: both have one order.
const NAMED: Names = Names {
    keeper: |number| KeeperUid::new(format!("xk{number}")),
    db: |number| DbUid::new(format!("xdb{number}")),
};
const RENAMED: Names = Names {
    keeper: |number| KeeperUid::new(format!("zz-k{number}")),
    db: |number| DbUid::new(format!("zz-db{number}")),
};

#[test]
fn neither_names_nor_the_order_of_lists_matter() {
    let asynchronous = standbys(&ALL_HEALTHS, &ALL_PLACES, &[Membership::Out]);
    let synchronous = standbys(
        &[Health::Streams, Health::Silent],
        &[Place::Level, Place::Behind],
        &ALL_MEMBERSHIPS,
    );
    let mut worlds = Vec::new();
    for (index, primary) in ALL_PRIMARIES.into_iter().enumerate() {
        for group in groups(&asynchronous, 2).iter().skip(index).step_by(11) {
            worlds.push(Small::asynchronous(primary, group));
        }
        for group in groups(&synchronous, 3).iter().skip(index).step_by(7) {
            worlds.push(Small {
                proxies: vec![ProxyState::Acknowledged, ProxyState::GoLongAgo],
                free_keepers: 1,
                ..Small::synchronous((1, 2), primary, group)
            });
        }
    }
    for world in worlds {
        let (data, view) = build(&world, &NAMED);
        let next = decide(&data, &view).next;
        let other_way = decide(&turned(&data), &view).next;
        assert_eq!(sorted(&other_way), sorted(&next), "turned: {world:?}");

        let (data, view) = build(&world, &RENAMED);
        let text = |data: &ClusterData| {
            String::from_utf8(wire::write(data).expect("written")).expect("a text")
        };
        let renamed = text(&next)
            .replace("\"xk", "\"zz-k")
            .replace("\"xdb", "\"zz-db");
        assert_eq!(
            text(&decide(&data, &view).next),
            renamed,
            "renamed: {world:?}"
        );
    }
}
