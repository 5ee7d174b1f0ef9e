//! The sentinel: looks at the whole cluster, and while it leads decides what the cluster should be.
//!
//! [`Sentinel::handle`] is the whole protocol. The shell looks, writes, publishes and tells what
//! came of it; the order of these is decided here. Leadership is an optimisation: what keeps two
//! leaders from contradicting each other is that every document is decided from exactly its
//! predecessor and written by compare-and-swap (I4).

pub mod decide;
pub(crate) mod lineage;
mod look;
pub mod observe;
mod said;
mod write_failures;

use std::time::Duration;

use crate::invariants::{self, Step};
use crate::model::report::FEATURE_READS;
use crate::model::report::{IMPLEMENTATION, SentinelInfo};
use crate::model::request::FEATURE_REQUESTS;
use crate::model::{ClusterData, ClusterSpec, ClusterUid, SentinelUid};
use crate::reason::{Reason, Severity};
use crate::time::{Instant, Timestamp};
use decide::{Decision, decide};
pub use look::Look;
use observe::{Memory, View};
use said::Said;
use write_failures::WriteFailures;

/// A look taken without an event in between must not follow the last one sooner than this, so that
/// a chatty store cannot make a sentinel spin.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Most automatic failovers within [`observe::FAILOVER_WINDOW`] (I10): a cluster that moves more
/// often than this is not helped by moving again.
pub const DEFAULT_MOST_FAILOVERS: usize = 3;

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is stored.
    Stored,
    /// The document had changed: nothing was stored.
    Conflict,
    /// The store does not take it: nothing was stored.
    Refused,
    /// No answer: it may have been stored.
    Unknown,
}

/// What a sentinel learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something may have changed, or the time asked for has come.
    Wake,
    /// A look succeeded.
    Looked(Box<Look>),
    /// A look failed.
    LookFailed,
    /// The election was won (true) or lost.
    Leading(bool),
    /// A write ended.
    Wrote(WriteOutcome),
    /// The sign of life sent then could not be stored.
    PublishFailed(Instant),
}

/// What a sentinel wants done. Every effect may be repeated.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read everything; answer with [`Event::Looked`] or [`Event::LookFailed`].
    Look,
    /// Write the cluster data if the stored revision is still `expected`; answer with
    /// [`Event::Wrote`].
    Write {
        /// The revision the document was decided from; none: the key must be absent.
        expected: Option<u64>,
        /// The next document.
        data: Box<ClusterData>,
    },
    /// Publish the sign of life, to expire after the time given.
    Publish(SentinelInfo, Duration),
    /// Append a decision that was stored to the history (contract, section 8).
    Record {
        /// When it was decided.
        at: Timestamp,
        /// Why.
        reasons: Vec<Reason>,
    },
    /// Tell the operator.
    Log(Reason),
    /// Send [`Event::Wake`] at this moment at the latest; replaces the one asked for before.
    WakeAt(Instant),
}

/// How a sentinel is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name, new at each start.
    pub uid: SentinelUid,
    /// The program's version, for its sign of life.
    pub version: String,
    /// The spec to initialise with when the store holds no cluster.
    pub initial_spec: Option<ClusterSpec>,
    /// Automatic failovers within ten minutes after which the next one waits (I10);
    /// [`DEFAULT_MOST_FAILOVERS`].
    pub most_failovers: usize,
}

/// One sentinel.
#[derive(Debug)]
pub struct Sentinel {
    settings: Settings,
    leading: bool,
    /// The next decision is written even if it changes nothing: a leader refreshes the document
    /// when it takes over.
    refresh: bool,
    memory: Memory,
    looking: bool,
    failures: WriteFailures,
    /// The reasons of the decision whose write is on its way.
    writing: Option<(Timestamp, Vec<Reason>)>,
    /// Something happened while a look or write was on its way.
    look_again: bool,
    last_look: Option<Instant>,
    last_publication: Option<Instant>,
    /// When positions and the like were last written.
    last_status_write: Option<Instant>,
    decided_from: Option<View>,
    said: Said,
    sleep_interval: Duration,
}

