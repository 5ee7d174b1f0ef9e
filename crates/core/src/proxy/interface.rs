//! What a proxy learns, and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use super::{MaxLag, Reports};
use crate::model::report::ProxyInfo;
use crate::model::{ClusterData, DbUid, ProxyUid};
use crate::reason::Reason;
use crate::time::Instant;

/// Where clients go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this instance, until the moment at the latest.
    To {
        /// The db.
        target: Target,
        /// When the permission ends by itself.
        until: Instant,
    },
    /// Nowhere, and why.
    Closed(String),
}

/// An instance that clients may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The db.
    pub db: DbUid,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: String,
}

/// Where clients go that only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRoute {
    /// To one of these standbys, to each until the moment at the latest. In the order of their uids.
    To(Vec<(Target, Instant)>),
    /// To no standby, and why.
    Closed(String),
}

/// What a proxy learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The time asked for has come.
    Wake,
    /// The store may have changed.
    StoreChanged,
    /// The document was read.
    Document {
        /// When the read was sent.
        sent_at: Instant,
        /// Its store revision.
        revision: u64,
        /// The document; none: there is no cluster.
        data: Option<Arc<ClusterData>>,
    },
    /// The document could not be read.
    ReadFailed,
    /// What members published was read.
    Reports {
        /// When the read was sent.
        sent_at: Instant,
        /// What they published.
        reports: Reports,
    },
    /// What members published could not be read.
    ReportsFailed,
    /// An [`Effect::Route`] or [`Effect::ReadRoute`] was carried out: what it forbids is gone. One
    /// answer to each, in order.
    RouteSet,
    /// A publication ended: whether it is stored.
    Published(bool),
}

/// What a proxy wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read the document; answer with [`Event::Document`] or [`Event::ReadFailed`].
    Read,
    /// Let clients go there and nowhere else; answer with [`Event::RouteSet`] once every connection
    /// to another place is gone, and every one whose leave had ended. In the order asked for.
    Route(Route),
    /// Let clients that only read go there and nowhere else; answer with [`Event::RouteSet`], as above.
    ReadRoute(ReadRoute),
    /// Read what keepers and sentinels published; answer with [`Event::Reports`] or
    /// [`Event::ReportsFailed`]. Asked for only by a proxy that leads clients to standbys.
    ReadReports,
    /// Accept connections, or do not.
    Listen(bool),
    /// Publish, to expire after the time given; answer with [`Event::Published`].
    Publish(Box<ProxyInfo>, Duration),
    /// Tell the operator.
    Log(Reason),
    /// Send [`Event::Wake`] at this moment at the latest; replaces the one asked for before.
    WakeAt(Instant),
}

/// How a proxy is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, new at each start.
    pub uid: ProxyUid,
    /// The program's version.
    pub version: String,
    /// Whether it stops listening while it cannot see the store.
    pub stop_listening: bool,
    /// How far standbys may be behind that clients read from; none: they read from none.
    pub reads: Option<MaxLag>,
}
