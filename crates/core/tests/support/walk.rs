//! Random walks: what may happen to a cluster, one step after another.

use std::time::Duration;

use proptest::prelude::*;
use stolon_core::model::spec::ClusterInitMode;
use stolon_core::model::{ClusterSpec, KeeperUid};

use super::world::World;

/// Something that may happen.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// Milliseconds pass.
    Pass(u64),
    /// The primary writes so many bytes.
    Write(u64),
    /// Something befalls the keeper of this number; from 4 on the primary's.
    Keeper(usize, Fate),
    /// A proxy stops, starts, gets stuck, gets loose.
    Proxy(usize, Fate),
    /// The operator changes the spec.
    Set(Setting),
    /// `stolonctl failkeeper`.
    FailKeeper(usize),
    /// `stolonctl removekeeper`, refused for the primary's.
    RemoveKeeper(usize),
    /// Another sentinel, without memory, leads.
    NewLeader,
    /// The store goes, or comes back.
    Store(bool),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    Kill,
    Freeze,
    Start,
    Cut,
    Heal,
    Sicken,
    Recover,
    Stick,
    Loosen,
    /// It carries out what the document says and cannot say so.
    Mute,
    /// Its keeper gives up a primary that went down.
    Release,
    /// More WAL than it reported is in it when it is cut off.
    RunAhead,
    /// Half a record is the last that it received.
    HalfRecord,
    /// It may not run the primary, or may.
    ForbidPrimary(bool),
    /// It may not be synchronous, or may.
    ForbidSynchronous(bool),
    /// It is a Go keeper from now on, or not.
    Go(bool),
    /// A proxy leads clients to standbys from now on, or not.
    Read(bool),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    Synchronous(bool),
    /// Fewest, and how many more at most.
    Members(u16, u16),
    Lag(u32),
    Senders(u16),
    Forget(u64),
    Copy(u64),
}

/// The operator's and nature's doings; `settings` says whether the operator meddles with the spec.
pub(crate) fn happenings(settings: bool) -> impl Strategy<Value = Vec<Happening>> {
    let meddling = u32::from(settings);
    let number = 0_usize..6;
    let one = prop_oneof![
        6 => (1_u64..70).prop_map(|tenths| Happening::Pass(tenths * 100)),
        2 => (1_u64..2_000_000).prop_map(Happening::Write),
        9 => (number.clone(), fate()).prop_map(|(keeper, fate)| Happening::Keeper(keeper, fate)),
        1 => (0_usize..2, fate()).prop_map(|(proxy, fate)| Happening::Proxy(proxy, fate)),
        meddling => setting().prop_map(Happening::Set),
        1 => number.clone().prop_map(Happening::FailKeeper),
        meddling => number.prop_map(Happening::RemoveKeeper),
        1 => Just(Happening::NewLeader),
        1 => any::<bool>().prop_map(Happening::Store),
    ];
    proptest::collection::vec(one, 1..40)
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Kill),
        1 => Just(Fate::Freeze),
        4 => Just(Fate::Start),
        1 => Just(Fate::Cut),
        2 => Just(Fate::Heal),
        1 => Just(Fate::Sicken),
        2 => Just(Fate::Recover),
        1 => Just(Fate::Stick),
        2 => Just(Fate::Loosen),
        1 => Just(Fate::Mute),
        1 => Just(Fate::Release),
        1 => Just(Fate::RunAhead),
        1 => Just(Fate::HalfRecord),
        1 => any::<bool>().prop_map(Fate::ForbidPrimary),
        1 => any::<bool>().prop_map(Fate::ForbidSynchronous),
        1 => any::<bool>().prop_map(Fate::Go),
        1 => any::<bool>().prop_map(Fate::Read),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    prop_oneof![
        any::<bool>().prop_map(Setting::Synchronous),
        (0_u16..3, 0_u16..3).prop_map(|(least, more)| Setting::Members(least, more)),
        (0_u32..3_000_000).prop_map(Setting::Lag),
        (1_u16..4).prop_map(Setting::Senders),
        (1_u64..60).prop_map(Setting::Forget),
        (0_u64..20).prop_map(Setting::Copy),
    ]
}

/// A spec with short times, and what a walk begins with.
pub(crate) fn spec(synchronous: bool, least: u16, most: u16) -> ClusterSpec {
    ClusterSpec {
        init_mode: Some(ClusterInitMode::New),
        sleep_interval: Some(Duration::from_secs(1).into()),
        fail_interval: Some(Duration::from_secs(4).into()),
        proxy_timeout: Some(Duration::from_secs(3).into()),
        proxy_check_interval: Some(Duration::from_secs(1).into()),
        convergence_timeout: Some(Duration::from_secs(10).into()),
        synchronous_replication: Some(synchronous),
        min_synchronous_standbys: Some(least),
        max_synchronous_standbys: Some(most.max(1)),
        ..ClusterSpec::default()
    }
}

/// A world of four keepers and two proxies whose cluster has begun.
pub(crate) fn begun(spec: ClusterSpec, prefix: &str) -> World {
    let mut world = World::new(spec);
    for number in 1..=4 {
        world.add_keeper(&format!("{prefix}{number}"));
    }
    for number in 1..=2 {
        world.add_proxy(&format!("p{number}"));
    }
    world.lead();
    world.pass(Duration::from_secs(4));
    world
}

