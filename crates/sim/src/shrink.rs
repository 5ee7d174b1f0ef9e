//! From a run that fails to a smaller one that fails: faults are taken out while it still does.

use crate::plan::Plan;
use crate::record::Record;
use crate::run::{run, run_for_safety};

/// Runs at most, so that shrinking ends.
const MOST_RUNS: usize = 200;

/// The rule that asks whether the cluster becomes well; it takes long to ask.
const LIVENESS: &str = "liveness";

fn breaks(plan: &Plan, rule: &str) -> bool {
    let outcome = if rule == LIVENESS {
        run(plan, Record::default())
    } else {
        run_for_safety(plan, Record::default())
    };
    outcome
        .record
        .violation
        .is_some_and(|violation| violation.rule == rule)
}

/// A plan with fewer faults that breaks the same rule.
pub fn shrink(plan: &Plan, rule: &'static str) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    let mut size = best.faults.len().div_ceil(2);
    while size > 0 && runs < MOST_RUNS {
        let mut from = 0;
        let mut smaller = false;
        while from < best.faults.len() && runs < MOST_RUNS {
            let mut candidate = best.clone();
            let to = (from + size).min(candidate.faults.len());
            candidate.faults.drain(from..to);
            runs += 1;
            if breaks(&candidate, rule) {
                best = candidate;
                smaller = true;
            } else {
                from += size;
            }
        }
        if !smaller || size > 1 {
            size /= 2;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{breaks, shrink};
    use crate::broken::Sabotage;
    use crate::record::Record;
    use crate::run::run_for_safety;
    use crate::swarm;

    #[test]
    fn what_is_left_still_fails_and_little_is_left() {
        let found = (1..200).filter_map(|seed| {
            let mut plan = swarm::failovers(seed);
            plan.sabotage = Some(Sabotage::LeastAdvancedWins);
            let outcome = run_for_safety(&plan, Record::default());
            Some((plan, outcome.record.violation?.rule))
        });
        // How little is left of one is a matter of luck: faults that must come together stay together.
        let left = found.take(3).map(|(plan, rule)| {
            let small = shrink(&plan, rule);
            assert!(breaks(&small, rule));
            assert!(small.faults.len() < plan.faults.len());
            small.faults.len()
        });
        let left: Vec<usize> = left.collect();
        assert_eq!(left.len(), 3, "runs that fail");
        assert!(left.iter().any(|faults| *faults <= 6), "{left:?}");
    }
}
