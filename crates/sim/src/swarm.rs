//! From a seed to a plan: which cluster, which kinds of fault, how often.

mod long;
mod mixed;
mod operators;
mod reading;
mod standby;

use std::time::Duration;

use stolon_core::model::spec::ClusterInitMode;
use stolon_core::model::{ClusterSpec, GoDuration};

use crate::chance::Chance;
use crate::plan::{Fault, FaultKind, Plan, Shape};
use crate::world::past::GoesBack;
use crate::world::{Actor, Time};
pub use long::{days, years};
pub use mixed::mixed;
pub use reading::readers;
pub use standby::standby;

/// Faults begin no earlier than this: a cluster needs a while to begin.
const FIRST_FAULT: Duration = Duration::from_secs(20);
/// Kinds of fault that a seed may draw.
const KINDS: usize = 24;

fn millis(value: u64) -> GoDuration {
    Duration::from_millis(value).into()
}

fn spec(chance: &mut Chance, keepers: usize) -> ClusterSpec {
    let sleep = [500, 1000, 1000, 2000][chance.index(4)];
    let check = [500, 1000, 2000][chance.index(3)];
    let synchronous = chance.happens(600);
    let most = chance.between(1, 2.min(keepers as u64 - 1));
    let most = u16::try_from(most).unwrap_or(1);
    let least = u16::try_from(chance.between(0, u64::from(most)))
        .unwrap_or(1)
        .max(1);
    ClusterSpec {
        init_mode: Some(ClusterInitMode::New),
        sleep_interval: Some(millis(sleep)),
        fail_interval: Some(millis(sleep * chance.between(3, 8))),
        convergence_timeout: Some(millis(chance.between(8, 30) * 1000)),
        init_timeout: Some(millis(60_000)),
        sync_timeout: chance.happens(300).then(|| Duration::from_secs(40).into()),
        proxy_check_interval: Some(millis(check)),
        proxy_timeout: Some(millis(check * chance.between(2, 5))),
        dead_keeper_removal_interval: chance.happens(300).then(|| Duration::from_secs(90).into()),
        max_standby_lag: Some([4096, 65_536, 1 << 20][chance.index(3)]),
        synchronous_replication: Some(synchronous),
        min_synchronous_standbys: Some(least),
        max_synchronous_standbys: Some(most),
        ..ClusterSpec::default()
    }
}

/// A plan without faults.
pub fn calm(seed: u64) -> Plan {
    let mut chance = Chance::of(seed, "shape", 0);
    let keepers = 2 + chance.index(3);
    let shape = Shape {
        keepers,
        sentinels: 1 + chance.index(3),
        proxies: 1 + chance.index(3),
        go_keepers: 0,
        go_proxies: 0,
        go_sentinels: 0,
        reading: None,
        clients: 2 + chance.index(3),
        direct_clients: 0,
        outside: 0,
        outside_pace: (100, 1000),
        together: chance.happens(400),
        spec: spec(&mut chance, keepers),
        most_failovers: if chance.happens(300) { 3 } else { 1000 },
        store_timeout: chance.millis(1000, 5000),
        lease: Duration::from_secs(chance.between(4, 6)),
        standby_status: Duration::from_secs(1),
        pace: (100, chance.between(300, 2500)),
        calm_from: FIRST_FAULT,
    };
    Plan {
        seed,
        shape,
        faults: Vec::new(),
        sabotage: None,
    }
}

/// The plan of a seed: each draws which kinds of fault exist, and how often.
pub fn plan(seed: u64) -> Plan {
    let plan = calm(seed);
    let mut chance = Chance::of(seed, "faults", 0);
    let share = chance.between(100, 500);
    let kinds: Vec<usize> = (0..KINDS).filter(|_| chance.happens(share)).collect();
    let mut plan = with_faults(plan, chance, &kinds);
    if Chance::of(seed, "rewind", 0).happens(250) {
        plan.shape.spec.use_pgrewind = Some(true);
    }
    // Drawn apart: the other seeds mean what they meant before there were such faults.
    let mut chance = Chance::of(seed, "store goes back", 0);
    if chance.happens(150) {
        let times = chance.between(1, 2);
        store_goes_back(&mut plan, &mut chance, times);
    }
    let mut chance = Chance::of(seed, "requests", 0);
    if chance.happens(250) {
        operators::wishes(&mut plan, &mut chance);
    }
    let mut chance = Chance::of(seed, "two leaders", 0);
    if chance.happens(200) {
        delusions(&mut plan, &mut chance);
    }
    let mut chance = Chance::of(seed, "clients cut off", 0);
    if chance.happens(200) {
        clients_cut_off(&mut plan, &mut chance);
    }
    reading::draw(&mut plan, 300);
    plan
}

