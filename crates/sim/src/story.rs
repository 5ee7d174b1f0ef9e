//! A failing run as a story: what the cluster was, what happened to it, what came of it; in the words
//! of `crates/core/tests/scenarios` as far as they reach.

use std::fmt::Write as _;
use std::time::Duration;

use stolon_core::model::GoDuration;

use crate::plan::{FaultKind, Plan, SpecChange, Wish};
use crate::record::{Record, Violation};
use crate::run::{Outcome, run};
use crate::world::{Actor, Time};

/// Words of the trace that tell what was decided, and what followed.
const TELLING: &[&str] = &[
    "FAULT",
    "VIOLATION",
    "document",
    "is writable",
    "elected",
    "closes",
    "opens",
    "is killed",
    "starts",
    "operator",
    "copying",
    "promoting",
    "ends:",
    "primary-failed",
    "candidate",
];

/// The story of a run that fails.
pub fn tell(plan: &Plan, violation: &Violation) -> String {
    let Outcome { record, state, .. } = run(plan, Record::tracing());
    let mut text = format!(
        "# seed {}: {}: {}\n",
        plan.seed, violation.rule, violation.text
    );
    text += &cluster(plan);
    text += &commands(plan);
    text += "\n# what happened\n";
    for line in &record.trace {
        if TELLING.iter().any(|word| line.contains(word)) {
            let _ = writeln!(text, "# {line}");
        }
    }
    for line in state.lines() {
        let _ = writeln!(text, "# {line}");
    }
    text
}

fn names(letter: char, count: usize) -> String {
    let names: Vec<String> = (1..=count)
        .map(|number| format!("{letter}{number}"))
        .collect();
    names.join(" ")
}

fn cluster(plan: &Plan) -> String {
    let shape = &plan.shape;
    let spec = shape.spec.effective();
    let sync = if spec.synchronous_replication {
        "on"
    } else {
        "off"
    };
    let time = GoDuration::from;
    format!(
        "cluster sync={sync} min={} max={} lag={} sleep={} fail={} convergence={}\nkeepers {}\nproxies \
         {}\nlead\n----\n\n# {shape:?}\n",
        spec.min_synchronous_standbys,
        spec.max_synchronous_standbys,
        spec.max_standby_lag,
        time(spec.sleep_interval),
        time(spec.fail_interval),
        time(spec.convergence_timeout),
        names('k', shape.keepers),
        names('p', shape.proxies),
    )
}

/// The faults, with the time that passes between them.
fn commands(plan: &Plan) -> String {
    let mut moments: Vec<(Time, String)> = Vec::new();
    for fault in &plan.faults {
        let (begins, ends) = words(plan, &fault.kind);
        moments.push((fault.at, begins));
        if let Some(ends) = ends {
            moments.push((fault.at + fault.lasts, ends));
        }
    }
    moments.sort();
    let mut text = String::new();
    let mut now = Duration::ZERO;
    for (at, command) in moments {
        let pause = at.saturating_sub(now).as_millis();
        let _ = writeln!(text, "\npass {pause}ms\n{command}\n----");
        now = at;
    }
    text
}

/// A fault in the words of a scenario: as it begins, and as it ends.
fn words(plan: &Plan, kind: &FaultKind) -> (String, Option<String>) {
    let both = |begins: &str, ends: &str, name: &str| {
        (format!("{begins} {name}"), Some(format!("{ends} {name}")))
    };
    let keeper = |k: usize| format!("k{}", k + 1);
    let on_host = |host: usize| {
        (1..=plan.shape.keepers)
            .contains(&host)
            .then(|| format!("k{host}"))
    };
    let remark = || (format!("# {kind:?}"), None);
    match kind {
        FaultKind::Kill(Actor::Keeper(k)) => both("kill", "start", &keeper(*k)),
        FaultKind::Pause(Actor::Keeper(k)) => both("freeze", "thaw", &keeper(*k)),
        FaultKind::Kill(Actor::Proxy(p)) => both("kill", "start", &format!("p{}", p + 1)),
        FaultKind::Pause(Actor::Proxy(p)) => both("freeze", "thaw", &format!("p{}", p + 1)),
        FaultKind::KillPostmaster(k, _) | FaultKind::Pause(Actor::Postgres(k)) => {
            both("sick", "well", &keeper(*k))
        }
        FaultKind::LoseDisk(k) => (format!("lose-data {}", keeper(*k)), None),
        FaultKind::CrashHost(host) => {
            on_host(*host).map_or_else(remark, |name| both("kill", "start", &name))
        }
        FaultKind::PauseHost(host) | FaultKind::Isolate(host, _, _) => {
            on_host(*host).map_or_else(remark, |name| both("freeze", "thaw", &name))
        }
        FaultKind::StoreDown => ("store down".to_owned(), Some("store up".to_owned())),
        FaultKind::FailKeeper(k) => (format!("fail {}", keeper(*k)), None),
        FaultKind::RemoveKeeper(k) => (format!("remove {}", keeper(*k)), None),
        FaultKind::Ask(Wish::Pause) => ("ask pause".to_owned(), Some("resume".to_owned())),
        FaultKind::Ask(Wish::Resync(k)) => (format!("ask resync {}", keeper(*k)), None),
        FaultKind::ChangeSpec(SpecChange::Synchronous(on)) => {
            (format!("set sync={}", if *on { "on" } else { "off" }), None)
        }
        _ => remark(),
    }
}
