//! All small worlds: every cluster of a few members in every combination of states. Each is
//! decided once; the decision keeps the invariants and is the one that the plain twins make. Most
//! are decided on, with every decision judged likewise, until nothing changes any more.
//!
//! # What is enumerated
//!
//! A standby is up or down, at one of three positions (level with the primary, behind it as far as
//! maxStandbyLag allows, behind it beyond that), on the primary's timeline or on a fork of it: 12 states.
//! In a synchronous cluster it is, besides, not in the set, in it, or confirmed there: 36 states.
//!
//! | Worlds | Standbys | Each in | Primary | Members (minimum, maximum) | | Number |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | asynchronous | 0 to 4 | 12 states | 9 kinds | none | to rest | 16,380 |
//! | synchronous | 0 to 3 | 36 states | up | all with a maximum of 1 to 3 | to rest | 82,251 |
//! | synchronous | 0 to 3 | 36 states | down | (0, 1), (1, 1), (2, 2), (3, 3) | to rest | 36,556 |
//! | synchronous | 4 | 36 states | up | (1, 2), (2, 3) | one decision | 164,502 |
//! | synchronous | 4 | 36 states | down | (1, 2) | one decision | 82,251 |
//! | turned on | 0 to 4 | 12 states | up, down | (1, 1) | to rest | 3,640 |
//! | turned off | 0 to 3 | 36 states | up, down | (1, 1) | to rest | 18,278 |
//!
//! With the primary down the maximum decides nothing: it is a matter of sets that change.
//!
//! Standbys have no order: of the ways to name the same ones only one is enumerated, a different one
//! each time. `small_worlds/names.rs` shows that names decide between equals and nothing else.
//!
//! Finer worlds of fewer members follow: every kind of ill health and of history, two proxies in every
//! state, changes of the mode and of the number of standbys with free keepers, clusters that are
//! being made. Every test says how many worlds there are, so that none goes missing.

#[path = "small_worlds/beginnings.rs"]
mod beginnings;
#[path = "small_worlds/names.rs"]
mod names;
#[path = "support/renaming.rs"]
mod renaming;
#[path = "support/small.rs"]
#[allow(dead_code, reason = "shared with the proofs, which use other parts")]
mod small;
#[path = "small_worlds/told.rs"]
mod told;
#[path = "support/twins.rs"]
mod twins;

use std::cell::{Cell, RefCell};

use small::{Health, Membership, Place, Primary, ProxyState, Route, Small, Standby, build};
use stolon_core::invariants::{Step, check, settle};
use stolon_core::model::ClusterData;
use stolon_core::sentinel::decide::decide;
use stolon_core::sentinel::observe::View;

/// Of the worlds that are decided badly a thread tells so many.
const MOST_TOLD: usize = 3;

/// How far a world is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// One decision.
    Decided,
    /// As many as change something.
    Rest,
}

/// Judges the worlds made of every group, on all processors, and tells of the first few that are
/// decided badly. Returns how many worlds there are.
fn all_good(
    groups: &[Vec<Standby>],
    until: Until,
    worlds: impl Fn(&[Standby]) -> Vec<Small> + Sync,
) -> usize {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let judge_share = |from: usize| {
        let (mut count, mut bad, mut some) = (0, 0, Vec::new());
        for (number, group) in groups.iter().enumerate().skip(from).step_by(threads) {
            let mut group = group.clone();
            let by = number % group.len().max(1);
            group.rotate_left(by);
            for world in worlds(&group) {
                count += 1;
                let wrong = judge(&world, until);
                bad += usize::from(!wrong.is_empty());
                if !wrong.is_empty() && some.len() < MOST_TOLD {
                    some.push(format!("{world:?}\n  {}", wrong.join("\n  ")));
                }
            }
        }
        (count, bad, some)
    };
    let (mut count, mut bad, mut some) = (0, 0, Vec::new());
    std::thread::scope(|scope| {
        let shares = (0..threads).map(|from| scope.spawn(move || judge_share(from)));
        for share in shares.collect::<Vec<_>>() {
            let (worlds, wrong, told) = share.join().expect("a share");
            count += worlds;
            bad += wrong;
            some.extend(told);
        }
    });
    assert!(bad == 0, "{bad} of {count} are bad, as {some:#?}");
    count
}

