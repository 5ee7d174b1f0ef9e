//! The checks check: each decision that is broken on purpose is caught within a thousand seeds, by
//! the rule that is there for it; and what I1 says that it rests on is so.

use stolon_sim::broken::Sabotage;
use stolon_sim::plan::Plan;
use stolon_sim::record::Record;
use stolon_sim::run::run_for_safety;
use stolon_sim::swarm::{
    failovers, lagging_standbys, readers, standby, store_restored, two_leaders,
};

const MOST_SEEDS: u64 = 1000;

/// Finds the first seed in which the world shows what is broken. The search begins at a seed that is
/// known to be near one, for the time it takes.
fn proves(sabotage: Sabotage, from: u64, drawn: fn(u64) -> Plan, rules: &[&str]) {
    let found = (from..=MOST_SEEDS).find_map(|seed| {
        let mut plan = drawn(seed);
        plan.sabotage = Some(sabotage);
        let outcome = run_for_safety(&plan, Record::default());
        outcome.record.violation.map(|violation| (seed, violation))
    });
    let Some((seed, violation)) = found else {
        panic!("{sabotage:?} was not seen in {MOST_SEEDS} seeds");
    };
    println!(
        "{sabotage:?}: seed {seed}: {}: {}",
        violation.rule, violation.text
    );
    assert!(
        rules.contains(&violation.rule),
        "{sabotage:?}, seed {seed}: {violation:?}"
    );
    // It is what is broken, and nothing else.
    let sound = run_for_safety(&drawn(seed), Record::default());
    assert_eq!(sound.record.violation, None, "{sabotage:?}, seed {seed}");
}

const LOST: &[&str] = &[
    "I2-lost-commit",
    "I2a-lost-more-than-the-lag",
    "I7-last-copy",
];

#[test]
fn the_least_advanced_candidate_must_not_win() {
    proves(Sabotage::LeastAdvancedWins, 6, failovers, LOST);
}

#[test]
fn proxies_must_not_open_before_others_have_closed() {
    proves(
        Sabotage::OpensWithoutAcknowledgement,
        65,
        failovers,
        &["I1-two-primaries"],
    );
}

#[test]
fn a_synchronous_change_needs_the_step_in_which_both_are_waited_for() {
    proves(Sabotage::SkipsUnion, 350, failovers, LOST);
}

#[test]
fn a_generation_must_not_be_acknowledged_before_closing() {
    proves(
        Sabotage::AcknowledgesBeforeClosing,
        1,
        failovers,
        &["I6-acknowledged-early", "I1-two-primaries"],
    );
}

#[test]
fn leave_to_forward_must_end_by_time() {
    let rules = [
        "I6-forwarded-without-leave",
        "I6-acknowledged-early",
        "I1-two-primaries",
    ];
    proves(Sabotage::LeaveNeverEnds, 1, failovers, &rules);
}

#[test]
fn a_resync_must_not_delete_first() {
    proves(Sabotage::DeletesFirst, 1, failovers, &["I7-removed-first"]);
}

#[test]
fn an_election_must_not_go_by_the_last_report() {
    proves(Sabotage::ElectsByLastReport, 20, failovers, LOST);
}

#[test]
fn what_a_standby_is_called_does_not_make_it_synchronous() {
    proves(Sabotage::BelievesSyncState, 1, lagging_standbys, LOST);
}

#[test]
fn a_keeper_must_not_go_back_with_the_store() {
    let rules = ["I5-went-back-with-the-store"];
    proves(Sabotage::GoesBackWithTheStore, 1, store_restored, &rules);
}

#[test]
fn a_proxy_that_reads_older_data_must_close_first() {
    let rules = ["I5-stays-open", "I1-two-primaries", "I6-acknowledged-early"];
    proves(Sabotage::StaysOpen, 1, store_restored, &rules);
}

#[test]
fn a_decision_must_not_be_stored_over_another_document() {
    let rules = ["I4-not-from-its-predecessor"];
    proves(Sabotage::WritesBlindly, 1, two_leaders, &rules);
}

#[test]
fn a_primary_that_was_restarted_must_not_let_users_in_before_its_standbys_have_caught_up() {
    let rules = ["I9-let-in-early"];
    proves(Sabotage::LetsUsersInAtOnce, 1, failovers, &rules);
}

#[test]
fn a_sentinel_must_count_its_failovers() {
    let few = |seed| {
        let mut plan = failovers(seed);
        plan.shape.most_failovers = 1;
        plan
    };
    let rules = ["I10-too-many-failovers"];
    proves(Sabotage::CountsNoFailovers, 1, few, &rules);
}

#[test]
fn a_standby_cluster_must_not_promote_itself() {
    let rules = ["I8-writable-standby-cluster"];
    proves(Sabotage::PromotesStandbyCluster, 1, standby, &rules);
}

#[test]
fn a_source_that_is_merely_behind_must_not_cost_what_it_lacks() {
    let rules = ["I7-replaced-for-nothing"];
    proves(Sabotage::TakesBehindForParted, 30, standby, &rules);
}

#[test]
fn a_standby_must_not_be_promoted_while_clients_read_from_it() {
    let rules = ["I1-two-primaries", "I1-reader-writes"];
    proves(Sabotage::IgnoresReaders, 1, readers, &rules);
}

#[test]
fn a_standby_must_be_left_before_that_is_acknowledged() {
    let rules = ["I6-acknowledged-early", "I1-two-primaries"];
    proves(Sabotage::LeavesLate, 1, readers, &rules);
}

#[test]
fn who_goes_round_the_proxies_finds_the_hole() {
    let found = (1..=MOST_SEEDS).find_map(|seed| {
        let mut plan = failovers(seed);
        plan.shape.direct_clients = 2;
        let outcome = run_for_safety(&plan, Record::default());
        outcome
            .record
            .violation
            .map(|violation| (seed, violation.rule))
    });
    let (seed, rule) = found.expect("a client that finds two primaries");
    assert_eq!(rule, "I1-direct-client", "seed {seed}");
    // The same world without such clients keeps I1, as it does in all other tests.
    let outcome = run_for_safety(&failovers(seed), Record::default());
    assert_eq!(outcome.record.violation, None, "seed {seed}");
}

#[test]
fn no_two_promotions_may_begin_the_same_timeline() {
    proves(
        Sabotage::ReusesTimelines,
        630,
        failovers,
        &["I3-timeline-begun-twice"],
    );
}
