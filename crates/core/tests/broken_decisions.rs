//! Every rule of the invariants, shown to catch what it is there for: a good decision is broken on
//! purpose, and the rule has to say so. A checker that cannot fail proves nothing.

#[path = "support/small.rs"]
#[allow(
    dead_code,
    reason = "shared with the small worlds, which use other parts"
)]
mod small;

use std::collections::BTreeSet;

use small::{Health, Membership, Place, Primary, ProxyState, Route, Small, Standby, build, db_uid};
use stolon_core::invariants::{Step, check, objections, settle};
use stolon_core::model::{
    ClusterData, ClusterUid, Db, FollowConfig, Generation, InitMode, KeeperUid, List, Phase,
    ProxyUid, Role,
};
use stolon_core::sentinel::decide::decide;
use stolon_core::sentinel::observe::View;

const LEVEL: Standby = Standby(Health::Streams, Place::Level, Membership::Out);
const BEHIND: Standby = Standby(Health::Streams, Place::Behind, Membership::Out);
const MEMBER: Standby = Standby(Health::Streams, Place::Level, Membership::Confirmed);
/// The confirmed member is silent, and there is another standby.
const LOST_ONE: [Standby; 2] = [
    Standby(Health::Silent, Place::Level, Membership::Confirmed),
    LEVEL,
];
/// The set on its way from a silent member to another, which is not confirmed yet.
const UNITING: [Standby; 2] = [
    Standby(Health::Silent, Place::Level, Membership::Confirmed),
    Standby(Health::Streams, Place::Level, Membership::Listed),
];

fn edit(data: &mut ClusterData, number: usize, change: impl FnOnce(&mut Db)) {
    let db = data.dbs.get_mut(&db_uid(number)).expect("a db");
    change(db);
}

fn rename_primary(data: &mut ClusterData, number: usize) {
    let cluster = data.cluster.as_mut().expect("a cluster");
    cluster.status.master = Some(db_uid(number));
}

/// Makes another standby the winner of an election that `from` won.
fn crown(data: &mut ClusterData, from: usize, to: usize) {
    let crowned = data.dbs[&db_uid(from)].spec.clone();
    edit(data, from, |db| {
        db.spec.role = Some(Role::Standby);
        db.spec.follow_config = Some(FollowConfig::internal(db_uid(to)));
    });
    edit(data, to, |db| {
        let keeper_uid = db.spec.keeper_uid.clone();
        db.spec = crowned;
        db.spec.keeper_uid = keeper_uid;
    });
    rename_primary(data, to);
}

/// A standby that is new to the document.
fn new_standby(number: usize, keeper: &str) -> Db {
    let mut db = Db {
        uid: db_uid(number),
        generation: Generation::FIRST,
        ..Db::default()
    };
    db.spec.keeper_uid = KeeperUid::from(keeper);
    db.spec.role = Some(Role::Standby);
    db.spec.init_mode = Some(InitMode::Resync);
    db.spec.follow_config = Some(FollowConfig::internal(db_uid(0)));
    db
}

/// What is broken: the situation, and the wrong outcome.
struct Proof {
    rule: &'static str,
    world: Small,
    /// Changes the situation beyond what a small world can say.
    before: fn(&mut ClusterData, &mut View),
    breaks: fn(&ClusterData, &mut ClusterData),
}

fn proof(rule: &'static str, world: Small, breaks: fn(&ClusterData, &mut ClusterData)) -> Proof {
    Proof {
        rule,
        world,
        before: |_, _| {},
        breaks,
    }
}

fn serving() -> Small {
    Small::asynchronous(Primary::Good, &[LEVEL, BEHIND])
}

fn failed() -> Small {
    Small::asynchronous(Primary::Silent, &[LEVEL, BEHIND])
}

fn waiting(members: (u16, u16), standbys: &[Standby]) -> Small {
    Small::synchronous(members, Primary::Good, standbys)
}

fn closed(proxies: &[ProxyState]) -> Small {
    Small {
        route: Route::Closed,
        proxies: proxies.to_vec(),
        ..serving()
    }
}

fn open(after: &mut ClusterData) {
    after.proxy.spec.primary_db_uid = db_uid(0);
    after.proxy.generation = Generation(6);
}

