//! A small obedient world around one sentinel: keepers and proxies that do what the document says,
//! until the test makes them fail. Time is a number.

#[path = "world/describe.rs"]
mod describe;
#[path = "world/members.rs"]
mod members;
#[path = "world/reports.rs"]
mod reports;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::invariants::{Step, check};
use stolon_core::model::request::Request;
use stolon_core::model::{
    ClusterData, ClusterSpec, ClusterUid, KeeperInfo, ProxyInfo, SentinelUid,
};
use stolon_core::reason::Reason;
use stolon_core::sentinel::observe::{Memory, View};
use stolon_core::sentinel::{
    DEFAULT_MOST_FAILOVERS, Effect, Event, Look, Sentinel, Settings, WriteOutcome,
};
use stolon_core::time::{Instant, Timestamp};

#[allow(
    unused_imports,
    reason = "walks need no names for what stories command"
)]
pub(crate) use members::{InstanceModel, KeeperModel, ProxyModel};

/// How long the world may go on changing at one moment before a test calls it unstable.
const MOST_ROUNDS: usize = 60;

/// A decision of the sentinel that was stored.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) before: ClusterData,
    /// What the sentinel saw, by a memory that saw all it did.
    pub(crate) view: View,
    pub(crate) after: ClusterData,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) data: Option<ClusterData>,
    pub(crate) revision: u64,
    pub(crate) keepers: BTreeMap<String, KeeperModel>,
    pub(crate) proxies: BTreeMap<String, ProxyModel>,
    pub(crate) keeper_infos: BTreeMap<String, KeeperInfo>,
    pub(crate) proxy_infos: BTreeMap<String, ProxyInfo>,
    /// What operators ask for.
    pub(crate) requests: Vec<Request>,
    pub(crate) sentinel: Sentinel,
    pub(crate) store_up: bool,
    /// Whether it takes writes.
    pub(crate) store_writable: bool,
    /// Documents of the sentinel that it refused.
    pub(crate) refused_writes: usize,
    /// What was logged since it was last taken.
    pub(crate) log: Vec<Reason>,
    /// Every document that the sentinel stored, with what it was decided from.
    pub(crate) steps: Vec<Decided>,
    /// A document of earlier, for when somebody writes it back.
    pub(crate) remembered: Option<ClusterData>,
    /// Decisions that the sentinel itself found to break an invariant, and did not store.
    withheld: Vec<String>,
    /// Sees what the sentinel sees, to judge its decisions by.
    memory: Memory,
    view: Option<View>,
    /// The last position at which a commit that waited for a standby was acknowledged.
    pub(crate) acknowledged: u64,
    publications: u64,
    looks: u64,
}

impl World {
    pub(crate) fn new(spec: ClusterSpec) -> Self {
        let data = ClusterData::new(ClusterUid::from("c0ffee00"), spec, stamp(Duration::ZERO));
        Self {
            now: Duration::from_secs(1000),
            data: Some(data),
            revision: 1,
            keepers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            requests: Vec::new(),
            keeper_infos: BTreeMap::new(),
            proxy_infos: BTreeMap::new(),
            sentinel: new_sentinel(),
            store_up: true,
            store_writable: true,
            refused_writes: 0,
            log: Vec::new(),
            steps: Vec::new(),
            remembered: None,
            withheld: Vec::new(),
            memory: Memory::new(DEFAULT_MOST_FAILOVERS),
            view: None,
            acknowledged: 0,
            publications: 0,
            looks: 0,
        }
    }

    pub(crate) fn data(&self) -> &ClusterData {
        self.data.as_ref().expect("cluster data")
    }

    /// A new sentinel without memory takes the place of the present one; it does not lead yet.
    pub(crate) fn replace_sentinel(&mut self) {
        self.sentinel = new_sentinel();
        self.memory = Memory::new(DEFAULT_MOST_FAILOVERS);
    }

    pub(crate) fn lead(&mut self) {
        let effects = self.sentinel.handle(self.instant(), Event::Leading(true));
        self.run(effects);
    }

