//! Where the document sends clients.

use super::{Route, Target};
use crate::model::{ClusterData, ProxyUid};
use crate::time::Instant;

/// Where the document lets this proxy forward while its last good check is fresh.
pub(super) fn route(
    uid: &ProxyUid,
    data: Option<&ClusterData>,
    until: Option<Instant>,
    is_held: bool,
) -> Route {
    let closed = |why: &str| Route::Closed(why.to_owned());
    if is_held {
        return closed("the cluster data went back: other proxies may yet forward by newer ones");
    }
    let Some(until) = until else {
        return closed("no check of the cluster data succeeded lately");
    };
    let Some(data) = data else {
        return closed("there is no cluster");
    };
    let spec = &data.proxy.spec;
    if spec.primary_db_uid.is_empty() {
        return closed("no primary is open to clients now");
    }
    if !spec.enabled_proxies.contains(uid) {
        return closed("this proxy is not enabled by the sentinel yet");
    }
    let Some(db) = data.dbs.get(&spec.primary_db_uid) else {
        return closed("the primary is not among the dbs");
    };
    if db.status.listen_address.is_empty() || db.status.port.is_empty() {
        return closed("the primary's address is not known");
    }
    let target = Target {
        db: db.uid.clone(),
        host: db.status.listen_address.clone(),
        port: db.status.port.clone(),
    };
    Route::To { target, until }
}