impl Sentinel {
    /// A sentinel that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            memory: Memory::new(settings.most_failovers),
            settings,
            leading: false,
            refresh: false,
            looking: false,
            failures: WriteFailures::default(),
            writing: None,
            look_again: false,
            last_look: None,
            last_publication: None,
            last_status_write: None,
            decided_from: None,
            said: Said::default(),
            sleep_interval: ClusterSpec::default().effective().sleep_interval,
        }
    }

    /// Whether this sentinel believes that it leads.
    pub const fn leading(&self) -> bool {
        self.leading
    }

    /// What it last decided from.
    pub const fn decided_from(&self) -> Option<&View> {
        self.decided_from.as_ref()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Wake => self.look_soon(now, &mut effects),
            Event::Leading(leading) => {
                self.lead(leading, &mut effects);
                self.look_soon(now, &mut effects);
            }
            Event::LookFailed => {
                self.looking = false;
                self.memory.note_blindness();
                effects.push(Effect::WakeAt(now.after(self.sleep_interval)));
            }
            Event::Looked(look) => {
                self.looking = false;
                self.last_look = Some(now);
                self.take_in(now, &look, &mut effects);
                if self.look_again && self.writing.is_none() {
                    self.look_soon(now, &mut effects);
                }
            }
            Event::PublishFailed(sent_at) => self.memory.note_unwritable(sent_at),
            Event::Wrote(outcome) => {
                self.wrote(now, outcome, &mut effects);
                self.look_soon(now, &mut effects);
            }
        }
        effects
    }

    /// Asks for a look, now or as soon as the one on its way and the shortest pause are over.
    fn look_soon(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.looking || self.writing.is_some() {
            self.look_again = true;
            return;
        }
        if let Some(last) = self.last_look
            && now.since(last) < SHORTEST_PAUSE
        {
            self.look_again = false;
            effects.push(Effect::WakeAt(last.after(SHORTEST_PAUSE)));
            return;
        }
        self.look_again = false;
        self.looking = true;
        effects.push(Effect::Look);
    }

    fn lead(&mut self, leading: bool, effects: &mut Vec<Effect>) {
        if leading != self.leading {
            let text = if leading {
                "leadership acquired"
            } else {
                "leadership lost"
            };
            let reason = Reason::info("leadership", format!("sentinel {text}"));
            effects.push(Effect::Log(reason.with("uid", &self.settings.uid)));
            self.said = Said::default();
        }
        self.refresh |= leading && !self.leading;
        self.leading = leading;
    }

    fn take_in(&mut self, now: Instant, look: &Look, effects: &mut Vec<Effect>) {
        let Some((revision, data)) = look.revision.zip(look.data.as_ref()) else {
            self.publish(now, effects);
            let wake_at = self.failures.look_at(now, self.sleep_interval);
            effects.push(Effect::WakeAt(wake_at));
            if !self.failures.holds(now) {
                self.initialise(look, effects);
            }
            return;
        };
        let Some(spec) = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref())
        else {
            let reason = Reason::error(
                "no-spec",
                "the cluster data hold no cluster: nothing is decided",
            );
            self.said.say(vec![reason], effects);
            effects.push(Effect::WakeAt(now.after(self.sleep_interval)));
            return;
        };
        self.sleep_interval = spec.effective().sleep_interval.max(SHORTEST_PAUSE);
        self.publish(now, effects);
        let may_decide = self.leading && self.writing.is_none() && !self.failures.holds(now);
        let view = may_decide.then(|| self.memory.observe(look, data, revision));
        let next_change_in = match &view {
            Some(view) => view.next_change_in,
            None => self.memory.follow(look, data),
        };
        let next_look = next_change_in.clamp(SHORTEST_PAUSE, self.sleep_interval);
        let wake_at = self.failures.look_at(now, next_look);
        effects.push(Effect::WakeAt(wake_at));
        // A leader judges from its second look on: the first only notes what is there.
        if let Some(view) = view.filter(|view| view.looks > 1) {
            self.decide(now, data, &view, revision, effects);
            self.decided_from = Some(view);
        }
    }

    fn decide(
        &mut self,
        now: Instant,
        data: &ClusterData,
        view: &View,
        revision: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Decision {
            next,
            mut reasons,
            must_write,
        } = decide(data, view);
        let objections = invariants::objections(Step {
            before: data,
            view,
            after: &next,
        });
        let withheld = !objections.is_empty();
        reasons.extend(objections);
        self.said.say(reasons.clone(), effects);
        if withheld {
            return;
        }
        let change = decide::generations::weigh(data, &next);
        let due = match change {
            decide::generations::Change::None => self.refresh || must_write,
            decide::generations::Change::Status => {
                self.refresh
                    || must_write
                    || self
                        .last_status_write
                        .is_none_or(|last| now.since(last) >= self.sleep_interval)
            }
            decide::generations::Change::Facts | decide::generations::Change::Decided => true,
        };
        if !due {
            return;
        }
        self.last_status_write = Some(now);
        let told = if change == decide::generations::Change::Decided {
            reasons
                .into_iter()
                .filter(|reason| reason.severity >= Severity::Info)
                .collect()
        } else {
            Vec::new()
        };
        self.writing = Some((view.wall, told));
        let data = Box::new(decide::generations::stamped(data, next, view.wall));
        effects.push(Effect::Write {
            expected: Some(revision),
            data,
        });
    }

    /// Writes the initial cluster data, as any sentinel may while the store holds none.
    fn initialise(&mut self, look: &Look, effects: &mut Vec<Effect>) {
        let Some(spec) = self.settings.initial_spec.clone() else {
            let text = "no cluster data available, waiting for it to appear (stolonctl init)";
            self.said
                .say(vec![Reason::info("no-cluster", text)], effects);
            return;
        };
        if self.writing.is_some() {
            return;
        }
        let mut names = decide::NewNames::new(look.entropy);
        let uid = ClusterUid::new(names.next_uid());
        let reason = Reason::info("initialise", "writing initial cluster data");
        let reasons = vec![reason.with("clusterUID", &uid)];
        self.said.say(reasons.clone(), effects);
        self.writing = Some((look.wall, reasons));
        let data = Box::new(ClusterData::new(uid, spec, look.wall));
        effects.push(Effect::Write {
            expected: look.revision,
            data,
        });
    }

    fn wrote(&mut self, now: Instant, outcome: WriteOutcome, effects: &mut Vec<Effect>) {
        let Some((at, reasons)) = self.writing.take() else {
            return;
        };
        self.failures.note(outcome, now, self.sleep_interval);
        match outcome {
            WriteOutcome::Stored => {
                self.refresh = false;
                if !reasons.is_empty() {
                    effects.push(Effect::Record { at, reasons });
                }
            }
            WriteOutcome::Conflict => {
                let text = "cluster data changed while deciding; deciding again";
                effects.push(Effect::Log(Reason::debug("conflict", text)));
                self.said = Said::default();
            }
            // The shell has told why.
            WriteOutcome::Refused => {}
            WriteOutcome::Unknown => {
                let text = "no answer to the write of the cluster data; reading it again";
                effects.push(Effect::Log(Reason::warn("write-unknown", text)));
                self.said = Said::default();
            }
        }
    }

    fn publish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        // A little early, so that looks a sleepInterval apart never miss one.
        let pause = self.sleep_interval.mul_f64(0.9);
        if self
            .last_publication
            .is_some_and(|last| now.since(last) < pause)
        {
            return;
        }
        self.last_publication = Some(now);
        let info = SentinelInfo {
            uid: self.settings.uid.clone(),
            implementation: IMPLEMENTATION.to_owned(),
            version: self.settings.version.clone(),
            features: vec![FEATURE_READS.to_owned(), FEATURE_REQUESTS.to_owned()],
            ..SentinelInfo::default()
        };
        effects.push(Effect::Publish(info, self.sleep_interval.saturating_mul(2)));
    }
}
