//! What a proxy is told.

use std::time::Duration;

use stolon_core::proxy::ReadOnly;

use crate::config::CommonConfig;

/// What a proxy is told; checked, nothing left open.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all daemons are told.
    pub common: CommonConfig,
    /// Where it listens for clients of the primary.
    pub listening: Listening,
    /// Where it listens for clients that only read, and how those are served; none: nowhere.
    pub read_only: Option<(Listening, ReadOnly)>,
    /// Whether it stops listening while it cannot see the store.
    pub stop_listening: bool,
    /// How long a client is held while there is no primary; zero: it is refused at once.
    pub hold_timeout: Duration,
    /// How many clients are held at the same time; more are refused at once.
    pub most_held: usize,
    /// Keepalive of both sides' sockets.
    pub keepalive: Keepalive,
}

/// Where a proxy listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Host name or address.
    pub address: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, port } = self;
        if address.contains(':') && !address.starts_with('[') {
            write!(f, "[{address}]:{port}")
        } else {
            write!(f, "{address}:{port}")
        }
    }
}

/// TCP keepalive (tcp(7)); what is not given is the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Unanswered probes after which a connection is dead.
    pub count: Option<u32>,
    /// Time between probes.
    pub interval: Option<Duration>,
}
