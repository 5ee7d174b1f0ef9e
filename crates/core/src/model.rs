//! What the store holds: the cluster data document, and the info documents of the components.
//!
//! Field names, defaults and what is left out when empty follow the Go program's documents, which
//! live clusters are full of (`tests/golden`). [`wire`] is the only door in and out.

pub mod cluster;
pub mod db;
pub mod duration;
pub mod ext;
pub mod history;
pub mod ids;
pub mod keeper;
pub mod list;
pub mod lsn;
pub mod proxy;
pub mod report;
pub mod request;
pub mod spec;
pub mod wire;

pub use cluster::{Cluster, ClusterData, ClusterStatus, Phase};
pub use db::{Db, DbSpec, DbStatus, FollowConfig, FollowType, InitMode, Role, TimelineSwitch};
pub use duration::GoDuration;
pub use ext::{ExtSettings, ExtSpec};
pub use ids::{BootUuid, ClusterUid, DbUid, Generation, InfoUid, KeeperUid, ProxyUid, SentinelUid};
pub use keeper::{Keeper, KeeperSpec, KeeperStatus, PostgresVersion};
pub use list::List;
pub use lsn::{Lsn, TimelineId};
pub use proxy::{Proxy, ProxySpec, ProxyStatus};
pub use report::{
    Condition, InstanceReport, KeeperInfo, PeerReport, PostgresState, ProxyInfo, SentinelInfo,
    SlotReport,
};
pub use spec::{ClusterSpec, EffectiveSpec};

/// Fields of a document that this version does not know: kept through a read and a write.
pub type Unknown = std::collections::BTreeMap<String, serde_json::Value>;

/// Whether a plain value is what Go leaves out under `omitempty`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares an enum that is a string on the wire, with a variant that keeps a string it does not
/// know: an unknown value stops decisions about its object, never the parse (contract, section 8).
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// A value of a later version, kept as it was.
            Unknown(String),
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Unknown(text),
                }
            }
        }

        impl $name {
            /// The value as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use string_enum;
