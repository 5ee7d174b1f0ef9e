//! What must hold of every decision of the sentinel, whatever the facts: the invariants of
//! `ARCHITECTURE.md` as far as one decision can keep or break them.
//!
//! [`check`] judges one [`Step`]: a document, what was seen, and the document that was decided. It
//! asks nothing of how the decision was made. The sentinel runs it before every write, and stores
//! nothing that breaks a rule of safety. The tests of this crate run it over random walks and over all
//! small worlds, and prove each rule by breaking decisions; the simulator runs it too. A rule has a stable name, for those proofs, and the number of the invariant it
//! serves.

mod deletions;
mod election;
mod generations;
mod proxies;
mod scene;
mod standbys;
mod synchronous;

use crate::model::{ClusterData, Generation};
use crate::reason::Reason;
use crate::sentinel::observe::View;
use scene::Scene;

/// Most decisions on unchanged facts before nothing changes any more (I10).
pub const MOST_ROUNDS: usize = 5;

/// The invariants that a single decision can break, by the numbers of `ARCHITECTURE.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// At most one instance is writable and reachable through a proxy.
    I1,
    /// No synchronously acknowledged commit is lost.
    I2,
    /// What asynchronous replication loses is as little as may be.
    I2a,
    /// A forked or unfinished copy counts for nothing.
    I3,
    /// Documents form one chain, of one cluster.
    I4,
    /// Generations tell newer from older.
    I5,
    /// No data are given up that may be needed.
    I7,
    /// An instance becomes writable only as the named primary.
    I8,
    /// With stable facts nothing changes; failovers have a cause and a limit.
    I10,
    /// What can be done for the cluster to serve is done.
    Liveness,
    /// What the format and the operator's limits ask for (contract, sections 3 and 7).
    Contract,
}

impl std::fmt::Display for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I2a => "I2a",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::I10 => "I10",
            Self::Liveness => "liveness",
            Self::Contract => "contract",
        })
    }
}

/// A rule that a decision breaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// What the rule serves.
    pub invariant: Invariant,
    /// The stable, dashed name of the rule.
    pub rule: &'static str,
    /// What was decided that must not be.
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.invariant, self.rule, self.text)
    }
}

/// One decision and what it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The document that was read.
    pub before: &'a ClusterData,
    /// What was seen of the cluster.
    pub view: &'a View,
    /// The document that was decided; stamps of change do not matter.
    pub after: &'a ClusterData,
}

/// Every rule that the decision breaks; empty: it is a good one.
pub fn check(step: Step<'_>) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    let Some(scene) = Scene::new(step).filter(Scene::may_decide) else {
        let mut before = step.before.clone();
        before.change_time = step.after.change_time;
        let unchanged = before == *step.after;
        found.require(unchanged, Invariant::I4, "acted-on-nonsense", || {
            "the spec is not valid, or the phase not known, and something was decided".to_owned()
        });
        return found.0;
    };
    generations::check(&scene, &mut found);
    proxies::check(&scene, &mut found);
    election::check(&scene, &mut found);
    synchronous::check(&scene, &mut found);
    deletions::check(&scene, &mut found);
    standbys::check(&scene, &mut found);
    found.0
}

/// Why a decision must not be stored: the rules of safety that it breaks. One that only leaves
/// something undone may be.
pub fn objections(step: Step<'_>) -> Vec<Reason> {
    let text = "a decision that would break an invariant is not stored: please report this";
    let serious = |violation: &Violation| match violation.invariant {
        Invariant::Liveness | Invariant::Contract => false,
        Invariant::I1
        | Invariant::I2
        | Invariant::I2a
        | Invariant::I3
        | Invariant::I4
        | Invariant::I5
        | Invariant::I7
        | Invariant::I8
        | Invariant::I10 => true,
    };
    let broken = check(step).into_iter().filter(serious);
    let reason = |violation: Violation| {
        Reason::error("invariant", text)
            .with("rule", violation.rule)
            .with("invariant", violation.invariant)
            .with("found", violation.text)
    };
    broken.map(reason).collect()
}

/// Decides again and again while the facts stay as they are, checking each decision, and returns
/// how many rounds changed something. `decide` gives the next document.
///
/// # Errors
///
/// What the first bad decision breaks; or that after [`MOST_ROUNDS`] rounds there is still no rest.
pub fn settle(
    data: &ClusterData,
    view: &View,
    decide: impl Fn(&ClusterData, &View) -> ClusterData,
) -> Result<usize, Vec<Violation>> {
    let (mut data, mut view) = (data.clone(), view.clone());
    for round in 0..=MOST_ROUNDS {
        let after = decide(&data, &view);
        let violations = check(Step {
            before: &data,
            view: &view,
            after: &after,
        });
        if !violations.is_empty() {
            return Err(violations);
        }
        if after == data {
            return Ok(round);
        }
        view = unchanged_facts(&view, &data, &after);
        data = after;
    }
    Err(vec![Violation {
        invariant: Invariant::I10,
        rule: "no-rest",
        text: format!("something still changes after {MOST_ROUNDS} decisions on the same facts"),
    }])
}

/// The same facts as they look beside the next document, at the same moment.
fn unchanged_facts(view: &View, before: &ClusterData, after: &ClusterData) -> View {
    let mut next = view.clone();
    next.revision = view.revision.saturating_add(1);
    next.dbs.retain(|uid, _| after.dbs.contains_key(uid));
    for (uid, db) in &after.dbs {
        let seen = next.dbs.entry(uid.clone()).or_default();
        let same = before
            .dbs
            .get(uid)
            .is_some_and(|before| before.generation == db.generation);
        if !same {
            seen.converging_for = Some(std::time::Duration::ZERO);
        }
    }
    let master = |data: &ClusterData| Some(data.cluster.as_ref()?.status.master.clone());
    if master(before) != master(after) {
        next.recent_failovers = next.recent_failovers.saturating_add(1);
    }
    next
}

/// Violations being collected.
struct Found(Vec<Violation>);

impl Found {
    fn require(
        &mut self,
        holds: bool,
        invariant: Invariant,
        rule: &'static str,
        text: impl FnOnce() -> String,
    ) {
        if !holds {
            let text = text();
            self.0.push(Violation {
                invariant,
                rule,
                text,
            });
        }
    }
}

/// A generation as it is shown: the number.
fn raised_by_one(before: Generation, after: Generation) -> bool {
    after == before.next()
}
