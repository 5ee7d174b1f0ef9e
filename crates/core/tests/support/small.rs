//! Small worlds: a cluster at one moment, told in a few words.

#[path = "small/build.rs"]
mod build;

#[allow(unused_imports, reason = "each test uses what it needs")]
pub(crate) use build::{build, db_uid, keeper_uid};

/// How a standby is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Streams,
    /// Healthy, and not connected to the primary.
    Apart,
    Sick,
    /// Its keeper was not heard for longer than failInterval.
    Silent,
    /// Its keeper was not heard for a while shorter than that.
    Late,
    /// Its data are being copied.
    Copying,
}

/// Where a standby is in its history. The primary is on timeline 3, which began at 500, at 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Level,
    /// As far as maxStandbyLag allows.
    Behind,
    /// Beyond it.
    FarBehind,
    Unknown,
    /// On timeline 2 before its end.
    Earlier,
    /// On timeline 2 past its end in the primary's history.
    Overrun,
    /// On timeline 2, and what is past its end is not replayed: since a moment, for too long.
    Half,
    HalfForLong,
    /// On a timeline that the primary does not know.
    Later,
    /// On a timeline 3 that began elsewhere.
    Elsewhere,
    ElsewhereBehind,
    ElsewhereFarBehind,
}

/// What a standby is to the synchronous set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    Out,
    Listed,
    /// Listed, and reported in sync at this moment.
    JustConfirmed,
    Confirmed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standby(pub(crate) Health, pub(crate) Place, pub(crate) Membership);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primary {
    Good,
    Sick,
    Silent,
    Converging,
    /// Has been converging for longer than convergenceTimeout.
    Overdue,
    Released,
    /// An operator declared its keeper failed.
    Forced,
    /// Not among the dbs.
    Gone,
    /// Good by all signs but still in recovery.
    Recovering,
}

/// What is known of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyState {
    Acknowledged,
    Behind,
    Dead,
    /// The Go program's, which closes connections after it acknowledges: just now.
    GoJustNow,
    /// The Go program's, long ago.
    GoLongAgo,
    /// Enabled by the document and not heard yet.
    Unheard,
    /// Leads clients to standbys, and has carried out the instruction in force.
    Reads,
    /// Leads clients to standbys, and is late.
    ReadsBehind,
    /// Led clients to standbys, and is silent for longer than it can forward.
    ReadsDead,
}

/// Where proxies forward by the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Open,
    Closed,
    /// To a db that is not the primary.
    Astray,
}

/// A cluster at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Small {
    /// The spec asks for synchronous replication, with so many members.
    pub(crate) synchronous: Option<(u16, u16)>,
    /// The primary was last told to replicate synchronously.
    pub(crate) in_force: bool,
    pub(crate) primary: Primary,
    pub(crate) standbys: Vec<Standby>,
    pub(crate) proxies: Vec<ProxyState>,
    pub(crate) route: Route,
    /// The standby, the first being 1, that the proxies were told to leave.
    pub(crate) successor: Option<usize>,
    pub(crate) free_keepers: usize,
    pub(crate) senders: u16,
    pub(crate) recent_failovers: usize,
}

impl Small {
    pub(crate) fn asynchronous(primary: Primary, standbys: &[Standby]) -> Self {
        Self {
            synchronous: None,
            in_force: false,
            primary,
            standbys: standbys.to_vec(),
            proxies: vec![ProxyState::Acknowledged],
            route: Route::Open,
            successor: None,
            free_keepers: 0,
            senders: 3,
            recent_failovers: 0,
        }
    }

    pub(crate) fn synchronous(members: (u16, u16), primary: Primary, standbys: &[Standby]) -> Self {
        Self {
            synchronous: Some(members),
            in_force: true,
            ..Self::asynchronous(primary, standbys)
        }
    }
}
