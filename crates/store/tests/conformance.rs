//! The conformance list against every backend, and proof that the list can fail.

use std::sync::Arc;

use stolon_store::conformance::{CHECKS, Open};
use stolon_store::{Access, Backend, Config, Kube, MemoryStore, Store, Tls};

/// Runs the whole list, each check on a store of its own, and tells all that failed.
async fn failures(fresh: impl Fn(usize) -> Open) -> Vec<String> {
    let mut failed = Vec::new();
    for (index, (name, check)) in CHECKS.iter().enumerate() {
        if let Err(why) = check(fresh(index)).await {
            failed.push(format!("{name}: {why}"));
        }
    }
    failed
}

fn sqlite(path: &std::path::Path) -> Config {
    Config {
        backend: Backend::Sqlite,
        endpoints: vec![path.display().to_string()],
        prefix: "stolon/cluster".to_owned(),
        cluster_name: "test".to_owned(),
        timeout: std::time::Duration::from_secs(5),
        tls: Tls::default(),
        access: Access::default(),
        kube: Kube::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_satisfies_the_list() {
    let failed = failures(|_| {
        let store = MemoryStore::default();
        Arc::new(move || Ok(Arc::new(store.clone()) as Arc<dyn Store>))
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_satisfies_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let failed = failures(|index| {
        let config = sqlite(&folder.path().join(format!("{index}.db")));
        Arc::new(move || stolon_store::open(&config))
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_sqlite_path_must_be_absolute_and_alone() {
    for endpoints in [vec![], vec!["store.db"], vec!["/a/b", "/a/c"]] {
        let mut config = sqlite(std::path::Path::new("/"));
        config.endpoints = endpoints.iter().map(|&text| text.to_owned()).collect();
        let error = stolon_store::open(&config)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("one absolute file path"), "{error}");
    }
}

/// A store whose compare-and-swap does not compare.
mod careless {
    use std::time::Duration;

    use stolon_store::{
        Entry, Error, Expected, Folder, Key, Leadership, MemoryStore, Store, Watch, Written,
    };

    #[derive(Debug)]
    pub(crate) struct Careless(pub(crate) MemoryStore);

    #[async_trait::async_trait]
    impl Store for Careless {
        async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
            self.0.get(key).await
        }
        async fn compare_and_swap(&self, key: &Key, _: Expected, value: &[u8]) -> Written {
            self.0.put(key, value).await
        }
        async fn put(&self, key: &Key, value: &[u8]) -> Written {
            self.0.put(key, value).await
        }
        async fn delete(&self, key: &Key) -> Written {
            self.0.delete(key).await
        }
        async fn publish(&self, key: &Key, value: &[u8], _: Duration) -> Result<(), Error> {
            // Never expires.
            self.0.publish(key, value, Duration::from_hours(1)).await
        }
        async fn list(&self, folder: Folder) -> Result<Vec<Entry>, Error> {
            self.0.list(folder).await
        }
        fn watch(&self) -> Watch {
            // Of another store: never wakes.
            MemoryStore::default().watch()
        }
        fn lead(&self, uid: &str) -> Leadership {
            // Everybody leads a store of their own.
            MemoryStore::default().lead(uid)
        }
        async fn leader(&self) -> Result<Option<String>, Error> {
            self.0.leader().await
        }
        fn describe(&self) -> String {
            "careless".to_owned()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_catches_a_careless_store() {
    let caught = |name: &str| {
        let check = CHECKS
            .iter()
            .find(|(found, _)| found.starts_with(name))
            .expect("a check")
            .1;
        let store = MemoryStore::default();
        let open: Open =
            Arc::new(move || Ok(Arc::new(careless::Careless(store.clone())) as Arc<dyn Store>));
        check(open)
    };
    for name in ["compare-and-swap", "concurrent", "one candidate"] {
        let outcome = caught(name).await;
        assert!(outcome.is_err(), "not caught: {name}");
    }
}
