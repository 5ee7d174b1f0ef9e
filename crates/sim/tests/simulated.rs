//! The simulated world, as part of all tests: first that a seed is a run, then that runs hold.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_sim::batch::run_many;
use stolon_sim::plan::{Fault, FaultKind, Plan};
use stolon_sim::record::Record;
use stolon_sim::run::run;
use stolon_sim::swarm;
use stolon_sim::world::Actor;

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3, 14, 22, 1005] {
        let plan = swarm::plan(seed);
        let first = run(&plan, Record::tracing());
        let second = run(&plan, Record::tracing());
        assert!(
            !first.record.trace.is_empty(),
            "seed {seed}: nothing happened"
        );
        assert_eq!(first.record.trace, second.record.trace, "seed {seed}");
        assert_eq!(first.record.digest, second.record.digest, "seed {seed}");
        // Looking on does not change what happens.
        let untraced = run(&plan, Record::default());
        assert_eq!(first.record.digest, untraced.record.digest, "seed {seed}");
    }
}

#[test]
fn a_cluster_fails_over_when_the_host_of_its_primary_is_gone() {
    for seed in 1..20 {
        let mut plan = swarm::calm(seed);
        plan.shape.keepers = 3;
        plan.shape.spec.sleep_interval = Some(Duration::from_secs(1).into());
        plan.shape.spec.fail_interval = Some(Duration::from_secs(4).into());
        plan.shape.together = false;
        // The first keeper to come may be any of them.
        for k in 0..3 {
            let at = Duration::from_secs(30 + 60 * k);
            let kind = FaultKind::CrashHost(1 + usize::try_from(k).unwrap_or(0));
            let lasts = Duration::from_secs(50);
            plan.faults.push(Fault { at, lasts, kind });
        }
        plan.shape.most_failovers = 100;
        plan.shape.calm_from = Duration::from_secs(210);
        let outcome = run(&plan, Record::tracing());
        let trace = || outcome.record.trace.join("\n");
        assert_eq!(outcome.record.violation, None, "seed {seed}\n{}", trace());
        assert!(
            outcome.record.noted.contains_key("failover"),
            "seed {seed}\n{}",
            trace()
        );
        assert!(outcome.well_after.is_some(), "seed {seed}\n{}", trace());
        assert!(outcome.acknowledged > 20, "seed {seed}\n{}", trace());
    }
}

#[test]
fn a_draw_of_one_component_changes_no_other() {
    use stolon_sim::chance::Chance;
    let mut one = Chance::of(7, "link", 1);
    let expected: Vec<u64> = (0..5).map(|_| one.any()).collect();
    let mut other = Chance::of(7, "store", 0);
    other.any();
    let mut again = Chance::of(7, "link", 1);
    assert_eq!(expected, (0..5).map(|_| again.any()).collect::<Vec<_>>());
    assert_ne!(
        Chance::of(7, "link", 1).any(),
        Chance::of(7, "link", 2).any()
    );
    assert_eq!(Actor::Keeper(3).to_string(), "k3");
}

/// Seeds that are run with all tests; fewer where the machine is slow.
const SEEDS: u64 = 300;
const LIMIT: Duration = Duration::from_secs(35);

/// The seeds of a file, with its lines.
fn seeds(text: &str) -> BTreeMap<u64, &str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| line.split(' ').next().and_then(|word| word.parse().ok());
    lines
        .map(|line| (number(line).expect("a number"), line))
        .collect()
}

#[test]
fn drawn_faults_break_no_invariant() {
    let open = seeds(include_str!("../seeds/open.txt"));
    let mut tally = run_many(swarm::plan, 1, SEEDS, Some(LIMIT));
    tally.failures.retain(|seed, _| !open.contains_key(seed));
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.seeds > 0, "no seed was run");
}

#[test]
fn standby_clusters_break_no_invariant() {
    let tally = run_many(swarm::standby, 1, SEEDS / 4, Some(LIMIT / 3));
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.seeds > 0, "no seed was run");
}

#[test]
fn seeds_that_found_something_hold() {
    type Draw = fn(u64) -> Plan;
    let files: [(&str, Draw); 3] = [
        (include_str!("../seeds/kept.txt"), swarm::plan),
        (include_str!("../seeds/restored.txt"), swarm::store_restored),
        (include_str!("../seeds/standby.txt"), swarm::standby),
    ];
    for (text, drawn) in files {
        for (seed, line) in seeds(text) {
            let outcome = run(&drawn(seed), Record::default());
            assert_eq!(outcome.record.violation, None, "{line}");
        }
    }
}

#[test]
fn what_is_not_mended_yet_is_still_seen() {
    for (seed, line) in seeds(include_str!("../seeds/open.txt")) {
        let outcome = run(&swarm::plan(seed), Record::default());
        let rule = outcome.record.violation.map(|violation| violation.rule);
        let is_seen = rule.is_some_and(|rule| line.contains(rule));
        assert!(
            is_seen,
            "{line}: it holds now: move it to kept.txt ({rule:?})"
        );
    }
}
