//! What every db takes from the cluster's spec as it is.

use super::Draft;
use crate::model::List;

/// Copies the settings that are the same for all members, or for all primaries.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let spec = draft.spec.clone();
    let primary = draft.primary_uid();
    for db in draft.next.dbs.values_mut() {
        let is_primary = Some(&db.uid) == primary.as_ref();
        let to = &mut db.spec;
        to.request_timeout = spec.request_timeout.into();
        to.max_standbys = spec.max_standbys;
        to.use_pgrewind = spec.use_pgrewind;
        to.additional_wal_senders = spec.additional_wal_senders;
        to.pg_parameters.clone_from(&spec.pg_parameters);
        to.pg_hba.clone_from(&spec.pg_hba);
        to.additional_replication_slots = if is_primary {
            spec.additional_master_replication_slots.clone()
        } else {
            List::NULL
        };
    }
}
