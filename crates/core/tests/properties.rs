//! What holds in every walk of legal steps: of faults, repairs, and an operator's meddling.
//!
//! `PROPTEST_CASES=5000 cargo test -p stolon-core --test properties` walks longer.

#[path = "support/renaming.rs"]
mod renaming;
#[path = "support/twins.rs"]
mod twins;
#[path = "support/walk.rs"]
mod walk;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "shared with the stories, which use other parts")]
mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::Config;
use stolon_core::invariants::settle;
use stolon_core::model::wire;
use stolon_core::sentinel::decide::decide;
use walk::{Happening, begun, happen, happenings, heal, spec};
use world::World;

/// Walks unless `PROPTEST_CASES` says otherwise: as many as a debug build does in some 15 seconds.
fn walks(number: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES");
    Config {
        cases: cases.ok().and_then(|n| n.parse().ok()).unwrap_or(number),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

fn walked(world: &mut World, happenings: &[Happening]) {
    for happening in happenings {
        happen(world, happening);
    }
}

fn begins_with() -> impl Strategy<Value = (bool, u16, u16)> {
    (any::<bool>(), 0_u16..3, 0_u16..3).prop_map(|(on, least, more)| (on, least, least + more))
}

proptest! {
    #![proptest_config(walks(40))]

    #[test]
    fn every_decision_of_a_walk_is_a_good_one(
        (on, least, most) in begins_with(),
        happenings in happenings(true),
    ) {
        let mut world = begun(spec(on, least, most), "k");
        walked(&mut world, &happenings);
        let violations = world.violations();
        prop_assert!(violations.is_empty(), "{violations:#?}");
        for step in &world.steps {
            let settled = settle(&step.before, &step.view, |data, view| decide(data, view).next);
            prop_assert!(settled.is_ok(), "{settled:#?}");
            let differ = twins::disagreements(&step.before, &step.view, &step.after);
            prop_assert!(differ.is_empty(), "{differ:#?}");
            let told_otherwise = renaming::difference(&step.before, &step.view);
            prop_assert!(told_otherwise.is_none(), "{}", told_otherwise.unwrap_or_default());
            let bytes = wire::write(&step.after).expect("written");
            let read = wire::read_cluster_data(&bytes).expect("read");
            prop_assert_eq!(read.as_ref(), Some(&step.after));
        }
    }

    #[test]
    fn a_cluster_that_heals_serves_again(
        (on, least, most) in begins_with(),
        happenings in happenings(false),
    ) {
        let mut world = begun(spec(on, least, most), "k");
        walked(&mut world, &happenings);
        heal(&mut world);
        // Past the window of the failover limit (I10), and a few rounds.
        world.pass_in_steps(Duration::from_mins(11), Duration::from_secs(1));
        let violations = world.violations();
        prop_assert!(violations.is_empty(), "{violations:#?}");
        let state = world.describe();
        prop_assert!(serves(&world), "{state}");
    }

    #[test]
    fn no_acknowledged_commit_is_lost(
        most in 1_u16..4,
        happenings in happenings(false),
    ) {
        let mut world = begun(spec(true, 1, most), "k");
        for happening in &happenings {
            happen(&mut world, happening);
            world.write_wal(100);
            let acknowledged = world.acknowledged;
            if let Some(primary) = world.running_primary() {
                prop_assert!(
                    primary.lsn >= acknowledged,
                    "the primary {} has {} and {acknowledged} was acknowledged",
                    primary.db,
                    primary.lsn
                );
            }
        }
    }
}

#[test]
fn walks_reach_elections_changed_sets_and_deletions() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut elections, mut sets, mut deletions, mut openings) = (0, 0, 0, 0);
    for walk in 0..50_u16 {
        let tree = happenings(true).new_tree(&mut runner).expect("a walk");
        let mut world = begun(spec(walk % 2 == 0, 1, 1 + walk % 3), "k");
        walked(&mut world, &tree.current());
        for step in &world.steps {
            let (before, after) = (&step.before, &step.after);
            let (old, new) = (before.primary(), after.primary());
            let (Some(old), Some(new)) = (old, new) else {
                continue;
            };
            elections += u32::from(old.uid != new.uid);
            let set = |db: &stolon_core::model::Db| db.spec.synchronous_standbys.clone();
            sets += u32::from(old.uid == new.uid && !set(old).same_set(&set(new)));
            deletions += u32::from(before.dbs.keys().any(|uid| !after.dbs.contains_key(uid)));
            let open =
                |data: &stolon_core::model::ClusterData| !data.proxy.spec.primary_db_uid.is_empty();
            openings += u32::from(!open(before) && open(after));
        }
    }
    let reached = [elections, sets, deletions, openings];
    assert!(
        reached.iter().all(|times| *times >= 15),
        "too tame: {reached:?}"
    );
}

/// Whether there is one primary, reachable, with its synchronous set, and all others follow it.
fn serves(world: &World) -> bool {
    let data = world.data();
    let Some(primary) = data.primary() else {
        return false;
    };
    let spec = data.cluster.as_ref().and_then(|c| c.spec.clone());
    let spec = spec.expect("a spec").effective();
    let members = primary.spec.synchronous_standbys.len();
    let least = usize::from(spec.min_synchronous_standbys);
    let most = usize::from(spec.max_synchronous_standbys);
    let confirmed = &primary.status.synchronous_standbys;
    let synchronous = !spec.synchronous_replication
        || (least <= members
            && members <= most
            && primary.spec.external_synchronous_standbys.is_empty()
            && primary
                .spec
                .synchronous_standbys
                .iter()
                .all(|uid| confirmed.contains(uid)));
    let all_good = data
        .dbs
        .values()
        .all(|db| db.status.healthy && db.status.current_generation == db.generation);
    let reachable = data.proxy.spec.primary_db_uid == primary.uid;
    let enabled = data.proxy.spec.enabled_proxies.len() == world.proxies.len();
    synchronous && all_good && reachable && enabled && data.dbs.len() == world.keepers.len()
}
