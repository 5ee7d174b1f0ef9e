//! Whole clusters, end to end: the built program, real PostgreSQL, real stores; processes killed and
//! frozen, links cut. Each module is a topic.

mod access;
mod asynchronous;
mod clients;
mod coming_back;
mod drivers;
mod harness;
mod initialisation;
mod lifecycle;
mod migration;
mod network;
mod operator;
mod other_stores;
mod reading;
mod requests;
mod soak;
mod standby_cluster;
mod store;
mod synchronous;
mod trouble;
mod truth;
mod upgrade;
mod wal;

/// Runs stories on each store.
macro_rules! on_each_store {
    ($($story:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $story() { super::$story(crate::harness::cluster::Store::Sqlite); })*
        }
        mod on_etcd {
            $(#[test] fn $story() { super::$story(crate::harness::cluster::Store::Etcd); })*
        }
    };
}
use on_each_store;
