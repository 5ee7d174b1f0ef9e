//! `stolonctl failkeeper` and `removekeeper`.

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
    let mut may_lose = false;
    session
        .change(|data| {
            may_lose = is_asynchronous_primary(data, &uid);
            match data.keepers.get_mut(&uid) {
                Some(keeper) => {
                    keeper.status.force_fail = true;
                    Ok(())
                }
                None => Err(unknown(data, &uid)),
            }
        })
        .await?;
    if may_lose {
        talk(&format!(
            "WARNING: keeper {uid} has the primary, and replication is asynchronous: commits that no \
             standby has received yet are lost with the failover"
        ));
    }
    Ok(())
}

/// Whether a keeper has the primary, and nobody waited for a standby to have what it acknowledged.
fn is_asynchronous_primary(data: &ClusterData, uid: &KeeperUid) -> bool {
    let primary = data.primary().filter(|db| db.spec.keeper_uid == *uid);
    primary.is_some_and(|db| {
        !db.spec.synchronous_replication || db.spec.synchronous_standbys.is_empty()
    })
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
