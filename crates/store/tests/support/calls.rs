//! What tests ask of a store, whichever it is, and how long they wait for it.

use std::sync::Arc;
use std::time::Duration;

use stolon_store::conformance::{CHECKS, Open};
use stolon_store::{Config, Expected, Folder, Key, Store, Watch, Written};
use tokio::time::Instant;

use super::LIMIT;

/// The key that most of them use.
pub(crate) const KEY: Key = Key::ClusterData;
/// What a call may take beyond its limit on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// The value of the key; none when it is absent.
pub(crate) async fn value(store: &Arc<dyn Store>) -> Option<Vec<u8>> {
    let found = store.get(&KEY).await.expect("an answer");
    found.map(|entry| entry.value)
}

/// Writes the key, which has to succeed.
pub(crate) async fn put(store: &Arc<dyn Store>, bytes: &[u8]) {
    let outcome = store.put(&KEY, bytes).await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
}

/// Waits for a call, which may not take longer than its limit.
pub(crate) async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = call.await;
    let took = began.elapsed();
    assert!(took < limit + SLACK, "took {took:?}, limit {limit:?}");
    answer
}

/// Writes through one store and waits until the watch of another has shown it.
pub(crate) async fn seen_by(
    watch: &mut Watch,
    store: &Arc<dyn Store>,
    writer: &Arc<dyn Store>,
    bytes: &[u8],
) {
    put(writer, bytes).await;
    let seen = async {
        loop {
            watch.changed().await;
            if let Ok(Some(found)) = store.get(&KEY).await
                && found.value == bytes
            {
                return;
            }
        }
    };
    let seen = tokio::time::timeout(LIMIT, seen).await;
    seen.expect("the watch wakes");
}

/// Every call there is, which all have to succeed in time.
pub(crate) async fn all_calls_succeed(store: &Arc<dyn Store>, limit: Duration) {
    within(limit, store.get(&KEY)).await.expect("an answer");
    let outcome = within(limit, store.put(&KEY, b"p")).await;
    let Written::Yes(revision) = outcome else {
        panic!("{outcome:?}")
    };
    let swap = store.compare_and_swap(&KEY, Expected::At(revision), b"s");
    let swapped = within(limit, swap).await;
    assert!(matches!(swapped, Written::Yes(_)), "{swapped:?}");
    let info = Key::KeeperInfo("k".into());
    within(limit, store.publish(&info, b"i", Duration::from_secs(20)))
        .await
        .expect("published");
    let listed = within(limit, store.list(Folder::Keepers)).await;
    assert_eq!(listed.expect("an answer").len(), 1);
    let outcome = within(limit, store.delete(&KEY)).await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    within(limit, store.leader()).await.expect("an answer");
}

/// What every backend must satisfy, each check in a cluster of its own, so that they can run side by
/// side.
pub(crate) async fn the_list_is_satisfied(by: &Config) {
    let mut checks = tokio::task::JoinSet::new();
    for (index, (name, check)) in CHECKS.iter().enumerate() {
        let mut config = by.clone();
        config.cluster_name = format!("c{index}");
        let open: Open = Arc::new(move || stolon_store::open(&config));
        checks.spawn(async move { check(open).await.map_err(|why| format!("{name}: {why}")) });
    }
    let outcomes = checks.join_all().await;
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