/// A moment amid the other faults, and how much of them there is.
fn amid(plan: &Plan, chance: &mut Chance) -> Time {
    let ends = plan.shape.calm_from.max(FIRST_FAULT * 3);
    let most = u64::try_from(ends.saturating_sub(FIRST_FAULT).as_millis()).unwrap_or(0);
    FIRST_FAULT + chance.millis(0, most)
}

fn add(plan: &mut Plan, at: Time, lasts: Duration, kind: FaultKind) {
    plan.faults.push(Fault { at, lasts, kind });
    plan.faults.sort_by_key(|fault| fault.at);
    plan.shape.calm_from = plan.shape.calm_from.max(at + lasts);
}

/// A plan with failovers, and sentinels that believe that they lead while another does.
pub fn two_leaders(seed: u64) -> Plan {
    let mut plan = failovers(seed);
    plan.shape.sentinels = 3;
    let mut chance = Chance::of(seed, "two leaders", 0);
    for _ in 0..3 {
        delusions(&mut plan, &mut chance);
    }
    plan
}

/// Sentinels that believe that they lead while another does.
fn delusions(plan: &mut Plan, chance: &mut Chance) {
    for _ in 0..chance.between(1, 4) {
        let at = amid(plan, chance);
        let kind = FaultKind::BelievesToLead(chance.index(plan.shape.sentinels));
        add(plan, at, chance.millis(1000, 40_000), kind);
    }
}

/// Nothing comes from a client to a proxy, or back: the one goes on with sockets that the other has
/// given up.
fn clients_cut_off(plan: &mut Plan, chance: &mut Chance) {
    let shape = &plan.shape;
    let apart = shape.keepers + shape.sentinels + shape.proxies;
    let (clients, hosts) = (shape.clients, apart);
    for _ in 0..chance.between(1, 4) {
        let at = amid(plan, chance);
        let client = 1 + apart + chance.index(clients);
        let other = 1 + chance.index(hosts);
        let kind = if chance.happens(500) {
            FaultKind::Cut(client, other)
        } else {
            FaultKind::Cut(other, client)
        };
        add(plan, at, chance.millis(500, 20_000), kind);
    }
}

/// A plan with failovers, and a store that goes back to before one of them.
pub fn store_restored(seed: u64) -> Plan {
    let mut plan = failovers(seed);
    store_goes_back(&mut plan, &mut Chance::of(seed, "store goes back", 0), 4);
    plan
}

fn store_goes_back(plan: &mut Plan, chance: &mut Chance, times: u64) {
    let ends = plan.shape.calm_from.max(FIRST_FAULT * 3);
    for _ in 0..times {
        let age = chance.millis(500, 60_000);
        let kind = match chance.below(8) {
            0 | 1 => FaultKind::DataGone(if chance.happens(500) { Time::ZERO } else { age }),
            2 => FaultKind::BeginAnew,
            3 | 4 => FaultKind::StoreGoesBack(GoesBack::WrittenOver, age),
            _ => FaultKind::StoreGoesBack(GoesBack::Restored, age),
        };
        let at = FIRST_FAULT
            + chance.millis(
                0,
                u64::try_from(ends.saturating_sub(FIRST_FAULT).as_millis()).unwrap_or(0),
            );
        let lasts = chance.millis(50, 8000);
        plan.faults.push(Fault { at, lasts, kind });
        plan.shape.calm_from = plan.shape.calm_from.max(at + lasts);
    }
    plan.faults.sort_by_key(|fault| fault.at);
}

/// A plan with nothing but the faults that failovers are made of, for several keepers and busy
/// clients: what is broken in an election or behind proxies shows soon.
pub fn failovers(seed: u64) -> Plan {
    let mut plan = calm(seed);
    plan.shape.keepers = 3 + usize::from(seed.is_multiple_of(2));
    plan.shape.proxies = 3;
    plan.shape.pace = (10, 200);
    plan.shape.most_failovers = 1000;
    let chance = Chance::of(seed, "faults", 0);
    with_faults(plan, chance, &[2, 3, 4, 6, 7, 12, 13, 14, 15, 16, 23])
}

/// A plan in which standbys lag, one of them goes, and the primary a moment after the synchronous set
/// was changed for that: in a part of the seeds it is the right two.
pub fn lagging_standbys(seed: u64) -> Plan {
    let mut plan = calm(seed);
    let mut chance = Chance::of(seed, "faults", 0);
    plan.shape.keepers = 3;
    plan.shape.together = false;
    plan.shape.pace = (10, 100);
    plan.shape.most_failovers = 1000;
    let spec = &mut plan.shape.spec;
    spec.sleep_interval = Some(millis(500));
    spec.fail_interval = Some(millis(1500));
    spec.synchronous_replication = Some(true);
    spec.min_synchronous_standbys = Some(1);
    spec.max_synchronous_standbys = Some(1);
    for round in 0..4 {
        let first = chance.index(3);
        let second = (first + 1 + chance.index(2)) % 3;
        let third = 3 - first - second;
        let at = Duration::from_secs(30 + 40 * round);
        let lasts = Duration::from_secs(12);
        let kind = FaultKind::Cut(1 + second, 1 + third);
        plan.faults.push(Fault { at, lasts, kind });
        let at = at + Duration::from_secs(2);
        let kind = FaultKind::CrashHost(1 + first);
        plan.faults.push(Fault { at, lasts, kind });
        let at = at + chance.millis(1500, 4500);
        let kind = FaultKind::CrashHost(1 + second);
        plan.faults.push(Fault { at, lasts, kind });
    }
    plan.shape.calm_from = Duration::from_secs(190);
    plan
}

