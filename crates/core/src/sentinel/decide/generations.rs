//! Generations rise when, and only when, what is wanted changes; and how much a change weighs.

use crate::model::{ClusterData, DbStatus, KeeperStatus, Lsn};
use crate::sentinel::observe::View;
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

/// Raises the generation of everything whose spec differs. Where the cluster data went back a
/// generation that was used before would come again, and with it the word of those who carried out
/// the one of then (I5): it rises above all that are known.
pub(super) fn raise(data: &ClusterData, view: &View, next: &mut ClusterData) {
    for (uid, db) in &mut next.dbs {
        if data
            .dbs
            .get(uid)
            .is_some_and(|before| before.spec != db.spec)
        {
            db.generation = view.generation_reached(uid, db.generation).next();
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
    if data.proxy.spec != next.proxy.spec || proxies_are_ahead(data, view) {
        next.proxy.generation = next.proxy.generation.max(view.proxies_reached).next();
    }
    if let (Some(before), Some(after)) = (&data.cluster, &mut next.cluster)
        && before.spec != after.spec
    {
        after.generation = after.generation.next();
    }
}

/// Whether proxies may go by a newer document than this one, which somebody wrote over it.
pub(super) fn proxies_are_ahead(data: &ClusterData, view: &View) -> bool {
    data.proxy.generation < view.proxies_reached
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
            oldest_wal: Lsn::UNKNOWN,
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

#[cfg(test)]
mod tests {
    use super::{Change, stamped, weigh};
    use crate::model::{Cluster, ClusterData, ClusterSpec, ClusterUid, Db, Keeper, Lsn, Role};
    use crate::time::Timestamp;

    type Edit = fn(&mut ClusterData);

    fn document() -> ClusterData {
        let spec = ClusterSpec::default();
        let mut data = ClusterData::new(ClusterUid::from("c"), spec, Timestamp::ZERO);
        for uid in ["k1", "k2"] {
            data.keepers.insert(uid.into(), Keeper::default());
            data.dbs.insert(uid.into(), Db::default());
        }
        data
    }

    fn later() -> Timestamp {
        Timestamp::from_utc("2026-11-21T00:00:00Z".parse().expect("a moment"))
    }

    fn cluster(data: &mut ClusterData) -> &mut Cluster {
        data.cluster.as_mut().expect("a cluster")
    }

    fn keeper(data: &mut ClusterData) -> &mut Keeper {
        data.keepers.get_mut("k1").expect("k1")
    }

    fn db(data: &mut ClusterData) -> &mut Db {
        data.dbs.get_mut("k1").expect("k1")
    }

    #[test]
    fn a_change_weighs_as_much_as_what_changed() {
        let changes: [(Change, Edit); 11] = [
            (Change::None, |_| {}),
            (Change::Status, |data| {
                keeper(data).status.last_healthy_time = later();
            }),
            (Change::Status, |data| db(data).status.xlog_pos = Lsn(7)),
            (Change::Status, |data| {
                "000000010000000000000003".clone_into(&mut db(data).status.older_wal_file);
            }),
            (Change::Status, |data| db(data).status.oldest_wal = Lsn(7)),
            (Change::Facts, |data| db(data).status.healthy = true),
            (Change::Facts, |data| keeper(data).status.healthy = true),
            (Change::Decided, |data| {
                db(data).spec.role = Some(Role::Primary);
            }),
            (Change::Decided, |data| {
                cluster(data).status.master = Some("k1".into());
            }),
            (Change::Decided, |data| {
                data.keepers.remove("k2");
            }),
            (Change::Decided, |data| {
                data.proxy.spec.primary_db_uid = "k1".into();
            }),
        ];
        for (number, (weight, change)) in changes.into_iter().enumerate() {
            let (data, mut next) = (document(), document());
            change(&mut next);
            assert_eq!(weigh(&data, &next), weight, "change {number}");
        }
    }

    #[test]
    fn the_moment_is_put_on_what_changed_and_on_nothing_else() {
        let changes: [Edit; 5] = [
            |_| {},
            |data| cluster(data).status.master = Some("k1".into()),
            |data| keeper(data).status.healthy = true,
            |data| db(data).status.healthy = true,
            |data| data.proxy.spec.primary_db_uid = "k1".into(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let (data, mut next) = (document(), document());
            change(&mut next);
            let mut next = stamped(&data, next, later());
            assert_eq!(next.change_time, later());
            let moments = [
                cluster(&mut next).change_time,
                keeper(&mut next).change_time,
                db(&mut next).change_time,
                next.proxy.change_time,
            ];
            for (index, moment) in moments.into_iter().enumerate() {
                let stamped = moment == later();
                assert_eq!(stamped, index + 1 == number, "change {number}: {moments:?}");
            }
            let others = [next.keepers["k2"].change_time, next.dbs["k2"].change_time];
            assert_eq!(others, [Timestamp::ZERO; 2], "change {number}");
        }
    }
}