    /// Lets time pass, a tenth of sleepInterval at a time.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.pass_in_steps(time, self.sleep_interval() / 10);
    }

    /// Lets time pass with a look a step.
    pub(crate) fn pass_in_steps(&mut self, time: Duration, step: Duration) {
        let sleep = self.sleep_interval();
        let step = step.max(Duration::from_millis(1));
        let end = self.now + time;
        let mut published = self.now;
        while self.now < end {
            self.now = (self.now + step).min(end);
            if self.now.saturating_sub(published) >= sleep || self.now == end {
                published = self.now;
                self.obey();
                self.publish();
            }
            let effects = self.sentinel.handle(self.instant(), Event::Wake);
            self.run(effects);
        }
    }

    fn sleep_interval(&self) -> Duration {
        self.data.as_ref().map_or(Duration::from_secs(1), |data| {
            let cluster = data.cluster.as_ref().expect("cluster");
            cluster
                .spec
                .clone()
                .unwrap_or_default()
                .effective()
                .sleep_interval
        })
    }

    fn instant(&self) -> Instant {
        Instant::from_boot(self.now)
    }

    /// Carries out what the sentinel wants, and what follows from it, until nothing happens at
    /// this moment any more.
    fn run(&mut self, effects: Vec<Effect>) {
        let mut queue = std::collections::VecDeque::from(effects);
        let mut rounds = 0;
        while let Some(effect) = queue.pop_front() {
            let answer = match effect {
                Effect::Look if !self.store_up => {
                    self.memory.note_blindness();
                    Some(Event::LookFailed)
                }
                Effect::Look => Some(Event::Looked(Box::new(self.look()))),
                Effect::Write { .. } if !self.store_up => Some(Event::Wrote(WriteOutcome::Unknown)),
                Effect::Write { .. } if !self.store_writable => {
                    self.refused_writes += 1;
                    Some(Event::Wrote(WriteOutcome::Refused))
                }
                Effect::Publish(..) if !self.store_writable => {
                    self.memory.note_unwritable(self.instant());
                    Some(Event::PublishFailed(self.instant()))
                }
                Effect::Write { expected, data } => {
                    rounds += 1;
                    assert!(rounds < MOST_ROUNDS, "no fixed point: {:?}", self.log);
                    Some(Event::Wrote(self.write(expected, *data)))
                }
                Effect::Log(reason) => {
                    if reason.code == "invariant" {
                        self.withheld.push(reason.to_string());
                    }
                    self.log.push(reason);
                    None
                }
                Effect::Publish(..) | Effect::Record { .. } | Effect::WakeAt(_) => None,
            };
            if let Some(event) = answer {
                // Every look is a moment of its own.
                self.now += Duration::from_millis(11);
                queue.extend(self.sentinel.handle(self.instant(), event));
            }
        }
    }

    fn look(&mut self) -> Look {
        self.looks += 1;
        let look = Look {
            sentinels: Vec::new(),
            requests: self.requests.clone(),
            sent_at: self.instant(),
            wall: stamp(self.now),
            entropy: self.looks,
            revision: Some(self.revision),
            data: self.data.clone().map(Arc::new),
            keepers: self.keeper_infos.values().cloned().collect(),
            proxies: self.proxy_infos.values().cloned().collect(),
        };
        if let Some(data) = &self.data {
            self.view = Some(self.memory.observe(&look, data, self.revision));
        }
        look
    }

    fn write(&mut self, expected: Option<u64>, data: ClusterData) -> WriteOutcome {
        if expected != Some(self.revision) {
            return WriteOutcome::Conflict;
        }
        self.steps.push(Decided {
            before: self.data().clone(),
            view: self.view.clone().expect("a look before a write"),
            after: data.clone(),
        });
        self.data = Some(data);
        self.revision += 1;
        self.obey();
        self.publish();
        WriteOutcome::Stored
    }

    /// Stores a document as an operator would.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut ClusterData)) {
        let mut data = self.data().clone();
        change(&mut data);
        self.data = Some(data);
        self.revision += 1;
    }

    /// What the decisions so far break, those that were stored and those that were withheld.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = self.withheld.clone();
        for (index, step) in self.steps.iter().enumerate() {
            let (before, view, after) = (&step.before, &step.view, &step.after);
            let broken = check(Step {
                before,
                view,
                after,
            });
            found.extend(
                broken
                    .iter()
                    .map(|broken| format!("document {index}: {broken}")),
            );
        }
        found
    }
}

fn new_sentinel() -> Sentinel {
    Sentinel::new(Settings {
        uid: SentinelUid::from("5e471e10"),
        version: "test".to_owned(),
        initial_spec: None,
        most_failovers: DEFAULT_MOST_FAILOVERS,
    })
}

/// The wall clock of the world.
pub(crate) fn stamp(now: Duration) -> Timestamp {
    let start = 1_700_000_000_i64;
    let seconds = start + i64::try_from(now.as_secs()).expect("seconds");
    Timestamp::from_utc(jiff::Timestamp::from_second(seconds).expect("a time"))
}
