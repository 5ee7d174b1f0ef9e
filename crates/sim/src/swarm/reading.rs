//! Plans in which clients read from standbys.

use std::time::Duration;

use stolon_core::proxy::MaxLag;

use super::{delusions, failovers, store_goes_back};
use crate::chance::Chance;
use crate::plan::{Plan, Reading};

/// A plan of failovers with clients that read from standbys; in a part of the seeds the store goes back
/// too, or sentinels believe that they lead while another does.
pub fn readers(seed: u64) -> Plan {
    let mut plan = failovers(seed);
    let mut chance = Chance::of(seed, "readers", 0);
    if chance.happens(250) {
        store_goes_back(&mut plan, &mut chance, 2);
    }
    if chance.happens(250) {
        delusions(&mut plan, &mut chance);
    }
    draw(&mut plan, 1000);
    plan
}

/// In so many seeds of a thousand clients read from standbys. Drawn apart, and last: the other seeds mean
/// what they meant before there were such clients.
pub(super) fn draw(plan: &mut Plan, share: u64) {
    let mut chance = Chance::of(plan.seed, "reading", 0);
    if !chance.happens(share) {
        return;
    }
    let spec = plan.shape.spec.effective();
    // What the primary and a standby publish is known to be level within two rounds.
    let least = (spec.sleep_interval + spec.proxy_check_interval) * 3 + Duration::from_secs(1);
    let least = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
    plan.shape.reading = Some(Reading {
        proxies: 1 + chance.index(plan.shape.proxies),
        clients: 1 + chance.index(3),
        max_lag: MaxLag {
            bytes: [1 << 16, 1 << 20, 1 << 24][chance.index(3)],
            time: chance.millis(least, least * 3),
        },
    });
}
