//! Names, and the order of lists, decide between equals and nothing else. So it is enough to
//! enumerate every group of standbys under one way to name them.

use std::collections::BTreeMap;

use stolon_core::model::{ClusterData, DbUid};
use stolon_core::sentinel::decide::decide;

use crate::renaming::difference;
use crate::small::{Health, Membership, Place, ProxyState, Small, Standby, build, db_uid};
use crate::{
    ALL_HEALTHS, ALL_MEMBERSHIPS, ALL_PLACES, ALL_PRIMARIES, PRIMARY_UP_OR_DOWN, Until,
    free_states, groups, judge, member_states, standbys,
};

#[test]
fn neither_names_nor_the_order_of_lists_matter() {
    let asynchronous = standbys(&ALL_HEALTHS, &ALL_PLACES, &[Membership::Out]);
    let synchronous = standbys(
        &[Health::Streams, Health::Silent],
        &[Place::Level, Place::Behind],
        &ALL_MEMBERSHIPS,
    );
    let (twos, threes) = (groups(&asynchronous, 2..=2), groups(&synchronous, 3..=3));
    let mut worlds = Vec::new();
    for (index, primary) in ALL_PRIMARIES.into_iter().enumerate() {
        for group in twos.iter().skip(index).step_by(11) {
            worlds.push(Small::asynchronous(primary, group));
        }
        for group in threes.iter().skip(index).step_by(7) {
            worlds.push(Small {
                proxies: vec![ProxyState::Acknowledged, ProxyState::GoLongAgo],
                free_keepers: 1,
                ..Small::synchronous((1, 2), primary, group)
            });
        }
    }
    assert!(worlds.len() > 2000, "{}", worlds.len());
    for world in worlds {
        let (data, view) = build(&world);
        let difference = difference(&data, &view);
        assert!(difference.is_none(), "{world:?}\n{}", difference.unwrap());
    }
}

#[test]
fn who_bears_which_name_decides_between_equals_only() {
    let (free, members) = (
        groups(&free_states(), 4..=4),
        groups(&member_states(), 4..=4),
    );
    let mut worlds = Vec::new();
    for primary in PRIMARY_UP_OR_DOWN {
        let some = free.iter().step_by(17);
        worlds.extend(some.map(|group| Small::asynchronous(primary, group)));
        let some = members.iter().skip(3).step_by(211);
        worlds.extend(some.map(|group| Small::synchronous((1, 2), primary, group)));
    }
    assert!(worlds.len() > 900, "{}", worlds.len());
    for world in worlds {
        let expected = outcome(&world);
        for order in orders(world.standbys.len()) {
            let otherwise = Small {
                standbys: order.iter().map(|index| world.standbys[*index]).collect(),
                ..world.clone()
            };
            assert_eq!(outcome(&otherwise), expected, "{world:?} as {otherwise:?}");
            assert_eq!(judge(&otherwise, Until::Rest), [""; 0], "{otherwise:?}");
        }
    }
}

/// What was decided, without names. Of each kind, what makes two standbys equal is all that is told.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// The primary's successor: its position and timeline.
    winner: Option<Place>,
    /// The synchronous set: members count for what they are to it, newcomers for how far they are.
    set: Vec<(Membership, Option<Place>)>,
    /// The standbys given up: whether they are good.
    deleted: Vec<bool>,
    /// What each keeper without a db is given, and where proxies forward to.
    created: usize,
    open: bool,
}

fn outcome(world: &Small) -> Outcome {
    let (before, view) = build(world);
    let after = decide(&before, &view).next;
    let bearers = (1..).map(db_uid).zip(&world.standbys);
    let bearers: BTreeMap<DbUid, &Standby> = bearers.collect();
    let master = after.cluster.as_ref().and_then(|c| c.status.master.clone());
    let winner = master.and_then(|uid| Some(bearers.get(&uid)?.1));
    let listed = |data: &ClusterData| {
        data.primary()
            .map(|db| db.spec.synchronous_standbys.clone())
    };
    let list = listed(&after).unwrap_or_default();
    let place = |standby: &Standby| (standby.2 == Membership::Out).then_some(standby.1);
    let mut set: Vec<_> = list
        .iter()
        .map(|uid| (bearers[uid].2, place(bearers[uid])))
        .collect();
    let gone = bearers
        .iter()
        .filter(|(uid, _)| !after.dbs.contains_key(*uid));
    let mut deleted: Vec<bool> = gone.map(|(_, it)| it.0 == Health::Streams).collect();
    set.sort_by_key(|member| format!("{member:?}"));
    deleted.sort_unstable();
    let new = after
        .dbs
        .keys()
        .filter(|uid| !before.dbs.contains_key(*uid));
    Outcome {
        winner,
        set,
        deleted,
        created: new.count(),
        open: !after.proxy.spec.primary_db_uid.is_empty(),
    }
}

/// Every order of so many things.
fn orders(number: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for next in 0..number {
        let places = |order: &Vec<usize>| {
            let order = order.clone();
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, next);
                order
            })
        };
        orders = orders.iter().flat_map(places).collect();
    }
    orders
}
