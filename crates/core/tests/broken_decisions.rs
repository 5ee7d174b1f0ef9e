//! Every rule of the invariants, shown to catch what it is there for: a good decision is broken on
//! purpose, and the rule has to say so. A checker that cannot fail proves nothing.

#[path = "broken_decisions/documents.rs"]
mod documents;
#[path = "broken_decisions/elections.rs"]
mod elections;
#[path = "broken_decisions/proxies.rs"]
mod proxies;
#[path = "broken_decisions/sets.rs"]
mod sets;
#[path = "support/small.rs"]
#[allow(
    dead_code,
    reason = "shared with the small worlds, which use other parts"
)]
mod small;
#[path = "broken_decisions/standbys.rs"]
mod standbys;

use std::collections::BTreeSet;

use small::{Health, Membership, Place, Primary, Small, Standby, build, db_uid};
use stolon_core::invariants::{Step, check, objections, settle};
use stolon_core::model::{
    ClusterData, Db, FollowConfig, Generation, InitMode, KeeperUid, Role, TimelineId,
};
use stolon_core::sentinel::decide::decide;
use stolon_core::sentinel::observe::View;

const LEVEL: Standby = Standby(Health::Streams, Place::Level, Membership::Out);
const BEHIND: Standby = Standby(Health::Streams, Place::Behind, Membership::Out);
const MEMBER: Standby = Standby(Health::Streams, Place::Level, Membership::Confirmed);

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

/// The db that this decision makes.
fn first_of_its_generation(after: &mut ClusterData) -> &mut Db {
    let mut dbs = after.dbs.values_mut();
    dbs.find(|db| db.generation == Generation::FIRST)
        .expect("a new standby")
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

/// The first standby was the primary by a newer document.
fn later(_: &mut ClusterData, view: &mut View) {
    let seen = view.dbs.get_mut(&small::db_uid(1)).expect("a standby");
    let report = seen.report.as_mut().expect("its report");
    report.generation = Generation(9);
    report.timeline_id = TimelineId(9);
    let instance = report.instance.get_or_insert_with(Default::default);
    instance.in_recovery = Some(false);
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

fn all() -> Vec<Proof> {
    let by_subject = [
        documents::proofs(),
        proxies::proofs(),
        elections::proofs(),
        sets::proofs(),
        standbys::proofs(),
    ];
    by_subject.into_iter().flatten().collect()
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
