//! A cluster in a store of its own, with nobody at work on it: what commands do to it stays.

use std::time::Duration;

use serde_json::Value;
use stolon_store::{Key, Store};
use tempfile::TempDir;

use crate::program::{Said, run_with};

/// A store in a file.
pub(crate) struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// An empty store; the file comes with the first write.
    pub(crate) fn none() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A cluster that was just made, of the spec.
    pub(crate) fn new(spec: &str) -> Self {
        let cluster = Self::none();
        let said = cluster.ctl(&["init", "-y", spec]);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
        cluster
    }

    /// A cluster as the golden documents have it: keeper01 with the primary, keeper02 with its
    /// synchronous standby, keeper03 with a standby and silent, keeper04 with nothing.
    pub(crate) fn at_work() -> Self {
        let cluster = Self::none();
        let golden = golden("clusterdata-3-normal-synchronous");
        let said = cluster.ctl_with(&["clusterdata", "write"], &golden);
        assert_eq!(
            said.well(),
            "successfully wrote cluster data into the new store\n"
        );
        cluster
    }

    pub(crate) fn file(&self) -> String {
        self.folder.path().join("store.db").display().to_string()
    }

    /// Runs `stolonctl` on it.
    pub(crate) fn ctl(&self, words: &[&str]) -> Said {
        self.ctl_with(words, "")
    }

    /// Runs `stolonctl` on it with something on stdin.
    pub(crate) fn ctl_with(&self, words: &[&str], stdin: &str) -> Said {
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
        run_with("stolonctl", words, &environment, stdin)
    }

    /// The variables by which `stolonctl` finds it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("STOLONCTL_CLUSTER_NAME", "test".to_owned()),
            ("STOLONCTL_STORE_BACKEND", "sqlite".to_owned()),
            ("STOLONCTL_STORE_ENDPOINTS", self.file()),
        ]
    }

    /// The whole document.
    pub(crate) fn data(&self) -> Value {
        let text = self.ctl(&["clusterdata", "read"]).well();
        serde_json::from_str(&text).expect("JSON")
    }

    /// The spec in the document.
    pub(crate) fn spec(&self) -> Value {
        self.data()["cluster"]["spec"].clone()
    }

    /// Checks that a command fails, saying all of `words`, and changes nothing.
    #[track_caller]
    pub(crate) fn refuses(&self, command: &[&str], status: i32, words: &[&str]) {
        let before = self.data();
        self.ctl(command).fails(status, words);
        assert_eq!(self.data(), before, "{command:?} changed something");
    }

    /// Writes what daemons publish.
    pub(crate) fn publish(&self, documents: &[(Key, String)]) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let store = self.store();
            for (key, text) in documents {
                let minute = Duration::from_mins(1);
                let published = store.publish(key, text.as_bytes(), minute).await;
                published.expect("published");
            }
        });
    }

    /// Lets a sentinel lead while `during` runs.
    pub(crate) fn led_by<T>(&self, uid: &str, during: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _entered = runtime.enter();
        let store = self.store();
        let _lead = store.lead(uid);
        let leads = async {
            while store.leader().await.expect("read").as_deref() != Some(uid) {
                tokio::task::yield_now().await;
            }
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(20), leads).await };
        runtime.block_on(limited).expect("leads in time");
        during()
    }

    fn store(&self) -> std::sync::Arc<dyn Store> {
        stolon_store::open(&stolon_store::Config {
            backend: stolon_store::Backend::Sqlite,
            endpoints: vec![self.file()],
            prefix: "stolon/cluster".to_owned(),
            cluster_name: "test".to_owned(),
            timeout: Duration::from_secs(5),
            tls: stolon_store::Tls::default(),
            access: stolon_store::Access::default(),
            kube: stolon_store::Kube::default(),
        })
        .expect("opened")
    }
}

/// A document as the Go program writes it.
pub(crate) fn golden(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/golden");
    std::fs::read_to_string(format!("{folder}/{name}.json")).expect("a golden document")
}
