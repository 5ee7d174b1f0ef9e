//! I1, I8: one primary behind the proxies, and only the named one becomes writable.

use super::scene::{Scene, is_good, master};
use super::{Found, Invariant};
use crate::model::{DbUid, Role};

pub(super) fn check(scene: &Scene<'_>, found: &mut Found) {
    roles(scene, found);
    let (from, to) = (
        &scene.before.proxy.spec.primary_db_uid,
        &scene.after.proxy.spec.primary_db_uid,
    );
    let through_none = from.is_empty() || to.is_empty() || from == to;
    found.require(through_none, Invariant::I1, "primary-to-primary", || {
        format!("proxies go from {from} to {to} without being closed in between")
    });
    let primary = master(scene.after);
    let named = to.is_empty() || Some(to) == primary.as_ref();
    found.require(named, Invariant::I1, "proxies-name-another", || {
        format!("proxies forward to {to} while the primary is {primary:?}")
    });
    let successor = &scene.after.proxy.spec.successor_db_uid;
    let closed = successor.is_empty() || to.is_empty();
    found.require(closed, Invariant::I1, "open-beside-a-successor", || {
        format!("proxies are open to {to}, and {successor} is to replace it")
    });
    let goes_on = successor.is_empty() || !scene.is_elected();
    found.require(goes_on, Invariant::Liveness, "successor-for-good", || {
        format!("the primary is another one, and nobody reads from {successor} yet")
    });
    let later = scene.step.view.later_primaries(scene.before);
    let stands = to.is_empty() || later.is_empty() || !scene.is_normal();
    found.require(stands, Invariant::I1, "open-behind-the-times", || {
        format!("proxies are open to {to}, and newer cluster data made others the primary")
    });
    if from.is_empty() && !to.is_empty() {
        opened(scene, to, found);
    }
    enabled(scene, found);
}

/// A primary is never made a standby under its name, and nobody but the named primary is made one.
fn roles(scene: &Scene<'_>, found: &mut Found) {
    let primary = master(scene.after);
    for (uid, db) in &scene.after.dbs {
        let was = scene.before.dbs.get(uid).map(|db| &db.spec.role);
        let was_primary = was == Some(&Some(Role::Primary));
        let is_primary = db.spec.role == Some(Role::Primary);
        found.require(
            !was_primary || is_primary,
            Invariant::I8,
            "role-flip",
            || {
                format!(
                    "db {uid} was a primary and is made {:?} under the same uid",
                    db.spec.role
                )
            },
        );
        let made = is_primary && !was_primary;
        let may = !made || primary.as_ref() == Some(uid);
        found.require(may, Invariant::I8, "second-primary", || {
            format!("db {uid} is made a primary, and the primary is {primary:?}")
        });
    }
}

/// Proxies open to a primary of an earlier document that serves as it is to, when every proxy that
/// may still forward is known to be closed.
fn opened(scene: &Scene<'_>, to: &DbUid, found: &mut Found) {
    let db = scene.dbs.get(to);
    let stands = master(scene.before).as_ref() == Some(to);
    let good = db.is_some_and(is_good);
    let recovers = scene
        .report(to)
        .and_then(|report| report.instance.as_ref()?.in_recovery)
        .unwrap_or(false);
    let promoted = !recovers || scene.is_standby_cluster();
    found.require(stands && good && promoted, Invariant::I1, "opened-unready", || {
        format!(
            "proxies open to {to}: named before {stands}, good {good}, out of recovery {promoted}"
        )
    });
    let replicates = |data: &crate::model::ClusterData| {
        let db = data.dbs.get(to);
        db.map(|db| db.spec.synchronous_replication)
    };
    let promised = replicates(scene.before) == replicates(scene.after);
    found.require(promised, Invariant::I2, "opened-unpromised", || {
        format!("proxies open to {to} in the same document that changes its replication mode")
    });
    let generation = scene.before.proxy.generation;
    for (uid, proxy) in &scene.step.view.proxies {
        let carried_out = proxy.generation == Some(generation);
        let closed = proxy.closes_first || proxy.acknowledged_for >= scene.spec.sleep_interval;
        let known = !proxy.live || (carried_out && closed);
        found.require(known, Invariant::I1, "opened-unacknowledged", || {
            format!(
                "proxies open to {to} while proxy {uid}, at generation {:?} of {generation}, may \
                 still forward elsewhere",
                proxy.generation
            )
        });
    }
}

/// Those that are heard are enabled, and nobody who is silent is.
fn enabled(scene: &Scene<'_>, found: &mut Found) {
    let enabled = &scene.after.proxy.spec.enabled_proxies;
    for (uid, proxy) in &scene.step.view.proxies {
        let listed = enabled.contains(uid);
        let was = scene.before.proxy.spec.enabled_proxies.contains(uid);
        found.require(
            listed <= proxy.live,
            Invariant::I1,
            "silent-proxy-enabled",
            || format!("proxy {uid} is enabled though it is silent"),
        );
        let wanted = proxy.live && (proxy.heard || was);
        found.require(
            wanted <= listed,
            Invariant::Liveness,
            "live-proxy-shut-out",
            || format!("proxy {uid} lives and is not enabled"),
        );
    }
}
