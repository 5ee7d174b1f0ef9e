//! `stolonctl failkeeper` and `removekeeper`.

use stolon_core::model::{ClusterData, KeeperUid};

use super::Failure;
use super::session::Session;

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
    session
        .change(|data| match data.keepers.get_mut(&uid) {
            Some(keeper) => {
                keeper.status.force_fail = true;
                Ok(())
            }
            None => Err(unknown(data, &uid)),
        })
        .await
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
