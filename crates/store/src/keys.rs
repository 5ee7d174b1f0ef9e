//! Where things lie in the store (contract, sections 3 and 8).

/// One document of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The cluster data.
    ClusterData,
    /// What a keeper publishes.
    KeeperInfo(String),
    /// What a sentinel publishes.
    SentinelInfo(String),
    /// What a proxy publishes.
    ProxyInfo(String),
    /// The last decisions (ours).
    History,
    /// Settings that the Go program's spec does not have (ours).
    ExtSpec,
    /// An operator's request (ours).
    Request(String),
}

/// A set of keys that are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// All keepers' publications.
    Keepers,
    /// All sentinels' publications.
    Sentinels,
    /// All proxies' publications.
    Proxies,
    /// All requests.
    Requests,
}

impl Folder {
    const fn path(self) -> &'static str {
        match self {
            Self::Keepers => "keepers/info/",
            Self::Sentinels => "sentinels/info/",
            Self::Proxies => "proxies/info/",
            Self::Requests => "ext/requests/",
        }
    }

    pub(crate) const fn key(self, name: String) -> Key {
        match self {
            Self::Keepers => Key::KeeperInfo(name),
            Self::Sentinels => Key::SentinelInfo(name),
            Self::Proxies => Key::ProxyInfo(name),
            Self::Requests => Key::Request(name),
        }
    }
}

impl Key {
    /// The name of whose document it is; empty where there is but one.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::KeeperInfo(name)
            | Self::SentinelInfo(name)
            | Self::ProxyInfo(name)
            | Self::Request(name) => name,
            Self::ClusterData | Self::History | Self::ExtSpec => "",
        }
    }
}

impl std::fmt::Display for Key {
    /// The key below the cluster's folder.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClusterData => f.write_str("clusterdata"),
            Self::KeeperInfo(uid) => write!(f, "{}{uid}", Folder::Keepers.path()),
            Self::SentinelInfo(uid) => write!(f, "{}{uid}", Folder::Sentinels.path()),
            Self::ProxyInfo(uid) => write!(f, "{}{uid}", Folder::Proxies.path()),
            Self::History => f.write_str("history"),
            Self::ExtSpec => f.write_str("ext/spec"),
            Self::Request(id) => write!(f, "{}{id}", Folder::Requests.path()),
        }
    }
}

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    base: String,
}

impl Keys {
    /// Joins prefix and cluster name: duplicate and trailing slashes go, a leading one stays.
    pub(crate) fn new(prefix: &str, cluster: &str) -> Self {
        let joined = format!("{prefix}/{cluster}");
        let leading = if prefix.starts_with('/') { "/" } else { "" };
        let mut base = leading.to_owned();
        for part in joined.split('/').filter(|part| !part.is_empty()) {
            base.push_str(part);
            base.push('/');
        }
        Self { base }
    }

    /// What all keys of the cluster begin with.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn path(&self, key: &Key) -> String {
        format!("{}{key}", self.base)
    }

    pub(crate) fn folder(&self, folder: Folder) -> String {
        format!("{}{}", self.base, folder.path())
    }

    /// What leadership is decided under.
    pub(crate) fn leader(&self) -> String {
        format!("{}sentinel-leader", self.base)
    }

    /// The key of a folder that lies at this path.
    pub(crate) fn parse(&self, folder: Folder, path: &str) -> Option<Key> {
        let name = path.strip_prefix(&self.folder(folder))?;
        (!name.is_empty() && !name.contains('/')).then(|| folder.key(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Folder, Key, Keys};

    #[test]
    fn paths_are_those_of_the_contract() {
        let cases = [
            ("stolon/cluster", "c", "stolon/cluster/c/clusterdata"),
            ("/stolon//cluster/", "c", "/stolon/cluster/c/clusterdata"),
            ("", "c", "c/clusterdata"),
        ];
        for (prefix, cluster, expected) in cases {
            assert_eq!(
                Keys::new(prefix, cluster).path(&Key::ClusterData),
                expected,
                "{prefix}"
            );
        }
        let keys = Keys::new("stolon/cluster", "c");
        assert_eq!(
            keys.path(&Key::ProxyInfo("p".into())),
            "stolon/cluster/c/proxies/info/p"
        );
        assert_eq!(keys.leader(), "stolon/cluster/c/sentinel-leader");
    }

    #[test]
    fn a_path_of_a_folder_is_read_back() {
        let keys = Keys::new("p", "c");
        let path = keys.path(&Key::KeeperInfo("k1".into()));
        assert_eq!(
            keys.parse(Folder::Keepers, &path),
            Some(Key::KeeperInfo("k1".into()))
        );
        assert_eq!(keys.parse(Folder::Proxies, &path), None);
        assert_eq!(keys.parse(Folder::Keepers, "p/c/keepers/info/a/b"), None);
    }
}
