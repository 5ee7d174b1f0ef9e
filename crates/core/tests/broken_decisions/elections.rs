//! I2, I2a, I3, I10: primaries replaced without cause or not at all, and by the wrong one.

use stolon_core::model::{DbUid, Role};

use crate::small::{Health, Membership, Place, Primary, ProxyState, Small, Standby, db_uid};
use crate::{LEVEL, Proof, crown, edit, failed, new_standby, proof, rename_primary, serving};

pub(crate) fn proofs() -> Vec<Proof> {
    let mut proofs = causes();
    proofs.extend(winners());
    proofs
}

fn causes() -> Vec<Proof> {
    vec![
        // The decision keeps everything as it was.
        proof("failed-primary-kept", failed(), |before, after| {
            *after = before.clone();
        }),
        // Clients read from it through a proxy, which was told to leave another one.
        proof(
            "promoted-under-readers",
            Small {
                proxies: vec![ProxyState::Reads],
                successor: Some(2),
                ..failed()
            },
            |_, after| {
                edit(after, 1, |db| db.spec.role = Some(Role::Primary));
                rename_primary(after, 1);
                after.proxy.spec.successor_db_uid = DbUid::default();
            },
        ),
        proof("successor-without-cause", serving(), |_, after| {
            after.proxy.spec.primary_db_uid = DbUid::default();
            after.proxy.spec.successor_db_uid = db_uid(1);
        }),
        proof(
            "open-beside-a-successor",
            Small {
                proxies: vec![ProxyState::ReadsBehind],
                ..failed()
            },
            |_, after| after.proxy.spec.primary_db_uid = db_uid(0),
        ),
        // The other one is further, but proxies are leaving this one.
        proof(
            "successor-passed-over",
            Small {
                proxies: vec![ProxyState::ReadsBehind],
                successor: Some(2),
                ..failed()
            },
            |_, after| after.proxy.spec.successor_db_uid = db_uid(1),
        ),
        proof("successor-for-good", failed(), |_, after| {
            after.proxy.spec.successor_db_uid = db_uid(1);
        }),
        proof("failover-without-cause", serving(), |_, after| {
            edit(after, 1, |db| db.spec.role = Some(Role::Primary));
            rename_primary(after, 1);
        }),
        proof(
            "failover-limit",
            Small {
                recent_failovers: 3,
                ..failed()
            },
            |_, after| {
                edit(after, 1, |db| db.spec.role = Some(Role::Primary));
                rename_primary(after, 1);
            },
        ),
        proof("winner-from-nowhere", failed(), |_, after| {
            let mut new = new_standby(9, "k2");
            new.spec.role = Some(Role::Primary);
            after.dbs.insert(new.uid.clone(), new);
            rename_primary(after, 9);
        }),
        Proof {
            before: |data, _| {
                edit(data, 2, |db| {
                    db.spec.role = Some(Role::Primary);
                    db.spec.follow_config = None;
                });
            },
            ..proof("winner-not-a-standby", failed(), |_, after| {
                rename_primary(after, 2);
            })
        },
    ]
}

fn winners() -> Vec<Proof> {
    let unfit = [
        Standby(Health::Streams, Place::FarBehind, Membership::Out),
        Standby(Health::Streams, Place::Overrun, Membership::Out),
        Standby(Health::Streams, Place::Elsewhere, Membership::Out),
        Standby(Health::Streams, Place::Unknown, Membership::Out),
        Standby(Health::Copying, Place::Level, Membership::Out),
    ];
    let confirmed_and_not = [
        LEVEL,
        Standby(Health::Streams, Place::Behind, Membership::Confirmed),
    ];
    let mut proofs = vec![
        // The least advanced candidate wins.
        proof("winner-not-most-advanced", failed(), |_, after| {
            crown(after, 1, 2);
        }),
        // An unconfirmed standby that is further wins over the confirmed one.
        proof(
            "winner-ineligible",
            Small::synchronous((1, 1), Primary::Silent, &confirmed_and_not),
            |_, after| crown(after, 2, 1),
        ),
        Proof {
            before: |_, view| {
                let keeper = view.keepers.get_mut("k1").expect("a keeper");
                keeper.info.as_mut().expect("heard").can_be_master = Some(false);
            },
            ..proof("winner-ineligible", failed(), |_, after| crown(after, 2, 1))
        },
    ];
    proofs.extend(unfit.map(|standby| {
        let world = Small::asynchronous(Primary::Silent, &[LEVEL, standby]);
        proof("winner-ineligible", world, |_, after| crown(after, 1, 2))
    }));
    proofs
}
