//! `stolonctl failkeeper` and `removekeeper`.

use stolon_core::model::spec::ClusterRole;
use stolon_core::model::{ClusterData, KeeperUid};

use super::Failure;
use super::session::Session;
use crate::output::talk;

fn uid(own: &clap::ArgMatches) -> KeeperUid {
    KeeperUid::new(own.get_one::<String>("uid").cloned().unwrap_or_default())
}

pub(super) fn unknown(data: &ClusterData, uid: &KeeperUid) -> Failure {
    let known: Vec<&str> = data.keepers.keys().map(KeeperUid::as_str).collect();
    let known = match known.as_slice() {
        [] => "none".to_owned(),
        known => known.join(", "),
    };
    Failure::Error(format!("keeper {uid} doesn't exist; there are: {known}"))
}

/// Declares a keeper failed, once: the leader's next decision treats it so and takes it back.
pub(super) async fn fail(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let uid = uid(own);
    let mut is_warned = false;
    session
        .change(|data| {
            if may_lose(data, &uid) && !std::mem::replace(&mut is_warned, true) {
                talk(&format!(
                    "WARNING: keeper {uid} has the primary, and replication is asynchronous: commits \
                     that no standby has received yet may be lost with the failover"
                ));
            }
            match data.keepers.get_mut(&uid) {
                Some(keeper) => {
                    keeper.status.force_fail = true;
                    Ok(())
                }
                None => Err(unknown(data, &uid)),
            }
        })
        .await
}

/// Whether a keeper has a primary that others can take over from, and nobody waits for one of them to have
/// what it acknowledges. Whether that is so the specification says for the election, and the db for what was
/// acknowledged before.
fn may_lose(data: &ClusterData, uid: &KeeperUid) -> bool {
    let spec = data.cluster.as_ref().and_then(|c| c.spec.as_ref());
    let spec = spec.cloned().unwrap_or_default().effective();
    let primary = data.primary().filter(|db| db.spec.keeper_uid == *uid);
    let is_asynchronous = primary
        .is_some_and(|db| !(db.spec.synchronous_replication && spec.synchronous_replication));
    is_asynchronous && spec.role == ClusterRole::Primary && data.dbs.len() > 1
}

/// Removes a keeper with its db.
pub(super) async fn remove(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let uid = uid(own);
    session
        .change(|data| {
            if !data.keepers.contains_key(&uid) {
                return Err(unknown(data, &uid));
            }
            let db = data.db_of(&uid).map(|db| db.uid.clone());
            if let Some(db) = db {
                if data.primary().is_some_and(|primary| primary.uid == db) {
                    return Err(Failure::Error(
                        "keeper assigned db is the current cluster master db.".to_owned(),
                    ));
                }
                data.dbs.remove(&db);
            }
            data.keepers.remove(&uid);
            Ok(())
        })
        .await
}