fn chain() -> Vec<Proof> {
    vec![
        Proof {
            before: |data, _| {
                let spec = data.cluster.as_mut().and_then(|c| c.spec.as_mut());
                spec.expect("a spec").min_synchronous_standbys = Some(9);
            },
            ..proof("acted-on-nonsense", failed(), |_, after| {
                edit(after, 1, |db| db.spec.role = Some(Role::Primary));
            })
        },
        proof("another-cluster", serving(), |_, after| {
            after.cluster.as_mut().expect("a cluster").uid = ClusterUid::from("other");
        }),
        proof(
            "generation-not-first",
            Small {
                free_keepers: 1,
                ..serving()
            },
            |_, after| {
                let new = after
                    .dbs
                    .values_mut()
                    .find(|db| db.generation == Generation::FIRST);
                new.expect("a new standby").generation = Generation(2);
            },
        ),
        proof("generation-fell", serving(), |_, after| {
            edit(after, 1, |db| db.generation = Generation(4));
        }),
        proof("generation-not-raised", serving(), |_, after| {
            edit(after, 1, |db| db.spec.max_standbys = 7);
        }),
        proof("generation-raised-idly", serving(), |_, after| {
            after.proxy.generation = after.proxy.generation.next();
        }),
        proof("db-without-keeper", serving(), |_, after| {
            after.keepers.remove("k1");
        }),
        proof("db-without-role", serving(), |_, after| {
            edit(after, 1, |db| db.spec.follow_config = None);
        }),
        proof("primary-missing", failed(), |_, after| {
            rename_primary(after, 9);
        }),
        proof("cluster-unmade", serving(), |_, after| {
            let cluster = after.cluster.as_mut().expect("a cluster");
            cluster.status.master = None;
            cluster.status.phase = Some(Phase::Initializing);
        }),
    ]
}

fn proxies() -> Vec<Proof> {
    let acknowledged = [ProxyState::Acknowledged, ProxyState::Acknowledged];
    vec![
        // The proxies are sent from one primary to the next in one step.
        proof("primary-to-primary", failed(), |_, after| {
            after.proxy.spec.primary_db_uid = db_uid(1);
        }),
        proof("proxies-name-another", failed(), |_, after| {
            after.proxy.spec.primary_db_uid = db_uid(0);
        }),
        proof("role-flip", failed(), |_, after| {
            edit(after, 0, |old| {
                old.spec.role = Some(Role::Standby);
                old.spec.follow_config = Some(FollowConfig::internal(db_uid(1)));
            });
        }),
        proof("second-primary", serving(), |_, after| {
            edit(after, 1, |db| db.spec.role = Some(Role::Primary));
        }),
        // A primary just elected has not read that it is one.
        proof(
            "opened-unready",
            Small {
                route: Route::Closed,
                ..failed()
            },
            |_, after| {
                after.proxy.spec.primary_db_uid = db_uid(1);
            },
        ),
        proof(
            "opened-unready",
            Small {
                primary: Primary::Recovering,
                ..closed(&acknowledged)
            },
            |_, after| open(after),
        ),
        proof(
            "opened-unpromised",
            Small {
                synchronous: Some((1, 1)),
                in_force: false,
                ..closed(&acknowledged)
            },
            |_, after| open(after),
        ),
        proof(
            "opened-unacknowledged",
            closed(&[ProxyState::Behind]),
            |_, after| open(after),
        ),
        proof(
            "opened-unacknowledged",
            closed(&[ProxyState::GoJustNow]),
            |_, after| open(after),
        ),
        proof(
            "opened-unacknowledged",
            closed(&[ProxyState::Unheard]),
            |_, after| open(after),
        ),
        proof(
            "silent-proxy-enabled",
            closed(&[ProxyState::Dead]),
            |_, after| {
                after.proxy.spec.enabled_proxies.push(ProxyUid::from("p0"));
            },
        ),
        proof("live-proxy-shut-out", serving(), |_, after| {
            after.proxy.spec.enabled_proxies.clear();
        }),
    ]
}

