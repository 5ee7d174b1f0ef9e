//! Where documents lie in Kubernetes (contract, sections 3 and 8).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Error, Folder, Key};

/// The label that says whose an object is; on pods it comes with their manifest.
pub(super) const CLUSTER_LABEL: &str = "stolon-cluster";
/// The annotation with the cluster data.
pub(super) const CLUSTER_DATA: &str = "stolon-clusterdata";
const HISTORY: &str = "history";
const EXT_SPEC: &str = "spec";
const REQUESTS: &str = "requests.";

/// The names of a cluster's objects.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) cluster: String,
}

/// Where a document lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a ConfigMap.
    Map {
        /// Its name.
        map: String,
        /// Where in it.
        field: Field,
    },
    /// On the pod of whoever publishes it.
    Pod(Folder),
}

/// A part of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    /// An annotation.
    Annotation(&'static str),
    /// An entry of its data.
    Data(String),
}

impl Names {
    /// Refuses a cluster name that no object can bear.
    pub(super) fn new(cluster: &str) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let begins_and_ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        // It is also the value of a label, which may be that long.
        let is_name = !cluster.is_empty()
            && cluster.len() <= 63
            && cluster.chars().all(fits)
            && cluster.starts_with(begins_and_ends)
            && cluster.ends_with(begins_and_ends)
            && !cluster.contains("..")
            && !cluster.contains(".-")
            && !cluster.contains("-.");
        if !is_name {
            return Err(Error::Config(format!(
                "--cluster-name {cluster:?}: in Kubernetes it can have up to 63 lower-case letters, \
                 numbers, and between them - and ."
            )));
        }
        Ok(Self {
            cluster: cluster.to_owned(),
        })
    }

    /// The ConfigMap with the cluster data and the leader.
    pub(super) fn main(&self) -> String {
        format!("stolon-cluster-{}", self.cluster)
    }

    /// The one with the last decisions.
    pub(super) fn history(&self) -> String {
        format!("{}-history", self.main())
    }

    /// The one with what else the Go program does not have.
    pub(super) fn ext(&self) -> String {
        format!("{}-ext", self.main())
    }

    /// Where a document lies.
    pub(super) fn place(&self, key: &Key) -> Place {
        let data = |map: String, entry: &str| Place::Map {
            map,
            field: Field::Data(entry.to_owned()),
        };
        match key {
            Key::ClusterData => Place::Map {
                map: self.main(),
                field: Field::Annotation(CLUSTER_DATA),
            },
            Key::History => data(self.history(), HISTORY),
            Key::ExtSpec => data(self.ext(), EXT_SPEC),
            Key::Request(id) => data(self.ext(), &format!("{REQUESTS}{id}")),
            Key::KeeperInfo(_) => Place::Pod(Folder::Keepers),
            Key::SentinelInfo(_) => Place::Pod(Folder::Sentinels),
            Key::ProxyInfo(_) => Place::Pod(Folder::Proxies),
        }
    }

    /// The labels that the pods of the components of a kind have.
    pub(super) fn labels(&self, component: &str) -> String {
        format!("component={component},{}", self.label())
    }

    /// The label that the pods of all components have.
    pub(super) fn label(&self) -> String {
        format!("{CLUSTER_LABEL}={}", self.cluster)
    }

    /// A ConfigMap that is not there yet.
    pub(super) fn new_map(&self, name: &str) -> ConfigMap {
        let labels = BTreeMap::from([(CLUSTER_LABEL.to_owned(), self.cluster.clone())]);
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }
}

/// The request that an entry of the data is, with its text.
pub(super) fn request(entry: &str) -> Option<Key> {
    let id = entry.strip_prefix(REQUESTS).filter(|id| !id.is_empty())?;
    Some(Key::Request(id.to_owned()))
}

impl Field {
    /// What it holds.
    pub(super) fn of<'map>(&self, map: &'map ConfigMap) -> Option<&'map str> {
        let (fields, name) = match self {
            Self::Annotation(name) => (map.metadata.annotations.as_ref(), *name),
            Self::Data(name) => (map.data.as_ref(), name.as_str()),
        };
        fields?.get(name).map(String::as_str)
    }

    /// Has it hold a value, or nothing.
    pub(super) fn set(&self, map: &mut ConfigMap, value: Option<&str>) {
        let (fields, name) = match self {
            Self::Annotation(name) => (&mut map.metadata.annotations, *name),
            Self::Data(name) => (&mut map.data, name.as_str()),
        };
        let fields = fields.get_or_insert_default();
        match value {
            Some(value) => fields.insert(name.to_owned(), value.to_owned()),
            None => fields.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Names, Place, request};
    use crate::Key;

    #[test]
    fn documents_lie_where_the_contract_has_them() {
        let names = Names::new("main").expect("a name");
        let map = |key: &Key| match names.place(key) {
            Place::Map { map, field } => (map, field),
            Place::Pod(folder) => panic!("{folder:?}"),
        };
        let annotation = Field::Annotation("stolon-clusterdata");
        assert_eq!(
            map(&Key::ClusterData),
            ("stolon-cluster-main".to_owned(), annotation)
        );
        assert_eq!(map(&Key::History).0, "stolon-cluster-main-history");
        let asked = Key::Request("a1".to_owned());
        let entry = Field::Data("requests.a1".to_owned());
        assert_eq!(map(&asked), ("stolon-cluster-main-ext".to_owned(), entry));
        assert_eq!(request("requests.a1"), Some(asked));
        assert_eq!(request("spec"), None);
    }

    #[test]
    fn a_cluster_name_must_be_one_that_objects_can_bear() {
        for name in ["main", "a", "main-1", "a.b", "0"] {
            Names::new(name).expect(name);
        }
        for name in [
            "",
            "Main",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "a/b",
            "a.-b",
            &"a".repeat(64),
        ] {
            let error = Names::new(name).expect_err(name).to_string();
            assert!(error.contains("--cluster-name"), "{error}");
        }
    }
}
