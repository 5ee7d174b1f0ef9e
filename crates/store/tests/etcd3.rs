//! The etcd backend against real servers, well and unwell.

#[path = "support/etcd.rs"]
mod etcd;

use std::sync::Arc;
use std::time::Duration;

use etcd::Etcd;
use stolon_store::conformance::{CHECKS, Open};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_satisfies_the_list() {
    let etcd = Etcd::single().await;
    let mut checks = tokio::task::JoinSet::new();
    for (index, (name, check)) in CHECKS.iter().enumerate() {
        // Each in a cluster of its own, so that they can run side by side.
        let mut config = etcd.config(Duration::from_secs(5));
        config.cluster_name = format!("c{index}");
        let open: Open = Arc::new(move || stolon_store::open(&config));
        checks.spawn(async move { check(open).await.map_err(|why| format!("{name}: {why}")) });
    }
    let outcomes = checks.join_all().await;
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
