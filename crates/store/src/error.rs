//! What can go wrong with a store.

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store was set up wrongly; nothing but another configuration helps.
    #[error("{0}")]
    Config(String),
    /// Nothing answers at any endpoint.
    #[error("store {store} cannot be reached: {cause}")]
    Unavailable {
        /// Backend and endpoints.
        store: String,
        /// What the last endpoint said.
        cause: String,
    },
    /// No endpoint answered in time.
    #[error("store {store} did not answer within {limit:?} (--store-timeout)")]
    Timeout {
        /// Backend and endpoints.
        store: String,
        /// The time allowed.
        limit: std::time::Duration,
    },
    /// No TLS connection can be made: one side does not accept the other's certificate.
    #[error("no TLS connection to store {store}: {cause}")]
    Tls {
        /// Backend and endpoints.
        store: String,
        /// What the last handshakes ended with.
        cause: String,
    },
    /// The store refuses: no permission, not authenticated.
    #[error("store {store} refused: {cause}")]
    Denied {
        /// Backend and endpoints.
        store: String,
        /// In its words.
        cause: String,
    },
    /// The embedded store's file cannot be used.
    #[error("store file {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
}
