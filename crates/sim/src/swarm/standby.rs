//! Plans of standby clusters: what happens to them, and to the servers outside that they follow.

use stolon_core::model::spec::{ClusterInitMode, ClusterRole, ExistingConfig, PitrConfig};
use stolon_core::model::spec::{StandbyConfig, StandbySettings};

use super::{KINDS, add, amid, calm, with_faults};
use crate::chance::Chance;
use crate::plan::{FaultKind, OutsideFault, Plan, Shape, SpecChange};
use crate::world::Time;
use crate::world::keeper::keeper_uid;
use crate::world::outside::conninfo;

/// Servers outside.
const OUTSIDE: usize = 2;

/// A plan of a cluster that begins as a standby cluster, by a backup or with data that a keeper has; that
/// is told to follow another server, and in a part of the seeds is promoted; amid faults of its own and of
/// the servers outside.
pub fn standby(seed: u64) -> Plan {
    let mut plan = calm(seed);
    let mut chance = Chance::of(seed, "standby cluster", 0);
    plan.shape.most_failovers = 1000;
    become_standby(&mut plan.shape, &mut chance);
    let share = chance.between(100, 400);
    let kinds: Vec<usize> = (0..KINDS).filter(|_| chance.happens(share)).collect();
    let mut plan = with_faults(plan, Chance::of(seed, "faults", 0), &kinds);
    if plan.shape.keepers == 1 {
        // Its commits would wait for ever.
        let waits = FaultKind::ChangeSpec(SpecChange::Synchronous(true));
        plan.faults.retain(|fault| fault.kind != waits);
    }
    for _ in 0..chance.between(2, 8) {
        happens_outside(&mut plan, &mut chance);
    }
    if chance.happens(400) {
        let at = amid(&plan, &mut chance);
        let lasts = chance.millis(100, 2000);
        let kind = FaultKind::ChangeSpec(SpecChange::PromoteCluster);
        add(&mut plan, at, lasts, kind);
    }
    super::reading::draw(&mut plan, 300);
    plan
}

fn become_standby(shape: &mut Shape, chance: &mut Chance) {
    // A single instance is rewound where one of several would be copied.
    if chance.happens(200) {
        shape.keepers = 1;
        shape.spec.synchronous_replication = Some(false);
    }
    shape.outside = OUTSIDE;
    shape.outside_pace = (50, chance.between(300, 3000));
    let spec = &mut shape.spec;
    spec.role = Some(ClusterRole::Standby);
    if chance.happens(300) {
        spec.init_mode = Some(ClusterInitMode::Existing);
        spec.existing_config = Some(ExistingConfig {
            keeper_uid: keeper_uid(0),
            ..ExistingConfig::default()
        });
    } else {
        spec.init_mode = Some(ClusterInitMode::Pitr);
        spec.pitr_config = Some(PitrConfig {
            data_restore_command: "restore %d".to_owned(),
            ..PitrConfig::default()
        });
    }
    spec.use_pgrewind = chance.happens(500).then_some(true);
    spec.standby_config = Some(StandbyConfig {
        standby_settings: Some(StandbySettings {
            primary_conninfo: conninfo(shape.keepers),
            ..StandbySettings::default()
        }),
        ..StandbyConfig::default()
    });
}

fn happens_outside(plan: &mut Plan, chance: &mut Chance) {
    let at = amid(plan, chance);
    let kind = match chance.below(9) {
        0 => FaultKind::Outside(OutsideFault::Crash),
        1 | 2 => FaultKind::Outside(OutsideFault::Promote),
        3 | 4 => FaultKind::Outside(OutsideFault::GoBack(chance.between(1, 60))),
        5 => cut_off(&plan.shape, chance),
        8 => return names_one_behind(plan, chance, at),
        6 => FaultKind::NameSource(false),
        _ => FaultKind::NameSource(true),
    };
    let lasts = chance.millis(500, 40_000);
    add(plan, at, lasts, kind);
}

/// Nothing comes from the one server outside to the other, which an operator then has the cluster follow.
fn names_one_behind(plan: &mut Plan, chance: &mut Chance, at: Time) {
    let first = first_host(&plan.shape);
    let (one, other) = (chance.index(OUTSIDE), chance.between(1, OUTSIDE as u64 - 1));
    let other = (one + usize::try_from(other).unwrap_or(1)) % OUTSIDE;
    let lasts = chance.millis(5000, 60_000);
    add(plan, at, lasts, FaultKind::Cut(first + one, first + other));
    let at = at + chance.millis(500, 4000);
    add(
        plan,
        at,
        chance.millis(500, 2000),
        FaultKind::NameSource(false),
    );
}

fn first_host(shape: &Shape) -> usize {
    let before = shape.keepers + shape.sentinels + shape.proxies;
    1 + before + shape.clients + shape.direct_clients
}

/// Nothing comes from a keeper's host to that of a server outside, or back.
fn cut_off(shape: &Shape, chance: &mut Chance) -> FaultKind {
    let outside = first_host(shape) + chance.index(OUTSIDE);
    let keeper = 1 + chance.index(shape.keepers);
    if chance.happens(500) {
        FaultKind::Cut(keeper, outside)
    } else {
        FaultKind::Cut(outside, keeper)
    }
}