fn elections() -> Vec<Proof> {
    let confirmed_and_not = [
        LEVEL,
        Standby(Health::Streams, Place::Behind, Membership::Confirmed),
    ];
    let with = |place| {
        Small::asynchronous(
            Primary::Silent,
            &[LEVEL, Standby(Health::Streams, place, Membership::Out)],
        )
    };
    vec![
        // The decision keeps everything as it was.
        proof("failed-primary-kept", failed(), |before, after| {
            *after = before.clone();
        }),
        proof("failover-without-cause", serving(), |_, after| {
            edit(after, 1, |db| db.spec.role = Some(Role::Primary));
            rename_primary(after, 1);
        }),
        proof(
            "failover-limit",
            Small {
                recent_failovers: 3,
                ..failed()
            },
            |_, after| {
                edit(after, 1, |db| db.spec.role = Some(Role::Primary));
                rename_primary(after, 1);
            },
        ),
        proof("winner-from-nowhere", failed(), |_, after| {
            let mut new = new_standby(9, "k2");
            new.spec.role = Some(Role::Primary);
            after.dbs.insert(new.uid.clone(), new);
            rename_primary(after, 9);
        }),
        Proof {
            before: |data, _| {
                edit(data, 2, |db| {
                    db.spec.role = Some(Role::Primary);
                    db.spec.follow_config = None;
                });
            },
            ..proof("winner-not-a-standby", failed(), |_, after| {
                rename_primary(after, 2);
            })
        },
        // The least advanced candidate wins.
        proof("winner-not-most-advanced", failed(), |_, after| {
            crown(after, 1, 2);
        }),
        proof("winner-ineligible", with(Place::FarBehind), |_, after| {
            crown(after, 1, 2);
        }),
        proof("winner-ineligible", with(Place::Overrun), |_, after| {
            crown(after, 1, 2);
        }),
        proof("winner-ineligible", with(Place::Elsewhere), |_, after| {
            crown(after, 1, 2);
        }),
        proof("winner-ineligible", with(Place::Unknown), |_, after| {
            crown(after, 1, 2);
        }),
        proof(
            "winner-ineligible",
            Small::asynchronous(
                Primary::Silent,
                &[
                    LEVEL,
                    Standby(Health::Copying, Place::Level, Membership::Out),
                ],
            ),
            |_, after| crown(after, 1, 2),
        ),
        // An unconfirmed standby that is further wins over the confirmed one.
        proof(
            "winner-ineligible",
            Small::synchronous((1, 1), Primary::Silent, &confirmed_and_not),
            |_, after| crown(after, 2, 1),
        ),
        Proof {
            before: |_, view| {
                let keeper = view.keepers.get_mut("k1").expect("a keeper");
                keeper.info.as_mut().expect("heard").can_be_master = Some(false);
            },
            ..proof("winner-ineligible", failed(), |_, after| crown(after, 2, 1))
        },
    ]
}

fn list(after: &mut ClusterData, primary: usize, members: &[usize]) {
    edit(after, primary, |db| {
        db.spec.synchronous_standbys = members.iter().map(|number| db_uid(*number)).collect();
        let (listed, confirmed) = (
            &db.spec.synchronous_standbys,
            &db.status.synchronous_standbys,
        );
        let kept = confirmed
            .iter()
            .filter(|uid| listed.contains(uid))
            .cloned()
            .collect();
        db.status.synchronous_standbys = kept;
    });
}

