//! What a proxy hears, and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use super::{Passages, Route};
use crate::model::ClusterData;
use crate::model::report::{KeeperInfo, ProxyInfo};
use crate::reason::Reason;
use crate::time::Instant;

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
    /// What the keepers publish was read; none: it could not be.
    Reports {
        /// When the read was sent.
        sent_at: Instant,
        /// The documents.
        reports: Option<Vec<KeeperInfo>>,
    },
    /// An [`Effect::Route`] or [`Effect::Readers`] was carried out: what it forbids is gone. One
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
    /// Read what the keepers publish; answer with [`Event::Reports`].
    ReadReports,
    /// Let those who only read go there and nowhere else; answered like [`Effect::Route`].
    Readers(Passages),
    /// Accept connections, or do not.
    Listen(bool),
    /// Publish, to expire after the time given; answer with [`Event::Published`].
    Publish(Box<ProxyInfo>, Duration),
    /// Tell the operator.
    Log(Reason),
    /// Send [`Event::Wake`] at this moment at the latest; replaces the one asked for before.
    WakeAt(Instant),
}
