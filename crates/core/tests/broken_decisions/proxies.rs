//! I1: two primaries, and proxies that open too early.

use stolon_core::model::{ClusterData, FollowConfig, Generation, ProxyUid, Role};

use crate::small::{Primary, ProxyState, Route, Small, db_uid};
use crate::{Proof, edit, failed, later, proof, serving};

fn closed(proxies: &[ProxyState]) -> Small {
    Small {
        route: Route::Closed,
        proxies: proxies.to_vec(),
        ..serving()
    }
}

fn open(after: &mut ClusterData) {
    after.proxy.spec.primary_db_uid = db_uid(0);
    after.proxy.generation = Generation(6);
}

pub(crate) fn proofs() -> Vec<Proof> {
    let mut proofs = roles();
    proofs.extend(openings());
    proofs
}

fn roles() -> Vec<Proof> {
    vec![
        // The proxies are sent from one primary to the next in one step.
        proof("primary-to-primary", failed(), |_, after| {
            after.proxy.spec.primary_db_uid = db_uid(1);
        }),
        proof("proxies-name-another", failed(), |_, after| {
            after.proxy.spec.primary_db_uid = db_uid(0);
        }),
        proof("role-flip", failed(), |_, after| {
            edit(after, 0, |old| {
                old.spec.role = Some(Role::Standby);
                old.spec.follow_config = Some(FollowConfig::internal(db_uid(1)));
            });
        }),
        proof("second-primary", serving(), |_, after| {
            edit(after, 1, |db| db.spec.role = Some(Role::Primary));
        }),
    ]
}

fn openings() -> Vec<Proof> {
    let acknowledged = [ProxyState::Acknowledged, ProxyState::Acknowledged];
    let unacknowledged = [
        ProxyState::Behind,
        ProxyState::GoJustNow,
        ProxyState::Unheard,
    ];
    let mut proofs = vec![
        // A primary just elected has not read that it is one.
        proof(
            "opened-unready",
            Small {
                route: Route::Closed,
                ..failed()
            },
            |_, after| {
                after.proxy.spec.primary_db_uid = db_uid(1);
            },
        ),
        proof(
            "opened-unready",
            Small {
                primary: Primary::Recovering,
                ..closed(&acknowledged)
            },
            |_, after| open(after),
        ),
        proof(
            "opened-unpromised",
            Small {
                synchronous: Some((1, 1)),
                in_force: false,
                ..closed(&acknowledged)
            },
            |_, after| open(after),
        ),
        proof(
            "silent-proxy-enabled",
            closed(&[ProxyState::Dead]),
            |_, after| {
                after.proxy.spec.enabled_proxies.push(ProxyUid::from("p0"));
            },
        ),
        Proof {
            before: later,
            ..proof("open-behind-the-times", serving(), |_, after| {
                after.proxy.spec.primary_db_uid = db_uid(0);
            })
        },
        proof("live-proxy-shut-out", serving(), |_, after| {
            after.proxy.spec.enabled_proxies.clear();
        }),
    ];
    proofs.extend(unacknowledged.map(|state| {
        proof("opened-unacknowledged", closed(&[state]), |_, after| {
            open(after);
        })
    }));
    proofs
}
