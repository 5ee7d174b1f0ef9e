//! One run of a plan: the faults, then calm, and the demand that the cluster becomes well.

use std::time::Duration;

use crate::check::bound;
use crate::plan::Plan;
use crate::record::Record;
use crate::world::{Time, World};

/// How often it is asked whether the cluster is well.
const LOOK: Duration = Duration::from_secs(1);

/// How often an operator looks at what keepers complain of.
const OPERATOR: Duration = Duration::from_secs(30);

/// How long safety is looked at after the last fault, where nothing else is.
const AFTERWARDS: Duration = Duration::from_secs(30);
/// Looks in a row that find the data of the primary gone, after which nothing more is waited for.
const HOPELESS: u32 = 120;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was kept of it.
    pub record: Record,
    /// The world's time at its end.
    pub lasted: Time,
    /// How long after the last fault the cluster was well; none: it was not.
    pub well_after: Option<Duration>,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Who was where at the end.
    pub state: String,
}

/// Runs a plan until a while after its last fault, and does not ask whether the cluster is well.
pub fn run_for_safety(plan: &Plan, record: Record) -> Outcome {
    let mut world = begin(plan, record);
    world.run_until(plan.shape.calm_from + AFTERWARDS);
    outcome(world, None)
}

fn begin(plan: &Plan, record: Record) -> World {
    let mut world = World::new(plan.clone(), record);
    world.checks.minds_direct_clients = plan.shape.direct_clients > 0;
    world
}

fn outcome(world: World, well_after: Option<Duration>) -> Outcome {
    Outcome {
        lasted: world.now,
        well_after,
        acknowledged: world.history.acknowledged,
        state: world.state(),
        record: world.record,
    }
}

/// Runs a plan.
pub fn run(plan: &Plan, record: Record) -> Outcome {
    let mut world = begin(plan, record);
    let calm_from = plan.shape.calm_from;
    world.run_until(calm_from);
    let limit = calm_from + bound(&world.spec(), plan.shape.lease, plan.shape.store_timeout);
    let mut well_after = None;
    let mut hopeless = 0;
    while world.record.violation.is_none() && well_after.is_none() {
        let now = world.now;
        hopeless = if world.excuse().is_some() {
            hopeless + 1
        } else {
            0
        };
        if now >= limit || hopeless > HOPELESS {
            judge(&mut world, now.saturating_sub(calm_from));
            break;
        }
        if now.as_secs().is_multiple_of(OPERATOR.as_secs()) {
            world.operator_heeds_errors();
            world.operator_heeds_source();
        }
        world.run_until(now + LOOK);
        if world.unwell().is_none() {
            well_after = Some(world.now.saturating_sub(calm_from));
        }
    }
    if well_after.is_some() && world.record.violation.is_none() {
        world.check_steadiness();
        world.check_at_the_end();
    }
    outcome(world, well_after)
}

fn judge(world: &mut World, waited: Duration) {
    let why = world.unwell().unwrap_or_default();
    if let Some(excuse) = world.excuse() {
        world.note("stuck-with-reason");
        world.say(|| format!("{why}: {excuse}"));
        return;
    }
    let waited = waited.as_secs();
    world.fail(
        "liveness",
        format!("{waited} s after the last fault: {why}"),
    );
}
