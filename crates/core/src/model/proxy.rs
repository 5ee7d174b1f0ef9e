//! What proxies are to do, as the cluster data records it.

use serde::{Deserialize, Serialize};

use super::{DbUid, Generation, ProxyUid, Unknown, is_default};
use crate::time::Timestamp;

/// The instruction to all proxies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Not used by format version 1.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: String,
    /// Raised when the spec changes; a proxy publishes the one it has carried out.
    #[serde(skip_serializing_if = "is_default")]
    pub generation: Generation,
    /// When it last changed.
    pub change_time: Timestamp,
    /// Where to forward.
    pub spec: ProxySpec,
    /// Nothing so far.
    pub status: ProxyStatus,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Where proxies forward, and which of them may.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxySpec {
    /// The primary's db; empty: all proxies close.
    #[serde(rename = "masterDbUid", skip_serializing_if = "is_default")]
    pub primary_db_uid: DbUid,
    /// The proxies that may forward.
    #[serde(rename = "enabledProxies", skip_serializing_if = "Vec::is_empty")]
    pub enabled_proxies: Vec<ProxyUid>,
    /// The standby that becomes the primary as soon as nobody can read from it through a proxy any
    /// more. Ours: the Go program neither writes it nor knows of reads from standbys.
    #[serde(rename = "successorDbUid", skip_serializing_if = "is_default")]
    pub successor_db_uid: DbUid,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The state of the proxies; empty in format version 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
