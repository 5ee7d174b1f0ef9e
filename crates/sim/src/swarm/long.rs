//! Plans of days and of weeks, with a pause between one fault and the next.

use std::time::Duration;

use stolon_core::model::ClusterSpec;
use stolon_core::model::spec::ClusterInitMode;

use super::{KINDS, Spread, calm, millis, with_spread_faults};
use crate::chance::Chance;
use crate::plan::Plan;

/// A plan of hours to days of a cluster with the settings that a specification has by default: minutes
/// pass between one fault and the next, and some last for minutes.
pub fn days(seed: u64) -> Plan {
    let mut plan = calm(seed);
    let mut chance = Chance::of(seed, "days", 0);
    let shape = &mut plan.shape;
    let synchronous = shape.spec.synchronous_replication;
    shape.keepers = 3;
    shape.sentinels = 3;
    shape.proxies = 2;
    shape.clients = 2;
    shape.pace = (1000, 20_000);
    shape.most_failovers = 3;
    shape.store_timeout = Duration::from_secs(5);
    shape.lease = Duration::from_secs(20);
    shape.spec = ClusterSpec {
        init_mode: Some(ClusterInitMode::New),
        synchronous_replication: synchronous,
        use_pgrewind: Some(chance.happens(500)),
        ..ClusterSpec::default()
    };
    let kinds: Vec<usize> = (0..KINDS).filter(|_| chance.happens(500)).collect();
    let spread = Spread {
        until: Duration::from_hours(chance.between(6, 48)),
        pause: chance.between(60_000, 1_800_000),
        longest: (120_000, 900_000),
    };
    with_spread_faults(plan, chance, &kinds, &spread)
}

/// A plan of weeks of a cluster that looks less often, with hours between one fault and the next.
pub fn years(seed: u64) -> Plan {
    let mut plan = calm(seed);
    let mut chance = Chance::of(seed, "years", 0);
    let shape = &mut plan.shape;
    let synchronous = shape.spec.synchronous_replication;
    shape.keepers = 3;
    shape.sentinels = 2;
    shape.proxies = 2;
    shape.clients = 2;
    shape.pace = (60_000, 600_000);
    shape.standby_status = Duration::from_secs(10);
    shape.most_failovers = 3;
    shape.store_timeout = Duration::from_secs(5);
    let sleep = [10, 20, 30, 60][chance.index(4)];
    shape.lease = Duration::from_secs(20 + sleep);
    shape.spec = ClusterSpec {
        init_mode: Some(ClusterInitMode::New),
        sleep_interval: Some(millis(sleep * 1000)),
        fail_interval: Some(millis(sleep * 4000)),
        proxy_check_interval: Some(millis(sleep * 1000)),
        proxy_timeout: Some(millis(sleep * 3000)),
        synchronous_replication: synchronous,
        use_pgrewind: Some(chance.happens(500)),
        ..ClusterSpec::default()
    };
    let kinds: Vec<usize> = (0..KINDS).filter(|_| chance.happens(700)).collect();
    let spread = Spread {
        until: Duration::from_hours(24 * chance.between(2, 14)),
        pause: chance.between(1_800_000, 43_200_000),
        longest: (600_000, 7_200_000),
    };
    with_spread_faults(plan, chance, &kinds, &spread)
}