/// How faults are spread over a run.
struct Spread {
    /// No fault begins later.
    until: Time,
    /// Half of the longest pause between two, in milliseconds.
    pause: u64,
    /// The longest faults, in milliseconds: most, and a few.
    longest: (u64, u64),
}

fn with_faults(plan: Plan, mut chance: Chance, kinds: &[usize]) -> Plan {
    let spread = Spread {
        until: Duration::from_secs(chance.between(40, 160)) + FIRST_FAULT,
        pause: chance.between(1500, 15_000),
        longest: (9000, 40_000),
    };
    with_spread_faults(plan, chance, kinds, &spread)
}

fn with_spread_faults(
    mut plan: Plan,
    mut chance: Chance,
    kinds: &[usize],
    spread: &Spread,
) -> Plan {
    if kinds.is_empty() {
        return plan;
    }
    let pause = spread.pause;
    // Faults that follow one another closely find what single ones do not.
    let bursts = chance.below(600);
    let mut at = FIRST_FAULT;
    loop {
        let is_close = chance.happens(bursts);
        at += chance.millis(50, if is_close { 2000 } else { 2 * pause });
        if at >= spread.until {
            break;
        }
        let kind = kinds[chance.index(kinds.len())];
        let kind = draw(&mut chance, &plan.shape, kind);
        let long = chance.happens(200);
        let (short, longest) = spread.longest;
        let lasts = chance.millis(100, if long { longest } else { short });
        plan.faults.push(Fault { at, lasts, kind });
    }
    let ends = plan.faults.iter().map(|fault| fault.at + fault.lasts);
    plan.shape.calm_from = ends.max().unwrap_or(Time::ZERO).max(FIRST_FAULT);
    plan
}

fn actor(chance: &mut Chance, shape: &Shape) -> Actor {
    match chance.below(4) {
        0 => Actor::Sentinel(chance.index(shape.sentinels)),
        1 => Actor::Proxy(chance.index(shape.proxies)),
        _ => Actor::Keeper(chance.index(shape.keepers)),
    }
}

fn draw(chance: &mut Chance, shape: &Shape, kind: usize) -> FaultKind {
    let k = chance.index(shape.keepers);
    let apart = if shape.together {
        0
    } else {
        shape.sentinels + shape.proxies
    };
    let hosts = shape.keepers + apart;
    let host = 1 + chance.index(hosts);
    // The store's host too.
    let other = (host + 1 + chance.index(hosts)) % (hosts + 1);
    match kind {
        0 => FaultKind::Kill(actor(chance, shape)),
        1 => FaultKind::KillAfter(
            actor(chance, shape),
            u32::try_from(chance.between(1, 60)).unwrap_or(1),
        ),
        2 => FaultKind::Pause(actor(chance, shape)),
        3 => FaultKind::PauseHost(host),
        4 => FaultKind::CrashHost(host),
        5 => FaultKind::LoseDisk(k),
        6 => FaultKind::KillPostmaster(k, chance.happens(300)),
        7 => FaultKind::Pause(Actor::Postgres(k)),
        8 => FaultKind::StartsDie(k, u32::try_from(chance.between(1, 3)).unwrap_or(1)),
        9 => FaultKind::PromotionsDie(k),
        10 => FaultKind::CopiesFail(k),
        11 => FaultKind::DiskFull(k),
        12 => FaultKind::SlowDisk(k, chance.between(10, 1500)),
        13 => FaultKind::Cut(host, other),
        14 => FaultKind::Isolate(host, true, true),
        15 => {
            let out = chance.happens(500);
            FaultKind::Isolate(host, out, !out)
        }
        16 => FaultKind::Trouble(host),
        17 => FaultKind::StoreDown,
        18 => FaultKind::StoreSlow(chance.between(50, 4000)),
        19 => FaultKind::StoreLosesAnswers(chance.between(20, 400)),
        20 => FaultKind::StoreExpiresLate(chance.millis(1000, 40_000)),
        21 => FaultKind::StallWatch(actor(chance, shape)),
        22 => FaultKind::WallJump(
            host,
            i64::try_from(chance.below(600_000)).unwrap_or(0) - 300_000,
        ),
        _ => operators::change(chance, k),
    }
}
