//! Cluster data of before a failover, as of a store that was restored: the primary they name is not the
//! last one, and what was committed since is with an instance that they take for a standby.

use super::Draft;
use crate::model::Db;
use crate::reason::Reason;

/// Whether that is so; it is said loudly. Nothing is decided then but that no proxy is open.
///
/// Neither is chosen by itself. The primary that is named lacks what the later one has. The later one need
/// not be the last: there may have been another after it, whose keeper is down.
pub(super) fn note(draft: &mut Draft<'_>) -> bool {
    let later: Vec<Db> = draft
        .view
        .later_primaries(&draft.next)
        .into_iter()
        .cloned()
        .collect();
    for db in &later {
        let keeper = &db.spec.keeper_uid;
        let report = draft.db_view(&db.uid).and_then(|view| view.report.as_ref());
        let timeline = report.map_or(db.status.timeline_id, |report| report.timeline_id);
        let text = format!(
            "the cluster data are from before a failover: keeper {keeper} was told to run the primary by \
             newer ones, and its instance is on a later timeline than the primary named here. \
             Nothing is decided and no proxy is open until an operator chooses: newer cluster data \
             (stolonctl clusterdata write), this instance (stolonctl init with initMode existing), or the \
             loss of what only it has (stolonctl removekeeper {keeper})"
        );
        let reason = Reason::error("cluster-data-behind", text).with("db", &db.uid);
        let primary = draft.primary_uid().unwrap_or_default();
        let reason = reason.with("timeline", timeline).with("primary", primary);
        draft.because(reason);
    }
    !later.is_empty()
}
