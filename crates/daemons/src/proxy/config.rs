//! What a proxy is told.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use stolon_core::proxy::MaxLag;

use crate::config::CommonConfig;

/// More threads than this are not started.
pub const MOST_THREADS: usize = 64;

/// What a proxy is told; checked, nothing left open.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all daemons are told.
    pub common: CommonConfig,
    /// The address it listens on.
    pub listen_address: String,
    /// The port it listens on.
    pub port: u16,
    /// Whether it stops listening while it cannot see the store.
    pub stop_listening: bool,
    /// How long a client is held while there is no primary; zero: it is refused at once.
    pub hold_timeout: Duration,
    /// How many clients are held at the same time; more are refused at once.
    pub most_held: usize,
    /// How long sessions go on once the proxy is asked to stop.
    pub drain_timeout: Duration,
    /// How long sessions go on once a successor has taken over.
    pub upgrade_drain_timeout: Duration,
    /// Threads that carry clients; none: as many as fit the machine.
    pub threads: Option<NonZeroUsize>,
    /// Keepalive of both sides' sockets.
    pub keepalive: Keepalive,
    /// The networks whose connections begin with a header of the PROXY protocol.
    pub proxy_protocol_from: Vec<IpNet>,
    /// The port for clients that only read; none: there is none.
    pub reading: Option<Reading>,
    /// TLS that ends at the proxy; none: it passes through to PostgreSQL.
    pub tls: Option<Tls>,
}

/// A port that leads to standbys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The address it listens on.
    pub listen_address: String,
    /// The port it listens on.
    pub port: u16,
    /// How far a standby may be behind.
    pub max_lag: MaxLag,
    /// What becomes of clients while no standby is near enough.
    pub fallback: Fallback,
}

/// What becomes of clients that read while no standby is near enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// They are led to the primary.
    Primary,
    /// They are held, and refused.
    Refuse,
}

/// TLS that ends at the proxy. The files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate that clients are shown, and after it those that signed it.
    pub certificate: PathBuf,
    /// Its key, without a passphrase.
    pub key: PathBuf,
    /// Who signs the certificates that clients must show; none: they show none.
    pub client_authority: Option<PathBuf>,
    /// Whether clients that do not ask for TLS are refused.
    pub required: bool,
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