fn sets() -> Vec<Proof> {
    vec![
        proof(
            "set-changed-blindly",
            Small::synchronous((1, 2), Primary::Converging, &[MEMBER, MEMBER]),
            |_, after| list(after, 0, &[1]),
        ),
        proof(
            "not-synchronous",
            waiting((1, 1), &[MEMBER, LEVEL]),
            |_, after| {
                edit(after, 0, |db| db.spec.synchronous_replication = false);
            },
        ),
        proof(
            "heir-forgotten",
            Small::synchronous((1, 2), Primary::Silent, &[MEMBER, MEMBER]),
            |_, after| list(after, 1, &[]),
        ),
        proof("confirmed-unseen", waiting((1, 1), &UNITING), |_, after| {
            edit(after, 0, |primary| {
                primary.status.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
            });
        }),
        // A report of an earlier generation confirms.
        Proof {
            before: |_, view| {
                let seen = view.dbs.get_mut(&db_uid(0)).expect("seen");
                let report = seen.report.as_mut().expect("a report");
                report.generation = Generation(4);
                report.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
            },
            ..proof(
                "confirmed-unseen",
                waiting((1, 1), &[MEMBER, LEVEL]),
                |_, after| {
                    list(after, 0, &[1, 2]);
                    edit(after, 0, |primary| {
                        primary.status.synchronous_standbys =
                            List(Some(vec![db_uid(1), db_uid(2)]));
                        primary.status.current_generation = Generation(5);
                    });
                },
            )
        },
        proof(
            "confirmed-unseen",
            Small::synchronous((1, 1), Primary::Silent, &[MEMBER, LEVEL]),
            |_, after| {
                list(after, 1, &[2]);
                edit(after, 1, |primary| {
                    primary.status.synchronous_standbys = List(Some(vec![db_uid(2)]));
                });
            },
        ),
    ]
}

fn set_changes() -> Vec<Proof> {
    vec![
        proof("too-few-synchronous", waiting((1, 1), &[]), |_, after| {
            edit(after, 0, |db| {
                db.spec.external_synchronous_standbys = List::NULL;
            });
        }),
        proof(
            "placeholder-for-nothing",
            waiting((1, 1), &[MEMBER]),
            |_, after| {
                edit(after, 0, |db| {
                    let name = stolon_core::model::db::PLACEHOLDER_STANDBY;
                    db.spec.external_synchronous_standbys = List(Some(vec![name.to_owned()]));
                });
            },
        ),
        proof(
            "too-many-synchronous",
            waiting((1, 1), &[MEMBER, MEMBER]),
            |_, after| {
                edit(after, 0, |primary| {
                    primary.spec.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
                });
            },
        ),
        // The union of the old and the new set is left out.
        proof("union-skipped", waiting((1, 1), &LOST_ONE), |_, after| {
            list(after, 0, &[2]);
        }),
        // The old member leaves before the new one is confirmed.
        proof(
            "confirmed-dropped",
            waiting((1, 1), &UNITING),
            |_, after| list(after, 0, &[2]),
        ),
        // The only confirmed member leaves because it is silent.
        proof(
            "confirmed-dropped",
            waiting((1, 1), &[UNITING[0]]),
            |_, after| list(after, 0, &[]),
        ),
        proof(
            "unfit-synchronous",
            waiting(
                (1, 2),
                &[
                    MEMBER,
                    Standby(Health::Apart, Place::Level, Membership::Out),
                ],
            ),
            |_, after| list(after, 0, &[1, 2]),
        ),
    ]
}

fn delete(after: &mut ClusterData, number: usize) {
    after.dbs.remove(&db_uid(number));
}

fn deletions() -> Vec<Proof> {
    vec![
        proof("keeper-forgotten-early", serving(), |_, after| {
            delete(after, 2);
            after.keepers.remove("k2");
        }),
        Proof {
            before: |data, _| {
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.status.phase = Some(Phase::Initializing);
            },
            ..proof("deleted-while-initialising", serving(), |_, after| {
                delete(after, 1);
            })
        },
        // The decision that elects also deletes the old primary.
        proof("primary-deleted", failed(), |_, after| delete(after, 0)),
        proof(
            "synchronous-deleted",
            waiting((1, 1), &[MEMBER, LEVEL]),
            |_, after| {
                delete(after, 1);
            },
        ),
        // The last copy but one goes while the primary is not well.
        proof(
            "deleted-without-primary",
            Small::asynchronous(
                Primary::Sick,
                &[Standby(Health::Sick, Place::Level, Membership::Out)],
            ),
            |_, after| delete(after, 1),
        ),
    ]
}