/// Has it happen.
pub(crate) fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Pass(millis) => world.pass(Duration::from_millis(*millis)),
        Happening::Write(bytes) => world.write_wal(*bytes),
        Happening::Keeper(number, fate) => befall_keeper(world, *number, *fate),
        Happening::Proxy(number, fate) => {
            let proxy = world.proxies.values_mut().nth(*number).expect("a proxy");
            match fate {
                Fate::Kill | Fate::Freeze => proxy.alive = false,
                Fate::Start => proxy.alive = true,
                Fate::Stick => proxy.stuck = true,
                Fate::Loosen => proxy.stuck = false,
                Fate::Go(go) => proxy.go = *go,
                Fate::Read(reads) => proxy.reads = *reads,
                _ => {}
            }
        }
        Happening::Set(setting) => set(world, *setting),
        Happening::FailKeeper(number) => {
            let name = name_of(world, *number);
            world.edit(|data| {
                if let Some(keeper) = data.keepers.get_mut(name.as_str()) {
                    keeper.status.force_fail = true;
                }
            });
        }
        Happening::RemoveKeeper(number) => remove(world, *number),
        Happening::NewLeader => {
            world.replace_sentinel();
            world.lead();
        }
        Happening::Store(up) => world.store_up = *up,
    }
}

/// The keeper of this number; past the last one it is the primary's, which matters most.
fn name_of(world: &World, number: usize) -> String {
    let data = world.data();
    let by_number = world.keepers.keys().nth(number).cloned();
    by_number
        .or_else(|| data.primary().map(|db| db.spec.keeper_uid.to_string()))
        .unwrap_or_else(|| world.keepers.keys().next().expect("a keeper").clone())
}

fn befall_keeper(world: &mut World, number: usize, fate: Fate) {
    let name = name_of(world, number);
    let revision = world.revision;
    let primary = world.running_primary().map(|instance| instance.db);
    let keeper = world.keeper(&name);
    match fate {
        Fate::Kill => {
            keeper.alive = false;
            keeper.boot += 1;
        }
        Fate::Freeze => keeper.alive = false,
        Fate::Start => {
            keeper.alive = true;
            keeper.mute = false;
        }
        Fate::Mute => keeper.mute = true,
        Fate::Cut => keeper.cut = true,
        Fate::Heal => keeper.cut = false,
        Fate::Sicken => keeper.healthy = false,
        Fate::Recover => keeper.healthy = true,
        Fate::Stick => keeper.stuck = true,
        Fate::Loosen => keeper.stuck = false,
        Fate::Release => {
            let runs_primary = keeper.instance.as_ref().map(|i| &i.db) == primary.as_ref();
            if runs_primary && primary.is_some() && !keeper.go {
                keeper.healthy = false;
                keeper.released_at = Some(revision);
            }
        }
        Fate::RunAhead => {
            let is_primary = keeper.instance.as_ref().is_some_and(|i| i.primary);
            if let Some(instance) = keeper.instance.as_mut().filter(|_| !is_primary) {
                keeper.cut = true;
                instance.lsn += 1000;
            }
        }
        Fate::HalfRecord => {
            if let Some(instance) = keeper.instance.as_mut().filter(|i| !i.primary) {
                instance.half = 40;
            }
        }
        Fate::ForbidPrimary(forbid) => keeper.can_be_master = !forbid,
        Fate::ForbidSynchronous(forbid) => keeper.can_be_synchronous = !forbid,
        Fate::Go(go) => keeper.go = go,
        Fate::Read(_) => {}
    }
}

fn set(world: &mut World, setting: Setting) {
    world.edit(|data| {
        let spec = data.cluster.as_mut().and_then(|c| c.spec.as_mut());
        let spec = spec.expect("a spec");
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds).into());
        match setting {
            Setting::Synchronous(on) => spec.synchronous_replication = Some(on),
            Setting::Members(least, more) => {
                spec.min_synchronous_standbys = Some(least);
                spec.max_synchronous_standbys = Some((least + more).max(1));
            }
            Setting::Lag(bytes) => spec.max_standby_lag = Some(bytes),
            Setting::Senders(most) => spec.max_standbys_per_sender = Some(most),
            Setting::Forget(after) => spec.dead_keeper_removal_interval = seconds(after),
            Setting::Copy(within) => spec.sync_timeout = seconds(within),
        }
        let cluster = data.cluster.as_mut().expect("a cluster");
        cluster.generation = cluster.generation.next();
    });
}

fn remove(world: &mut World, number: usize) {
    let name = name_of(world, number);
    world.edit(|data| {
        let uid = KeeperUid::from(name.as_str());
        let db = data.db_of(&uid).map(|db| db.uid.clone());
        let master = data.cluster.as_ref().and_then(|c| c.status.master.clone());
        if db.is_none() || db != master {
            data.keepers.remove(&uid);
            db.map(|db| data.dbs.remove(&db));
        }
    });
}

/// Everybody is there, healthy and obedient again.
pub(crate) fn heal(world: &mut World) {
    world.store_up = true;
    for keeper in world.keepers.values_mut() {
        keeper.alive = true;
        keeper.healthy = true;
        keeper.stuck = false;
        keeper.cut = false;
        keeper.mute = false;
        keeper.released_at = None;
        keeper.can_be_master = true;
        keeper.can_be_synchronous = true;
    }
    for proxy in world.proxies.values_mut() {
        proxy.alive = true;
        proxy.stuck = false;
    }
}
