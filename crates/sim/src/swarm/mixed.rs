//! Plans with processes of the Go program.

use super::{add, amid, calm, millis, with_faults};
use crate::chance::Chance;
use crate::plan::{FaultKind, Plan, SpecChange};
use crate::world::Actor;

/// A plan with processes of the Go program, some of which are exchanged for ours while they run, and some
/// of ours for theirs: a cluster that moves from the one to the other, amid faults.
pub fn mixed(seed: u64) -> Plan {
    let mut plan = calm(seed);
    let mut chance = Chance::of(seed, "go", 0);
    plan.shape.keepers = 3 + chance.index(2);
    plan.shape.go_keepers = chance.index(plan.shape.keepers + 1);
    plan.shape.go_proxies = chance.index(plan.shape.proxies + 1);
    // Their proxies count from the end of a check, of which a read and a publication are part: sentinels
    // wait for twice the timeout, and more than that they cannot know.
    plan.shape.store_timeout = chance.millis(700, 1000);
    let check = [500, 1000][chance.index(2)];
    plan.shape.spec.proxy_check_interval = Some(millis(check));
    plan.shape.spec.proxy_timeout = Some(millis(chance.between(4000, 6000)));
    let kinds = [0, 2, 3, 4, 6, 7, 9, 12, 13, 14, 15, 16, 17, 19, 21, 23];
    let kinds: Vec<usize> = kinds.into_iter().filter(|_| chance.happens(500)).collect();
    let faults = Chance::of(seed, "faults", 0);
    let mut plan = with_faults(plan, faults, &kinds);
    for fault in &mut plan.faults {
        if let FaultKind::ChangeSpec(SpecChange::ProxyTimeout(timeout)) = &mut fault.kind {
            *timeout = (*timeout).max(4000);
        }
    }
    for _ in 0..chance.index(6) {
        let at = amid(&plan, &mut chance);
        let actor = if chance.happens(600) {
            Actor::Keeper(chance.index(plan.shape.keepers))
        } else {
            Actor::Proxy(chance.index(plan.shape.proxies))
        };
        let lasts = chance.millis(100, 8000);
        add(&mut plan, at, lasts, FaultKind::Exchange(actor));
    }
    super::reading::draw(&mut plan, 500);
    go_sentinels(&mut plan);
    plan
}

/// In a part of the seeds in which clients read there are sentinels of the Go program too, or come while
/// it runs. They promote a standby whoever reads from it: proxies have to hear of them before they fail a
/// primary, for which they wait for failInterval. An operator's word they carry out at once.
fn go_sentinels(plan: &mut Plan) {
    let mut chance = Chance::of(plan.seed, "go sentinels", 0);
    if plan.shape.reading.is_none() || !chance.happens(400) {
        return;
    }
    let spec = &mut plan.shape.spec;
    let timeout = spec.effective().proxy_timeout;
    spec.fail_interval = Some((timeout * 2).into());
    plan.shape.go_sentinels = chance.index(plan.shape.sentinels + 1);
    let unsafe_word = |kind: &FaultKind| {
        matches!(
            kind,
            FaultKind::FailKeeper(_) | FaultKind::ChangeSpec(SpecChange::ProxyTimeout(_))
        )
    };
    plan.faults.retain(|fault| !unsafe_word(&fault.kind));
    for _ in 0..chance.between(1, 3) {
        let at = amid(plan, &mut chance);
        let actor = Actor::Sentinel(chance.index(plan.shape.sentinels));
        let lasts = chance.millis(100, 8000);
        add(plan, at, lasts, FaultKind::Exchange(actor));
    }
}
