//! A keeper is killed after each change of the world that its steps make, alone, with its
//! postmaster, and with its machine: it always comes to what the document says. What must hold on
//! the way is checked by the world after each change.

#[path = "keeper/script.rs"]
mod script;
#[path = "keeper/world.rs"]
#[allow(dead_code, reason = "shared with the stories")]
mod world;

use std::time::Duration;

use proptest::prelude::*;
use stolon_core::keeper::facts::Content;
use world::{Death, World};

/// Nothing takes longer to come to rest.
const MOST: Duration = Duration::from_mins(5);

/// What a keeper is brought to do, as commands; each ends at rest.
const COURSES: [(&str, &[&str]); 23] = [
    (
        "restart a primary that an operator wants restarted",
        &[
            "disk d1 1000",
            "master d1",
            "doc d1 role=master init=none",
            "ask restart k1",
        ],
    ),
    (
        "copy what could follow, since an operator wants a copy",
        &[
            "disk d1 2000",
            "ask resync k1",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "copy the source of a standby cluster whose data are gone",
        &["master d1", "doc d1 role=standby outside=o init=none"],
    ),
    (
        "start a primary",
        &["disk d1 1000", "master d1", "doc d1 role=master init=none"],
    ),
    (
        "initialise",
        &[
            "master d1",
            "doc d1 role=master init=new param=work_mem:4MB",
        ],
    ),
    (
        "initialise in place of other data",
        &["disk d0 1000", "master d1", "doc d1 role=master init=new"],
    ),
    (
        "copy in place of other data",
        &[
            "disk d1 4000 dirty",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "copy without room for two",
        &[
            "disk d1 4000 dirty",
            "fault room on",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "rewind what left the primary's history",
        &[
            "disk d1 4000",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2 rewind=on",
        ],
    ),
    (
        "rewind what was killed, and fail",
        &[
            "disk d1 4000 dirty",
            "fault rewind on",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2 rewind=on",
        ],
    ),
    (
        "copy to an empty disk",
        &[
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "take over a clean prefix",
        &[
            "disk d1 2000",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "take over the Go program's data",
        &[
            "disk d1 2000 go",
            "them followers=d3",
            "master d2",
            "doc d3 role=standby init=resync follow=d2",
        ],
    ),
    (
        "promote a standby",
        &[
            "disk d1 1000 standby",
            "master d1",
            "doc d1 role=master init=none followers=d2",
        ],
    ),
    (
        "take over a lost cluster's data",
        &[
            "disk d0 2000 dirty",
            "master d1",
            "doc d1 role=master init=existing",
        ],
    ),
    (
        "take over a lost cluster's standby",
        &[
            "disk d0 2000 standby",
            "master d1",
            "doc d1 role=master init=existing",
        ],
    ),
    (
        "take over data made by hand",
        &[
            "disk d0 2000 hand bare",
            "master d1",
            "doc d1 role=master init=existing param=work_mem:4MB",
        ],
    ),
    (
        "restore a backup and recover",
        &[
            "master d1",
            "doc d1 role=master init=pitr command=x target=t",
        ],
    ),
    (
        "restore a backup in place of other data",
        &[
            "disk d0 2000",
            "master d1",
            "doc d1 role=master init=pitr command=x param=work_mem:4MB",
        ],
    ),
    (
        "restore a standby of a server outside",
        &[
            "master d1",
            "doc d1 role=standby outside=o init=pitr command=x followers=d2",
        ],
    ),
    (
        "take a standby of a server outside over",
        &[
            "disk d0 2000",
            "master d1",
            "doc d1 role=standby outside=o init=existing",
        ],
    ),
    (
        "promote the standby of a server outside",
        &[
            "disk d1 1000 standby",
            "master d1",
            "doc d1 role=standby outside=o init=none followers=d2",
            "doc d1 role=master",
        ],
    ),
    (
        "run a synchronous primary",
        &[
            "disk d1 1000",
            "peer d2 0",
            "master d1",
            "doc d1 role=master init=none sync=d2 followers=d2",
        ],
    ),
];

fn begin(course: &[&str]) -> World {
    let mut world = World::new();
    for line in course {
        script::change(&mut world, &line.split_whitespace().collect::<Vec<_>>());
    }
    world.start_keeper();
    world
}

#[test]
fn killed_after_every_change_it_comes_to_the_same_end() {
    for (name, course) in COURSES {
        let mut undisturbed = begin(course);
        undisturbed.settle(MOST);
        let end = undisturbed.describe();
        assert!(undisturbed.server.is_some(), "{name}: {end}");
        for death in [
            Death::Keeper,
            Death::Postmaster,
            Death::Both,
            Death::Machine,
        ] {
            for at in 1..=undisturbed.acts {
                let mut world = begin(course);
                world.death = Some((at, death));
                world.settle(MOST);
                let log = world.log.join("\n");
                assert_eq!(world.describe(), end, "{name}, {death:?} {at}\n{log}");
            }
        }
    }
}

#[test]
fn killed_twice_it_comes_to_the_same_end() {
    for (name, course) in COURSES {
        let mut undisturbed = begin(course);
        undisturbed.settle(MOST);
        let end = undisturbed.describe();
        for first in 1..=undisturbed.acts {
            for second in 1..=3 {
                let mut world = begin(course);
                world.death = Some((first, Death::Both));
                while world.death.is_some() {
                    world.pass(Duration::from_millis(50));
                }
                world.death = Some((world.acts + second, Death::Keeper));
                world.settle(MOST);
                let log = world.log.join("\n");
                assert_eq!(world.describe(), end, "{name}, {first} {second}\n{log}");
            }
        }
    }
}

/// What happens to a keeper in a random life.
#[derive(Debug, Clone)]
enum Happening {
    Pass(u64),
    Die(Death),
    DieAfter(usize, Death),
    Change(String),
}

fn happening() -> impl Strategy<Value = Happening> {
    let death = prop_oneof![
        Just(Death::Keeper),
        Just(Death::Postmaster),
        Just(Death::Both),
        Just(Death::Machine),
    ];
    let changes = prop_oneof![
        Just("master d2".to_owned()),
        Just("none".to_owned()),
        Just("no-document".to_owned()),
        Just("set restart=on".to_owned()),
        Just("set restart=off".to_owned()),
        (1..9_u32).prop_map(|db| format!("master d{db}")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=master init=new")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=master init=existing")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=master init=pitr command=x")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=standby init=resync follow=d2")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=standby init=resync follow=d2 rewind=on")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=master init=none sync=d2 followers=d2")),
        (3..9_u32).prop_map(|db| format!("doc d{db} role=standby init=none follow=d2")),
        (3..9_u32).prop_map(|db| format!("them followers=d{db}")),
        (3..9_u32).prop_map(|db| format!("them followers=d{db} behind=1 healthy=no")),
        (1..4_u32).prop_map(|size| format!("doc d3 param=max_connections:{size}00")),
        (0..2_u64).prop_map(|behind| format!("peer d2 {behind}00")),
        proptest::sample::select(vec![
            "ask restart k1".to_owned(),
            "ask reload k1".to_owned(),
            "ask resync k1".to_owned(),
            "forget".to_owned(),
        ]),
        (1..6_u64).prop_map(|revisions| format!("restore {revisions}")),
        (1..6_u64).prop_map(|revisions| format!("write-back {revisions}")),
    ];
    let faults = [
        "store",
        "start",
        "copy",
        "restore",
        "room",
        "rewind",
        "rewind-refused",
        "silent",
        "saturated",
        "unadmitted",
        "slots",
    ];
    let fault = (proptest::sample::select(faults.to_vec()), any::<bool>())
        .prop_map(|(name, on)| format!("fault {name} {}", if on { "on" } else { "off" }));
    prop_oneof![
        4 => (1..3000_u64).prop_map(Happening::Pass),
        1 => death.clone().prop_map(Happening::Die),
        2 => (1..12_usize, death).prop_map(|(acts, death)| Happening::DieAfter(acts, death)),
        4 => changes.prop_map(Happening::Change),
        2 => fault.prop_map(Happening::Change),
    ]
}

fn change(world: &mut World, line: &str) {
    script::change(world, &line.split_whitespace().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: never a panic, never two steps at a time, never the same step without a
    /// pause, never a broken promise of the world; and once all is mended, what the document says.
    #[test]
    fn through_any_life_it_keeps_its_promises(
        life in prop::collection::vec(happening(), 1..40),
        has_data in any::<bool>(),
    ) {
        let mut world = World::new();
        if has_data {
            change(&mut world, "disk d3 1000");
            change(&mut world, "doc d3 role=master init=none");
            change(&mut world, "master d3");
        }
        world.start_keeper();
        for happening in life {
            match happening {
                Happening::Pass(time) => world.pass(Duration::from_millis(time)),
                Happening::Die(death) => world.die(death),
                Happening::DieAfter(acts, death) => {
                    world.death = Some((world.acts + acts, death));
                }
                Happening::Change(line) => change(&mut world, &line),
            }
        }
        world.death = None;
        world.faults = world::Faults::default();
        for line in ["forget", "them followers=d99", "master d2", "doc d99 role=standby init=resync follow=d2"] {
            change(&mut world, line);
        }
        world.settle(MOST);
        let log = world.log.join("\n");
        prop_assert!(world.describe().starts_with("noted d99 generation 1;"), "{}", log);
        prop_assert!(world.server.as_ref().is_some_and(|server| !server.writable), "{}", log);
        prop_assert!(world.beside.content == Content::Nothing, "{}", log);
    }
}
