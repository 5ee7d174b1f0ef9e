//! What a run is: a cluster of some shape, and the faults that happen to it. All of it is drawn from
//! the seed before the run, so that a fault can be taken out without changing the others.

use std::time::Duration;

use stolon_core::model::ClusterSpec;
use stolon_core::proxy::MaxLag;

use crate::broken::Sabotage;
use crate::world::past::GoesBack;
use crate::world::{Actor, Time};

/// The cluster.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Keepers, each with an instance.
    pub keepers: usize,
    /// Sentinels.
    pub sentinels: usize,
    /// Proxies.
    pub proxies: usize,
    /// Of the keepers the first so many are of the Go program.
    pub go_keepers: usize,
    /// Of the proxies likewise.
    pub go_proxies: usize,
    /// Of the sentinels likewise.
    pub go_sentinels: usize,
    /// Who reads from standbys; none: nobody does.
    pub reading: Option<Reading>,
    /// Clients that come through proxies.
    pub clients: usize,
    /// Clients that go round them.
    pub direct_clients: usize,
    /// Servers outside, one of which a standby cluster follows.
    pub outside: usize,
    /// The pause between two rows that are written there, in milliseconds.
    pub outside_pace: (u64, u64),
    /// Whether sentinels and proxies live on the keepers' hosts.
    pub together: bool,
    /// The cluster specification.
    pub spec: ClusterSpec,
    /// Failovers in ten minutes after which the next one waits.
    pub most_failovers: usize,
    /// Bound on a call to the store.
    pub store_timeout: Duration,
    /// How long a sentinel's lease lasts.
    pub lease: Duration,
    /// Pause between two words of a standby to its source (`wal_receiver_status_interval`).
    pub standby_status: Duration,
    /// Clients' pause between statements, in milliseconds.
    pub pace: (u64, u64),
    /// When the last fault has ended.
    pub calm_from: Time,
}

/// Clients' pause between statements when the last fault has ended, in milliseconds, where they pause for
/// longer before: whether a proxy leads to the primary is told by who writes through it.
const CALM_PACE: (u64, u64) = (1000, 20_000);

impl Shape {
    /// Clients' pause between statements when the last fault has ended, in milliseconds.
    pub(crate) fn calm_pace(&self) -> (u64, u64) {
        if self.pace.1 > CALM_PACE.1 {
            CALM_PACE
        } else {
            self.pace
        }
    }
}

/// Proxies that lead clients that only read to standbys, and such clients.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Of the proxies the last so many, where they are not of the Go program.
    pub proxies: usize,
    /// Clients that read, and try to write sometimes.
    pub clients: usize,
    /// How far a standby may be behind.
    pub max_lag: MaxLag,
}

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// When it begins.
    pub at: Time,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub kind: FaultKind,
}

