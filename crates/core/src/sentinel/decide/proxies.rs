//! When proxies close, and when they may open (I1, I6; contract, section 7).

use super::{Draft, generations};
use crate::model::{Db, DbUid, ProxyUid};
use crate::reason::Reason;

/// Closes the proxies when the primary changed, and opens them to the present one when it serves
/// and nobody can forward to another any more.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let primary = draft.primary_uid().unwrap_or_default();
    let open_to = draft.next.proxy.spec.primary_db_uid.clone();
    if !open_to.is_empty() && generations::proxies_are_ahead(draft.before, draft.view) {
        draft.next.proxy.spec.primary_db_uid = DbUid::default();
        let text = "closing all proxies: the cluster data went back, and some may go by newer ones";
        draft.because(Reason::warn("proxies-ahead", text).with("db", open_to));
    } else if !open_to.is_empty() && open_to != primary {
        draft.next.proxy.spec.primary_db_uid = DbUid::default();
        let text = "closing all proxies: the primary is another one";
        draft.because(Reason::info("proxies-close", text).with("db", open_to));
    } else if !draft.next.proxy.spec.successor_db_uid.is_empty() {
        draft.next.proxy.spec.primary_db_uid = DbUid::default();
        if !open_to.is_empty() {
            let text = "closing all proxies: the primary is to be replaced";
            draft.because(Reason::info("proxies-close", text).with("db", open_to));
        }
    } else if open_to.is_empty()
        && !primary.is_empty()
        && !generations::proxies_are_ahead(draft.before, draft.view)
    {
        open(draft, &primary);
    }
    enable(draft);
}

/// Closes the proxies, whoever is the primary.
pub(super) fn close(draft: &mut Draft<'_>) {
    let open_to = std::mem::take(&mut draft.next.proxy.spec.primary_db_uid);
    if !open_to.is_empty() {
        let text = "closing all proxies: the cluster data are from before a failover";
        draft.because(Reason::warn("proxies-close", text).with("db", open_to));
    }
    enable(draft);
}

fn open(draft: &mut Draft<'_>, primary: &DbUid) {
    let Some(db) = draft.next.dbs.get(primary) else {
        return;
    };
    if !draft.is_primary_good() || !is_promoted(draft, db) || !keeps_its_promises(draft, db) {
        return;
    }
    let waiting: Vec<&str> = draft
        .view
        .proxies
        .iter()
        .filter(|(_, proxy)| proxy.live && !has_acknowledged(draft, proxy))
        .map(|(uid, _)| uid.as_str())
        .collect();
    if waiting.is_empty() {
        draft.next.proxy.spec.primary_db_uid = primary.clone();
        let text = "opening the proxies to the primary";
        draft.because(Reason::info("proxies-open", text).with("db", primary));
    } else {
        let waiting = waiting.join(" ");
        let text = "waiting for proxies to close before opening to the primary";
        draft.because(Reason::info("proxies-wait", text).with("proxies", waiting));
    }
}

/// Whether its promotion is finished, as far as its keeper tells (scenario A13).
fn is_promoted(draft: &Draft<'_>, db: &Db) -> bool {
    let report = draft.db_view(&db.uid).and_then(|view| view.report.as_ref());
    let in_recovery = report
        .and_then(|r| r.instance.as_ref()?.in_recovery)
        .unwrap_or(false);
    draft.follows_outside() || !in_recovery
}

/// Whether it already runs in the replication mode that is asked for: a commit that a client sees
/// acknowledged before synchronous replication is in force would be promised to nobody (I2).
fn keeps_its_promises(draft: &Draft<'_>, db: &Db) -> bool {
    let before = draft
        .before
        .dbs
        .get(&db.uid)
        .map(|before| before.spec.synchronous_replication);
    before == Some(db.spec.synchronous_replication)
}

/// Whether a live proxy is known to forward nothing: it has carried out the instruction in force,
/// which is to be closed.
fn has_acknowledged(draft: &Draft<'_>, proxy: &super::super::observe::ProxyView) -> bool {
    let carried_out = proxy.generation == Some(draft.next.proxy.generation);
    carried_out && (proxy.closes_first || proxy.acknowledged_for >= draft.spec.sleep_interval)
}

/// Every live proxy is enabled; one that has been silent for too long to forward is not.
fn enable(draft: &mut Draft<'_>) {
    let live: Vec<ProxyUid> = draft
        .view
        .proxies
        .iter()
        .filter(|(uid, proxy)| {
            let enabled = draft.next.proxy.spec.enabled_proxies.contains(uid);
            proxy.live && (proxy.heard || enabled)
        })
        .map(|(uid, _)| uid.clone())
        .collect();
    // Another order is no change: every proxy would have to acknowledge it.
    let mut enabled = draft.next.proxy.spec.enabled_proxies.clone();
    enabled.sort();
    if enabled == live {
        return;
    }
    let describe = |uids: &[ProxyUid]| {
        let names: Vec<&str> = uids.iter().map(ProxyUid::as_str).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        }
    };
    let text = "the enabled proxies change";
    let reason = Reason::info("proxies-enabled", text).with("proxies", describe(&live));
    draft.because(reason);
    draft.next.proxy.spec.enabled_proxies = live;
}