/// All that is wrong with what is decided in a world.
fn judge(world: &Small, until: Until) -> Vec<String> {
    let (before, view) = build(world);
    let found = RefCell::new(Vec::new());
    let first = Cell::new(true);
    let next = |data: &ClusterData, view: &View| {
        let next = decide(data, view).next;
        let differs_from_told = first.take().then(|| told::difference(world, &next));
        let mut found = found.borrow_mut();
        found.extend(differs_from_told.flatten());
        found.extend(twins::disagreements(data, view, &next));
        next
    };
    let violations = match until {
        Until::Decided => check(Step {
            before: &before,
            view: &view,
            after: &next(&before, &view),
        }),
        Until::Rest => settle(&before, &view, next).err().unwrap_or_default(),
    };
    let broken = violations.iter().map(ToString::to_string);
    found.take().into_iter().chain(broken).collect()
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

/// Every choice of so many standbys, in one order.
fn groups(all: &[Standby], numbers: std::ops::RangeInclusive<usize>) -> Vec<Vec<Standby>> {
    let mut chosen = Vec::new();
    let mut groups = vec![(0, Vec::new())];
    for number in 0..=*numbers.end() {
        if numbers.contains(&number) {
            chosen.extend(groups.iter().map(|(_, group)| group.clone()));
        }
        let longer = groups.iter().flat_map(|(from, group)| {
            all.iter().enumerate().skip(*from).map(move |(index, one)| {
                let mut group: Vec<Standby> = group.clone();
                group.push(*one);
                (index, group)
            })
        });
        groups = longer.collect();
    }
    chosen
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
const ALL_PLACES: [Place; 12] = [
    Place::Level,
    Place::Behind,
    Place::FarBehind,
    Place::Unknown,
    Place::Earlier,
    Place::Overrun,
    Place::Half,
    Place::HalfForLong,
    Place::Later,
    Place::Elsewhere,
    Place::ElsewhereBehind,
    Place::ElsewhereFarBehind,
];
const ALL_MEMBERSHIPS: [Membership; 4] = [
    Membership::Out,
    Membership::Listed,
    Membership::JustConfirmed,
    Membership::Confirmed,
];

/// Up or down.
const UP_OR_DOWN: [Health; 2] = [Health::Streams, Health::Silent];
/// Three positions, on the primary's timeline and on a fork of it.
const SAME_OR_FORKED: [Place; 6] = [
    Place::Level,
    Place::Behind,
    Place::FarBehind,
    Place::Elsewhere,
    Place::ElsewhereBehind,
    Place::ElsewhereFarBehind,
];
/// Not in the synchronous set, in it, and confirmed there.
const IN_THE_SET_OR_NOT: [Membership; 3] =
    [Membership::Out, Membership::Listed, Membership::Confirmed];
const PRIMARY_UP_OR_DOWN: [Primary; 2] = [Primary::Good, Primary::Silent];

/// The 12 states of a standby that no commit waits for.
fn free_states() -> Vec<Standby> {
    standbys(&UP_OR_DOWN, &SAME_OR_FORKED, &[Membership::Out])
}

/// The 36 states of a standby of a synchronous cluster.
fn member_states() -> Vec<Standby> {
    standbys(&UP_OR_DOWN, &SAME_OR_FORKED, &IN_THE_SET_OR_NOT)
}

#[test]
fn asynchronous_with_up_to_four_standbys() {
    let groups = groups(&free_states(), 0..=4);
    assert_eq!(groups.len(), 1820);
    let count = all_good(&groups, Until::Rest, |group| {
        let world = |primary| Small::asynchronous(primary, group);
        ALL_PRIMARIES.map(world).to_vec()
    });
    assert_eq!(count, 1820 * 9);
}

#[test]
fn synchronous_with_up_to_three_standbys() {
    let groups = groups(&member_states(), 0..=3);
    assert_eq!(groups.len(), 9139);
    let count = all_good(&groups, Until::Rest, |group| {
        let mut worlds = Vec::new();
        for most in 1..=3 {
            let up = |least| Small::synchronous((least, most), Primary::Good, group);
            worlds.extend((0..=most).map(up));
        }
        let down = |members| Small::synchronous(members, Primary::Silent, group);
        worlds.extend([(0, 1), (1, 1), (2, 2), (3, 3)].map(down));
        worlds
    });
    assert_eq!(count, 9139 * (9 + 4));
}

#[test]
fn synchronous_with_four_standbys() {
    let groups = groups(&member_states(), 4..=4);
    assert_eq!(groups.len(), 82_251);
    let count = all_good(&groups, Until::Decided, |group| {
        vec![
            Small::synchronous((1, 2), Primary::Good, group),
            Small::synchronous((2, 3), Primary::Good, group),
            Small::synchronous((1, 2), Primary::Silent, group),
        ]
    });
    assert_eq!(count, 82_251 * 3);
}

#[test]
fn synchronous_replication_being_turned_on_and_off() {
    let free = groups(&free_states(), 0..=4);
    let on = all_good(&free, Until::Rest, |group| {
        let world = |primary| Small {
            synchronous: Some((1, 1)),
            ..Small::asynchronous(primary, group)
        };
        PRIMARY_UP_OR_DOWN.map(world).to_vec()
    });
    let members = groups(&member_states(), 0..=3);
    let off = all_good(&members, Until::Rest, |group| {
        let world = |primary| Small {
            in_force: true,
            ..Small::asynchronous(primary, group)
        };
        PRIMARY_UP_OR_DOWN.map(world).to_vec()
    });
    assert_eq!((on, off), (1820 * 2, 9139 * 2));
}

#[test]
fn asynchronous_with_two_standbys_in_every_health_and_history() {
    let all = standbys(&ALL_HEALTHS, &ALL_PLACES, &[Membership::Out]);
    let groups = groups(&all, 0..=2);
    let count = all_good(&groups, Until::Rest, |group| {
        let world = |primary| Small::asynchronous(primary, group);
        ALL_PRIMARIES.map(world).to_vec()
    });
    assert_eq!(count, 1953 * 9);
}

#[test]
fn synchronous_with_two_standbys_in_every_membership() {
    let healths = [
        Health::Streams,
        Health::Apart,
        Health::Silent,
        Health::Copying,
    ];
    let places = [Place::Level, Place::Behind, Place::Overrun];
    let all = standbys(&healths, &places, &ALL_MEMBERSHIPS);
    let groups = groups(&all, 0..=2);
    let count = all_good(&groups, Until::Rest, |group| {
        let mut worlds = Vec::new();
        for members in [(0, 1), (1, 1), (1, 2), (2, 2)] {
            let world = |primary| Small::synchronous(members, primary, group);
            worlds.extend(ALL_PRIMARIES.map(world));
        }
        worlds
    });
    assert_eq!(count, 861 * 4 * 9);
}

#[test]
fn changes_of_the_replication_mode_and_of_the_number_of_standbys() {
    let all = standbys(
        &[Health::Streams, Health::Silent, Health::Copying],
        &[Place::Level, Place::Overrun],
        &[Membership::Out, Membership::Confirmed],
    );
    let groups = groups(&all, 0..=3);
    let count = all_good(&groups, Until::Rest, |group| {
        let mut worlds = Vec::new();
        for (synchronous, in_force) in [(None, true), (Some((1, 1)), false)] {
            for (senders, free_keepers) in [(1, 0), (3, 2)] {
                worlds.extend(ALL_PRIMARIES.map(|primary| Small {
                    synchronous,
                    in_force,
                    free_keepers,
                    senders,
                    ..Small::asynchronous(primary, group)
                }));
            }
        }
        worlds
    });
    assert_eq!(count, 286 * 2 * 2 * 9);
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
        ProxyState::Reads,
        ProxyState::ReadsBehind,
        ProxyState::ReadsDead,
    ];
    let pairs = states.map(|first| states.map(|second| vec![first, second]));
    let standby = Standby(Health::Streams, Place::Level, Membership::Confirmed);
    let count = all_good(&[vec![standby; 2]], Until::Rest, |group| {
        let mut worlds = Vec::new();
        for proxies in pairs.as_flattened() {
            for route in [Route::Open, Route::Closed, Route::Astray] {
                for synchronous in [None, Some((1, 1))] {
                    for recent_failovers in [0, 3] {
                        for successor in [None, Some(1), Some(2)] {
                            worlds.extend(ALL_PRIMARIES.map(|primary| Small {
                                synchronous,
                                in_force: synchronous.is_some(),
                                proxies: proxies.clone(),
                                route,
                                recent_failovers,
                                successor,
                                ..Small::asynchronous(primary, group)
                            }));
                        }
                    }
                }
            }
        }
        worlds
    });
    assert_eq!(count, 81 * 3 * 2 * 2 * 3 * 9);
}
