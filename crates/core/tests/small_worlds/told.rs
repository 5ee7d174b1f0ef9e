//! Who is to be the primary, from nothing but the words that a small world is told in: neither the
//! document nor the reports are read, so that a mistake in reading them shows.

use stolon_core::model::ClusterData;

use crate::small::{Health, Membership, Place, Primary, ProxyState, Small, Standby, db_uid};

/// How the primary that was decided differs from the one that is to be by the words.
pub(crate) fn difference(world: &Small, decided: &ClusterData) -> Option<String> {
    let told = db_uid(primary(world));
    let decided = decided.cluster.as_ref()?.status.master.as_ref()?;
    let text = || format!("as told {told} is the primary, decided was {decided}");
    (*decided != told).then(text)
}

/// The number of the db that is to be the primary after one decision.
fn primary(world: &Small) -> usize {
    let waits = world.synchronous.is_some() && (world.in_force || world.primary == Primary::Gone);
    let failed = match world.primary {
        Primary::Good | Primary::Converging | Primary::Recovering => false,
        Primary::Released => waits,
        Primary::Sick | Primary::Silent | Primary::Overdue | Primary::Forced | Primary::Gone => {
            true
        }
    };
    let too_many = world.recent_failovers >= 3 && world.primary != Primary::Forced;
    if !failed || too_many {
        return 0;
    }
    let numbered = (1..).zip(&world.standbys);
    let mut able: Vec<(usize, &Standby)> =
        numbered.filter(|it| may_win(world, waits, *it.1)).collect();
    able.sort_by_key(|(number, standby)| (rank(standby.1), *number));
    let first = able.first().map(|(number, _)| *number);
    let nobody_reads = |number: &usize| {
        world.proxies.iter().all(|proxy| match proxy {
            ProxyState::Unheard | ProxyState::ReadsBehind => false,
            ProxyState::Reads | ProxyState::ReadsDead => world.successor == Some(*number),
            _ => true,
        })
    };
    first.filter(nobody_reads).unwrap_or(0)
}

fn may_win(world: &Small, waits: bool, standby: Standby) -> bool {
    let Standby(health, place, membership) = standby;
    let well = matches!(health, Health::Streams | Health::Apart) && place != Place::Unknown;
    if world.primary == Primary::Gone {
        // Nobody knows what it had: who has everything is not known either.
        return well && !waits;
    }
    let (same, near) = match place {
        Place::Level | Place::Behind => (true, true),
        Place::FarBehind | Place::Earlier => (true, false),
        Place::Unknown
        | Place::Overrun
        | Place::Half
        | Place::HalfForLong
        | Place::Later
        | Place::Elsewhere
        | Place::ElsewhereBehind
        | Place::ElsewhereFarBehind => (false, false),
    };
    // What it said last counts when it was well, and did what the document says.
    let believed = matches!(world.primary, Primary::Silent | Primary::Forced);
    let confirmed = match membership {
        Membership::Out | Membership::Listed => false,
        Membership::JustConfirmed => believed,
        Membership::Confirmed => true,
    };
    well && same && if waits { confirmed } else { near }
}

/// The furthest first; at one position the higher timeline.
fn rank(place: Place) -> usize {
    let order: [&[Place]; 6] = [
        &[Place::Later],
        &[Place::Level, Place::Elsewhere],
        &[Place::Behind, Place::ElsewhereBehind],
        &[Place::Overrun],
        &[Place::FarBehind, Place::ElsewhereFarBehind],
        &[Place::Half, Place::HalfForLong],
    ];
    let found = order.iter().position(|equals| equals.contains(&place));
    found.unwrap_or(order.len())
}