/// What can go wrong, and what operators do.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// A process is killed, and started again at the end.
    Kill(Actor),
    /// A process is killed after it has carried out so many effects more.
    KillAfter(Actor, u32),
    /// A keeper, a proxy or a sentinel is ended, and a process of the other program started in its place: ours where
    /// it was one of the Go program, and the other way about.
    Exchange(Actor),
    /// A process stands still.
    Pause(Actor),
    /// A host stands still.
    PauseHost(usize),
    /// A host loses power: everything on it, and what was not flushed.
    CrashHost(usize),
    /// A keeper's host loses power, and comes back with an empty disk.
    LoseDisk(usize),
    /// A postmaster is killed; whether children of it live on.
    KillPostmaster(usize, bool),
    /// The next starts of an instance die.
    StartsDie(usize, u32),
    /// The next promotion of an instance dies half way.
    PromotionsDie(usize),
    /// Copies to a keeper break off.
    CopiesFail(usize),
    /// A keeper's disk is full.
    DiskFull(usize),
    /// An instance's writes take up to so many milliseconds more.
    SlowDisk(usize, u64),
    /// Nothing comes from one host to another.
    Cut(usize, usize),
    /// A host is cut from all others: what goes out, what comes in.
    Isolate(usize, bool, bool),
    /// A host's connections are slow and lossy.
    Trouble(usize),
    /// The store answers nobody.
    StoreDown,
    /// The store takes up to so many milliseconds.
    StoreSlow(u64),
    /// The store loses so many answers of a thousand.
    StoreLosesAnswers(u64),
    /// Keys of the store outlive their time by so much.
    StoreExpiresLate(Duration),
    /// The store goes back to what it was so long before.
    StoreGoesBack(GoesBack, Duration),
    /// The cluster data are gone, and come back as they were so long before they went.
    DataGone(Duration),
    /// An operator makes another cluster of this one (`stolonctl init`).
    BeginAnew,
    /// Somebody does not hear of changes.
    StallWatch(Actor),
    /// A host's wall clock jumps by so many milliseconds.
    WallJump(usize, i64),
    /// A sentinel believes that it leads, whatever the store says.
    BelievesToLead(usize),
    /// An operator declares a keeper failed.
    FailKeeper(usize),
    /// An operator removes a keeper.
    RemoveKeeper(usize),
    /// An operator changes the specification.
    ChangeSpec(SpecChange),
    /// An operator asks the daemons for something; a pause ends with it.
    Ask(Wish),
    /// Something happens to the servers outside.
    Outside(OutsideFault),
    /// An operator has a standby cluster follow the server outside that is written to, or another one.
    NameSource(bool),
}

/// What happens to the servers outside that a standby cluster may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsideFault {
    /// The one that is written to loses power, and comes back at the end.
    Crash,
    /// A standby there is promoted; the other one goes on alone, and follows it at the end.
    Promote,
    /// The one that is written to is restored to so many records before.
    GoBack(u64),
}

/// What operators ask the daemons for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// That the instance of a keeper is restarted; none: all of them.
    Restart(Option<usize>),
    /// That a keeper's data are copied anew.
    Resync(usize),
    /// That nothing is decided.
    Pause,
}

/// What operators change.
#[derive(Debug, Clone, PartialEq)]
pub enum SpecChange {
    /// Whether commits wait for standbys.
    Synchronous(bool),
    /// The fewest and the most synchronous standbys.
    SynchronousStandbys(u16, u16),
    /// The most standbys of the cluster.
    MostStandbys(u16),
    /// PostgreSQL's `max_connections`, restarted into or not.
    Connections(u64, bool),
    /// How long a proxy's check counts, in milliseconds.
    ProxyTimeout(u64),
    /// A standby cluster becomes a master (`stolonctl promote`).
    PromoteCluster,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed that everything is drawn from.
    pub seed: u64,
    /// The cluster.
    pub shape: Shape,
    /// The faults, in the order of their time.
    pub faults: Vec<Fault>,
    /// What is deliberately broken.
    pub sabotage: Option<Sabotage>,
}

impl Shape {
    /// Clients that only read, by proxies that lead them to standbys.
    pub fn reading_clients(&self) -> usize {
        self.reading.as_ref().map_or(0, |reading| reading.clients)
    }
}

impl Plan {
    /// Whether processes of the Go program are in it. Their keepers tell the oldest log that they have by
    /// a file of 16 MB, in which the whole log of this world lies: in such a world none is removed.
    pub(crate) fn has_go(&self) -> bool {
        let exchanges = |fault: &Fault| matches!(fault.kind, FaultKind::Exchange(_));
        self.shape.go_keepers + self.shape.go_proxies > 0 || self.faults.iter().any(exchanges)
    }

    /// Whether the store goes back in it.
    pub(crate) fn goes_back(&self) -> bool {
        self.faults.iter().any(|fault| {
            matches!(
                fault.kind,
                FaultKind::StoreGoesBack(_, _) | FaultKind::DataGone(_) | FaultKind::BeginAnew
            )
        })
    }
}
