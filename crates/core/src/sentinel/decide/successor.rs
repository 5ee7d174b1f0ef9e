//! The standby that becomes the primary as soon as nobody can read from it through a proxy any more.
//!
//! Proxies may lead clients that only read to standbys. A session that goes on while its standby is
//! promoted could write there, while proxies that are late still lead others to the old primary (I1).
//! So the standby is named first, in a document that closes the proxies too; it is promoted by a later
//! one, when every proxy that may lead clients to standbys has published that document's generation, or
//! has been silent for so long that it forwards nothing. Where no proxy reads from standbys nothing is
//! named, and a failover is one document.

use super::super::observe::ProxyView;
use super::Draft;
use super::elect::Verdict;
use crate::model::{DbUid, ProxyUid};
use crate::reason::Reason;

/// The one that is named already, while proxies that may lead clients to it are waited for and it may
/// still be elected. One that has received more since is looked at when they have left: a primary that
/// has failed may go on sending, and a name that went to whoever reported last would have to be
/// acknowledged anew with each report, by proxies that may need longer for it than that.
pub(super) fn awaited(draft: &Draft<'_>, verdicts: &[Verdict]) -> Option<DbUid> {
    let named = &draft.before.proxy.spec.successor_db_uid;
    let mut eligible = verdicts.iter().filter(|it| it.excluded.is_none());
    let is_eligible = eligible.any(|verdict| verdict.db == *named);
    (is_eligible && !readers(draft, named).is_empty()).then(|| named.clone())
}

/// Whether nobody can read from a standby through a proxy; names it as the successor until then.
pub(super) fn may_be_promoted(draft: &mut Draft<'_>, standby: &DbUid) -> bool {
    let readers = readers(draft, standby);
    if readers.is_empty() {
        return true;
    }
    draft.next.proxy.spec.successor_db_uid = standby.clone();
    // What an operator asked for is not done yet.
    let forced = draft
        .primary()
        .map(|primary| primary.spec.keeper_uid.clone());
    let forced = forced.filter(|keeper| draft.forced.contains(keeper));
    if let Some(keeper) = forced.and_then(|keeper| draft.next.keepers.get_mut(&keeper)) {
        keeper.status.force_fail = true;
    }
    let names: Vec<&str> = readers.iter().map(ProxyUid::as_str).collect();
    let text = "waiting for proxies to leave the standby that is to be promoted";
    let reason = Reason::info("successor", text).with("db", standby);
    draft.because(reason.with("proxies", names.join(" ")));
    false
}

/// Goes on to wait for the one that is named.
pub(super) fn keep(draft: &mut Draft<'_>) {
    let named = &draft.before.proxy.spec.successor_db_uid;
    draft.next.proxy.spec.successor_db_uid.clone_from(named);
}

/// The proxies that may yet lead clients to a standby. One that has been silent for its bound forwards
/// nothing; it may come back at any moment, though, and read the document that enables it: so long as
/// that one does not name the standby, it counts too.
fn readers(draft: &Draft<'_>, standby: &DbUid) -> Vec<ProxyUid> {
    let proxy = &draft.before.proxy;
    let is_named = proxy.spec.successor_db_uid == *standby;
    let may_lead = |uid: &ProxyUid, seen: &ProxyView| {
        if is_named {
            seen.live && seen.generation != Some(proxy.generation)
        } else {
            seen.live || proxy.spec.enabled_proxies.contains(uid)
        }
    };
    let proxies = draft.view.proxies.iter();
    let readers = proxies.filter(|(uid, seen)| seen.reads && may_lead(uid, seen));
    readers.map(|(uid, _)| uid.clone()).collect()
}
