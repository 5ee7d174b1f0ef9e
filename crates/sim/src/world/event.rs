//! What can happen, and to whom.

use stolon_core::{keeper, proxy, sentinel};

use super::client::{Operation, Response};
use super::postgres::Record;
use super::store::{Operation as StoreOperation, Reply};

/// Somebody to whom things happen; a process, or the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The store.
    Store,
    /// A keeper.
    Keeper(usize),
    /// The instance of the keeper of that number.
    Postgres(usize),
    /// A sentinel.
    Sentinel(usize),
    /// A proxy.
    Proxy(usize),
    /// A client of the database.
    Client(usize),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Keeper(i) => write!(f, "k{i}"),
            Self::Postgres(i) => write!(f, "pg{i}"),
            Self::Sentinel(i) => write!(f, "s{i}"),
            Self::Proxy(i) => write!(f, "p{i}"),
            Self::Client(i) => write!(f, "c{i}"),
        }
    }
}

/// A connection of a client.
pub(crate) type ConnectionId = u64;

/// One thing that happens. What is addressed to a process carries its life: a later life does not
/// hear it.
#[derive(Debug)]
pub(crate) enum What {
    /// A process starts, where it is not running.
    Start(Actor),
    /// The time that a process asked to be woken at has come.
    Wake(Actor, u32, u64),
    /// A keeper learns something.
    Keeper(usize, u32, Box<keeper::Event>),
    /// The next small change of a keeper's step.
    Act(usize, u32),
    /// A sentinel learns something.
    Sentinel(usize, u32, Box<sentinel::Event>),
    /// A sentinel tries to take or renew the lease.
    Renew(usize, u32),
    /// A sentinel's lease ends by its own clock.
    LeaseEnds(usize, u32),
    /// A proxy learns something.
    Proxy(usize, u32, Box<proxy::Event>),
    /// A request arrives at the store.
    AtStore(u64, Box<StoreOperation>),
    /// An answer of the store arrives.
    Answer(u64, Box<Reply>),
    /// A call to the store has taken too long.
    CallTimeout(u64),
    /// Something happens to an instance, in the life of its server of that number.
    Postgres(usize, u32, PostgresEvent),
    /// A route is set later than core believes.
    SetRoute(usize, u32, Box<proxy::Route>),
    /// A route for those who read likewise.
    SetReadRoute(usize, u32, Box<proxy::ReadRoute>),
    /// A client's statement, or its wish to connect, arrives at a proxy.
    FromClient(usize, u32, ConnectionId, ClientWord),
    /// An answer of an instance arrives at a proxy.
    FromServer(usize, u32, ConnectionId, Response),
    /// A client hears something of a connection.
    ToClient(usize, ConnectionId, Response),
    /// A client does the next thing.
    ClientTurn(usize, u64),
    /// A client has waited for too long.
    ClientTimeout(usize, u64),
    /// Rows are written to the servers outside.
    OutsideWrites,
    /// The fault of that number begins.
    Fault(usize),
    /// The fault of that number ends.
    FaultEnds(usize),
}

/// What a client sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClientWord {
    /// It wants a connection.
    Connect,
    /// It wants something done.
    Do(Operation),
}

/// Part of the write-ahead log, as it is sent to a standby.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// The session it belongs to.
    pub(crate) session: u64,
    /// How many records come before it.
    pub(crate) from: usize,
    /// The records.
    pub(crate) records: Vec<Record>,
    /// The sender's timelines that ended.
    pub(crate) history: Vec<(u64, u64)>,
    /// What a standby's parameters must not be below.
    pub(crate) least: std::collections::BTreeMap<String, u64>,
}

/// What happens to an instance.
#[derive(Debug)]
pub(crate) enum PostgresEvent {
    /// It accepts connections.
    Ready,
    /// What was written up to here is on disk.
    Flushed(usize),
    /// It takes in the configuration as it is written now.
    Reloaded,
    /// A fast stop has come to its end; whether everything went well.
    StopEnds(bool),
    /// A promotion goes on: the timeline changes, and then it is writable.
    Promotes(u8),
    /// A standby looks for its source.
    Follows,
    /// A standby asks for the log: who, its server's life, its name, how much it has, the last
    /// record of that, and the session.
    Asked {
        /// The standby.
        standby: usize,
        /// The life of its server.
        life: u32,
        /// Its slot.
        name: String,
        /// Records that it has.
        from: usize,
        /// The last of them.
        last: u64,
        /// The session.
        session: u64,
    },
    /// The source sends log.
    Batch(Box<Batch>),
    /// The source has died in the middle of a record: so many bytes of it arrive in this session.
    Half(u64, u64),
    /// The source sends no more in this session.
    Ended(u64),
    /// A standby tells what it has on disk.
    Told {
        /// Its slot.
        name: String,
        /// The session.
        session: u64,
        /// The end of what it has on disk.
        flushed: u64,
    },
    /// A standby tells what it has, whether it is new or not.
    Status,
    /// A client, or a proxy for it, connects.
    Connect(ConnectionId),
    /// A statement arrives.
    Do(ConnectionId, Operation),
}
