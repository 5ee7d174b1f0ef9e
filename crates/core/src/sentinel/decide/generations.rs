//! Generations rise when, and only when, what is wanted changes; and how much a change weighs.

use crate::model::{ClusterData, DbStatus, KeeperStatus, Lsn};
use crate::time::Timestamp;

/// How much the next document differs from the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not at all.
    None,
    /// Positions moved, or stamps were renewed.
    Status,
    /// Something was seen that others should know: health, addresses, timelines.
    Facts,
    /// Something else is wanted.
    Decided,
}

/// Raises the generation of everything whose spec differs.
pub(super) fn raise(data: &ClusterData, next: &mut ClusterData) {
    for (uid, db) in &mut next.dbs {
        if data
            .dbs
            .get(uid)
            .is_some_and(|before| before.spec != db.spec)
        {
            db.generation = db.generation.next();
        }
    }
    for (uid, keeper) in &mut next.keepers {
        if data
            .keepers
            .get(uid)
            .is_some_and(|before| before.spec != keeper.spec)
        {
            keeper.generation = keeper.generation.next();
        }
    }
    if data.proxy.spec != next.proxy.spec {
        next.proxy.generation = next.proxy.generation.next();
    }
    if let (Some(before), Some(after)) = (&data.cluster, &mut next.cluster)
        && before.spec != after.spec
    {
        after.generation = after.generation.next();
    }
}

/// Weighs the difference between two documents.
pub fn weigh(data: &ClusterData, next: &ClusterData) -> Change {
    if data == next {
        return Change::None;
    }
    let wanted = |data: &ClusterData| {
        let cluster = data.cluster.as_ref();
        let cluster = cluster.map(|c| (c.spec.clone(), c.status.clone(), c.uid.clone()));
        let dbs: Vec<_> = data
            .dbs
            .iter()
            .map(|(k, db)| (k.clone(), db.spec.clone()))
            .collect();
        let keepers: Vec<_> = data.keepers.keys().cloned().collect();
        (cluster, dbs, keepers, data.proxy.spec.clone())
    };
    if wanted(data) != wanted(next) {
        return Change::Decided;
    }
    if without_movement(data) == without_movement(next) {
        Change::Status
    } else {
        Change::Facts
    }
}

/// The document without what moves all the time.
fn without_movement(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    for keeper in data.keepers.values_mut() {
        keeper.status = KeeperStatus {
            last_healthy_time: Timestamp::ZERO,
            ..keeper.status.clone()
        };
    }
    for db in data.dbs.values_mut() {
        db.status = DbStatus {
            xlog_pos: Lsn::UNKNOWN,
            older_wal_file: String::new(),
            ..db.status.clone()
        };
    }
    data
}

/// The next document with the moment on everything that changed.
pub fn stamped(data: &ClusterData, mut next: ClusterData, wall: Timestamp) -> ClusterData {
    next.change_time = wall;
    if next.cluster != data.cluster
        && let Some(cluster) = &mut next.cluster
    {
        cluster.change_time = wall;
    }
    for (uid, keeper) in &mut next.keepers {
        if data.keepers.get(uid) != Some(keeper) {
            keeper.change_time = wall;
        }
    }
    for (uid, db) in &mut next.dbs {
        if data.dbs.get(uid) != Some(db) {
            db.change_time = wall;
        }
    }
    if next.proxy != data.proxy {
        next.proxy.change_time = wall;
    }
    next
}
