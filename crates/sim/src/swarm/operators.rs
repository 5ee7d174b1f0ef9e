//! What operators do in a plan.

use super::FIRST_FAULT;
use crate::chance::Chance;
use crate::plan::{Fault, FaultKind, Plan, SpecChange, Wish};

/// Operators ask for things, amid the other faults.
pub(super) fn wishes(plan: &mut Plan, chance: &mut Chance) {
    let ends = plan.shape.calm_from.max(FIRST_FAULT * 3);
    let most = u64::try_from(ends.saturating_sub(FIRST_FAULT).as_millis()).unwrap_or(0);
    for _ in 0..chance.between(1, 4) {
        let k = chance.index(plan.shape.keepers);
        let wish = match chance.below(5) {
            0 => Wish::Restart(None),
            1 => Wish::Restart(Some(k)),
            2 | 3 => Wish::Resync(k),
            _ => Wish::Pause,
        };
        let at = FIRST_FAULT + chance.millis(0, most);
        let lasts = chance.millis(1000, 30_000);
        let kind = FaultKind::Ask(wish);
        plan.faults.push(Fault { at, lasts, kind });
        plan.shape.calm_from = plan.shape.calm_from.max(at + lasts);
    }
    plan.faults.sort_by_key(|fault| fault.at);
}

/// What an operator changes at once.
pub(super) fn change(chance: &mut Chance, k: usize) -> FaultKind {
    match chance.below(7) {
        0 => FaultKind::FailKeeper(k),
        1 => FaultKind::RemoveKeeper(k),
        2 => FaultKind::ChangeSpec(SpecChange::Synchronous(chance.happens(500))),
        3 => {
            let least = u16::try_from(chance.between(1, 2)).unwrap_or(1);
            FaultKind::ChangeSpec(SpecChange::SynchronousStandbys(1, least))
        }
        4 => FaultKind::ChangeSpec(SpecChange::MostStandbys(
            u16::try_from(chance.between(1, 3)).unwrap_or(1),
        )),
        5 => FaultKind::ChangeSpec(SpecChange::Connections(
            chance.between(50, 300),
            chance.happens(500),
        )),
        _ => FaultKind::ChangeSpec(SpecChange::ProxyTimeout(chance.between(2500, 12_000))),
    }
}
