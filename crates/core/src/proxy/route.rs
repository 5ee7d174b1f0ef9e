//! Where clients are led.

use crate::model::DbUid;
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

/// Where clients go who only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passages {
    /// The instances that they are spread over.
    pub to: Vec<Passage>,
    /// Why there is none, where there is none.
    pub closed: String,
}

/// One of several ways for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The instance.
    pub target: Target,
    /// When the permission ends by itself.
    pub until: Instant,
    /// It is for those only for whom no other is left; who is there already may stay.
    pub is_spare: bool,
}
