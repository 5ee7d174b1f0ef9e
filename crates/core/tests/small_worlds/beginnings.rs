//! Clusters that are being made.

use std::time::Duration;

use stolon_core::invariants::settle;
use stolon_core::model::Phase;
use stolon_core::sentinel::decide::decide;

use crate::small::{Primary, Route, Small, build, keeper_uid};

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
                let numbers = [first, second, third];
                let chosen = numbers.map(|number| states.get(number).copied());
                if let Some(why) = begins_badly(chosen, states[0]) {
                    bad.push(format!("{numbers:?}: {why}"));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{} are bad: {:#?}", bad.len(), bad.first());
}

/// Since when a keeper is silent, whether it was heard, whether it may run the primary.
type State = (Duration, bool, bool);

/// A keeper in `wanted` is to make the first db, and nobody else.
fn begins_badly(keepers: [Option<State>; 3], wanted: State) -> Option<String> {
    let mut world = Small::asynchronous(Primary::Gone, &[]);
    world.free_keepers = 2;
    world.route = Route::Closed;
    let (mut data, mut view) = build(&world);
    let cluster = data.cluster.as_mut().expect("a cluster");
    cluster.status.phase = Some(Phase::Initializing);
    cluster.status.master = None;
    for (number, state) in keepers.into_iter().enumerate() {
        let uid = keeper_uid(number);
        let Some((silent_for, heard, able)) = state else {
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
    let able = keepers.contains(&Some(wanted));
    (settled.is_err() || made != usize::from(able)).then(|| format!("{made} made, {settled:?}"))
}
