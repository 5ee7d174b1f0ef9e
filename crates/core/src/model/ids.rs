//! Names and counters, each with its own type so that none is taken for another.

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps the text as it stands in the store.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text as it stands in the store.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether nothing is named.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )+};
}
pub(super) use text_id;

text_id! {
    /// A cluster, new at every initialisation.
    ClusterUid,
    /// A keeper: given by `--uid`, or generated and kept in its data directory.
    KeeperUid,
    /// One PostgreSQL instance in one life: a deposed primary comes back under a new one.
    DbUid,
    /// A running proxy, new at each start.
    ProxyUid,
    /// A running sentinel, new at each start.
    SentinelUid,
    /// One publication of an info document: it changes every time, which is the sign of life.
    InfoUid,
    /// One start of a keeper process (a UUID).
    BootUuid,
}

impl DbUid {
    /// The name of this db's replication slot and `application_name`: `stolon_` and the uid.
    pub fn replication_name(&self) -> String {
        format!("stolon_{}", self.0)
    }

    /// The db whose slot or `application_name` this is, when it is one of ours.
    pub fn from_replication_name(name: &str) -> Option<Self> {
        name.strip_prefix("stolon_")
            .filter(|uid| !uid.is_empty())
            .map(Self::from)
    }
}

/// Counts the changes of an object's spec. 0 stands for "none yet".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub i64);

impl Generation {
    /// No generation yet.
    pub const NONE: Self = Self(0);
    /// The generation an object is created with.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