fn creations() -> Vec<Proof> {
    vec![
        proof("keeper-not-free", serving(), |_, after| {
            let new = new_standby(9, "k2");
            after.dbs.insert(new.uid.clone(), new);
        }),
        proof(
            "created-otherwise",
            Small {
                free_keepers: 1,
                ..serving()
            },
            |_, after| {
                let new = after
                    .dbs
                    .values_mut()
                    .find(|db| db.generation == Generation::FIRST);
                new.expect("a new standby").spec.init_mode = Some(InitMode::New);
            },
        ),
        proof(
            "created-without-primary",
            Small {
                free_keepers: 1,
                ..Small::asynchronous(Primary::Sick, &[])
            },
            |_, after| {
                let new = new_standby(9, "k1");
                after.dbs.insert(new.uid.clone(), new);
            },
        ),
        proof(
            "standby-unneeded",
            Small {
                free_keepers: 2,
                senders: 3,
                ..serving()
            },
            |_, after| {
                let new = new_standby(9, "k4");
                after.dbs.insert(new.uid.clone(), new);
            },
        ),
    ]
}

fn all() -> Vec<Proof> {
    [
        chain(),
        proxies(),
        elections(),
        sets(),
        set_changes(),
        deletions(),
        creations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_broken_decision_is_caught_by_its_rule() {
    for (index, proof) in all().into_iter().enumerate() {
        let rule = proof.rule;
        let (mut before, mut view) = build(&proof.world);
        (proof.before)(&mut before, &mut view);
        let mut after = decide(&before, &view).next;
        let (before, view) = (&before, &view);
        let good = check(Step {
            before,
            view,
            after: &after,
        });
        assert_eq!(
            good,
            [],
            "proof {index} of {rule}: the decision itself is bad"
        );
        (proof.breaks)(before, &mut after);
        let caught = check(Step {
            before,
            view,
            after: &after,
        });
        let named = caught.iter().any(|violation| violation.rule == rule);
        assert!(
            named,
            "proof {index}: {rule} did not catch it, but {caught:#?}"
        );
    }
}

#[test]
fn what_breaks_safety_is_objected_to_and_what_leaves_something_undone_is_not() {
    let (before, view) = build(&failed());
    let mut after = decide(&before, &view).next;
    let (before, view) = (&before, &view);
    let step = |after: &ClusterData| {
        objections(Step {
            before,
            view,
            after,
        })
    };
    assert_eq!(step(&after), []);
    assert_eq!(step(before), [], "the failed primary is only kept");
    crown(&mut after, 1, 2);
    let reasons = step(&after);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    let text = reasons[0].to_string();
    assert!(
        text.contains("rule winner-not-most-advanced, invariant I2a"),
        "{text}"
    );
}

#[test]
fn a_decision_that_goes_back_and_forth_finds_no_rest() {
    let (before, view) = build(&serving());
    let restless = |data: &ClusterData, _: &View| {
        let mut next = data.clone();
        edit(&mut next, 1, |db| {
            db.spec.additional_wal_senders ^= 1;
            db.generation = db.generation.next();
        });
        next
    };
    let found = settle(&before, &view, restless).expect_err("it never rests");
    assert_eq!(found[0].rule, "no-rest", "{found:#?}");
    let rests = settle(&before, &view, |data, view| decide(data, view).next);
    assert!(rests.is_ok(), "{rests:#?}");
}

/// The names of rules as they stand in the source: dashed words in quotes.
#[test]
fn every_rule_is_proven() {
    let sources = [
        include_str!("../src/invariants.rs"),
        include_str!("../src/invariants/deletions.rs"),
        include_str!("../src/invariants/election.rs"),
        include_str!("../src/invariants/generations.rs"),
        include_str!("../src/invariants/proxies.rs"),
        include_str!("../src/invariants/standbys.rs"),
        include_str!("../src/invariants/synchronous.rs"),
    ];
    let mut rules = BTreeSet::new();
    for text in sources.iter().flat_map(|source| source.split('"')) {
        let dashed = text.contains('-') && text.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if dashed {
            rules.insert(text);
        }
    }
    assert!(rules.len() > 40, "{rules:?}");
    let mut proven: BTreeSet<&str> = all().iter().map(|proof| proof.rule).collect();
    proven.insert("no-rest");
    let missing: Vec<_> = rules.difference(&proven).collect();
    assert!(
        missing.is_empty(),
        "no decision proves that these can fail: {missing:?}"
    );
}
