//! The keeper: makes one PostgreSQL instance what the cluster data say.
//!
//! [`Keeper::handle`] is the whole protocol. After every event the one next step towards the wanted
//! state is decided from what is on disk, what the instance is, and the newest document; the step's
//! outcome is a new fact. So a keeper killed at any point goes on where the facts are.

pub mod decide;
pub mod facts;
mod report;
mod sync;

use std::time::Duration;

use crate::model::{BootUuid, ClusterData, ClusterSpec, KeeperInfo, KeeperUid, PostgresVersion};
use crate::reason::Reason;
use crate::time::Instant;
use decide::{Decision, Step, decide};
use facts::{Disk, Facts, Health, Observation, Process};
use sync::SyncTracker;

/// Time between two looks while something is awaited.
const AWAIT_PAUSE: Duration = Duration::from_millis(50);
/// The same while the instance starts: each look is a line in its log.
const START_PAUSE: Duration = Duration::from_millis(150);
/// Publications that are due to a change follow one another no faster than this.
const PUBLICATION_PAUSE: Duration = Duration::from_millis(100);
/// A failed step is tried again after this, or after sleepInterval when that is longer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What a keeper is told at its start and never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub uid: KeeperUid,
    /// This start of it.
    pub boot_uuid: BootUuid,
    /// The program's version.
    pub version: String,
    /// The version of PostgreSQL's programs.
    pub postgres_version: PostgresVersion,
    /// The addresses PostgreSQL listens on.
    pub listen_address: String,
    /// The port PostgreSQL listens on.
    pub port: u16,
    /// The address others reach it at.
    pub advertise_address: String,
    /// The port others reach it at.
    pub advertise_port: u16,
    /// Where its sockets are.
    pub socket_folder: String,
    /// The superuser, and how they authenticate.
    pub superuser: (String, String),
    /// The replication user, and how they authenticate.
    pub replication_user: (String, String),
    /// Whether it may run the primary.
    pub can_be_master: bool,
    /// Whether it may run a synchronous standby.
    pub can_be_synchronous_replica: bool,
}

/// What a keeper learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something may have changed, or the time asked for has come.
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
        data: Option<Box<ClusterData>>,
    },
    /// The document could not be read.
    ReadFailed,
    /// The instance was looked at.
    Observed(Health),
    /// The data at rest were looked at.
    Inspected(Disk),
    /// The postmaster ended.
    PostmasterGone,
    /// A step ended.
    StepEnded(Outcome),
    /// A publication ended.
    Published,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done; the data at rest are now so.
    Done(Disk),
    /// It started, or found running, a postmaster.
    Started(Disk),
    /// It failed, and may be tried again.
    Failed(String, Disk),
}

/// What a keeper wants done. Every effect may be repeated after a crash at any point.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read the document; answer with [`Event::Document`] or [`Event::ReadFailed`].
    Read,
    /// Look at the running instance; answer with [`Event::Observed`].
    Observe,
    /// Run a step; answer with [`Event::StepEnded`]. One at a time.
    Run(Box<Step>),
    /// Publish; answer with [`Event::Published`]. The shell adds the publication's name.
    Publish(Box<KeeperInfo>, Duration),
    /// Tell the operator.
    Log(Reason),
    /// Send [`Event::Wake`] at this moment at the latest; replaces the one asked for before.
    WakeAt(Instant),
}

/// The newest document a keeper has read.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// When the read was sent.
    pub sent_at: Instant,
    /// Its store revision.
    pub revision: u64,
    /// What it says.
    pub data: ClusterData,
}

/// One keeper.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    facts: Facts,
    document: Option<Document>,
    /// A document of a lower revision than one seen, until it is read again (I5).
    fallen: Option<u64>,
    sync: SyncTracker,
    reading: bool,
    read_again: bool,
    observing: bool,
    running: Option<Step>,
    publishing: bool,
    last_read: Option<Instant>,
    last_observation: Option<Instant>,
    last_publication: Option<Instant>,
    published: Option<KeeperInfo>,
    retry_at: Option<Instant>,
    round_closed: bool,
    said: Vec<(String, String)>,
}

impl Keeper {
    /// A keeper that found `disk` and `process` at its start.
    pub fn new(settings: Settings, now: Instant, disk: Disk, process: Process) -> Self {
        Self {
            sync: SyncTracker::new(process == Process::Adopted && disk.gate_was_open),
            settings,
            facts: Facts {
                disk,
                process,
                health: Health::Unknown,
                writable_until: now,
                starts_failed: 0,
                released_at: None,
                applied: None,
                parameters_known: false,
                error: None,
            },
            document: None,
            fallen: None,
            reading: false,
            read_again: false,
            observing: false,
            running: None,
            publishing: false,
            last_read: None,
            last_observation: None,
            last_publication: None,
            published: None,
            retry_at: None,
            round_closed: false,
            said: Vec::new(),
        }
    }

    /// Its name.
    pub const fn uid(&self) -> &KeeperUid {
        &self.settings.uid
    }

    /// What is known of the instance.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The newest document.
    pub const fn document(&self) -> Option<&Document> {
        self.document.as_ref()
    }

    /// Takes in what happened and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Wake => {}
            Event::StoreChanged => self.read(&mut effects),
            Event::Document {
                sent_at,
                revision,
                data,
            } => {
                self.reading = false;
                self.last_read = Some(now);
                self.take_document(sent_at, revision, data, &mut effects);
            }
            Event::ReadFailed => {
                self.reading = false;
                self.last_read = Some(now);
            }
            Event::Observed(health) => {
                self.observing = false;
                self.last_observation = Some(now);
                self.take_health(now, health, &mut effects);
            }
            Event::Inspected(disk) => self.facts.disk = disk,
            Event::PostmasterGone => self.postmaster_gone(now, &mut effects),
            Event::StepEnded(outcome) => self.step_ended(now, outcome, &mut effects),
            Event::Published => self.publishing = false,
        }
        if std::mem::take(&mut self.read_again) {
            self.read(&mut effects);
        }
        self.proceed(now, &mut effects);
        self.publish(now, &mut effects);
        self.schedule(now, &mut effects);
        effects
    }

    fn spec(&self) -> crate::model::EffectiveSpec {
        let cluster = self
            .document
            .as_ref()
            .and_then(|document| document.data.cluster.as_ref());
        let spec = cluster.and_then(|cluster| cluster.spec.as_ref());
        spec.map_or_else(
            || ClusterSpec::default().effective(),
            ClusterSpec::effective,
        )
    }

    fn read(&mut self, effects: &mut Vec<Effect>) {
        if self.reading {
            self.read_again = true;
        } else {
            self.reading = true;
            effects.push(Effect::Read);
        }
    }

    /// Nobody acts on an older document after a newer one (I5). When revisions fall the store is
    /// another one (restored): its document counts once it was read a second time.
    fn take_document(
        &mut self,
        sent_at: Instant,
        revision: u64,
        data: Option<Box<ClusterData>>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(data) = data else {
            // The instance is left as it is, and nothing is decided without a document.
            self.document = None;
            return;
        };
        if let Some(known) = &self.document
            && revision < known.revision
            && self.fallen != Some(revision)
        {
            self.fallen = Some(revision);
            let text = "the store went back to an older revision; reading it again";
            let reason = Reason::warn("revision-fell", text).with("revision", revision);
            effects.push(Effect::Log(reason.with("known", known.revision)));
            self.read(effects);
            return;
        }
        self.fallen = None;
        let changed = self
            .document
            .as_ref()
            .is_none_or(|known| known.revision != revision);
        if changed {
            self.round_closed = false;
            self.retry_at = None;
        }
        self.document = Some(Document {
            sent_at,
            revision,
            data: *data,
        });
    }

    fn take_health(&mut self, now: Instant, health: Health, effects: &mut Vec<Effect>) {
        if !self.facts.process.is_running() {
            return;
        }
        if let Health::Running(observation) = &health {
            self.facts.starts_failed = 0;
            if !observation.in_recovery {
                self.facts.writable_until = now;
            }
            self.observe_sync(observation);
        }
        self.facts.health = match (health, &self.facts.health) {
            // It has not answered since its start: it is not listening yet.
            (Health::Silent(why), Health::Unknown | Health::Starting(_)) => Health::Starting(why),
            (Health::Silent(why), Health::Running(_)) => {
                let text = "the instance does not answer";
                effects.push(Effect::Log(
                    Reason::warn("silent", text).with("error", &why),
                ));
                Health::Silent(why)
            }
            (health, _) => health,
        };
    }

    fn observe_sync(&mut self, observation: &Observation) {
        let Some((document, db)) = self.document.as_ref().and_then(|document| {
            let db = document.data.db_of(&self.settings.uid)?;
            Some((document, db))
        }) else {
            return;
        };
        let is_primary = document
            .data
            .primary()
            .is_some_and(|primary| primary.uid == db.uid);
        if is_primary && !observation.in_recovery {
            let names = decide::synchronous_standby_names(&db.spec);
            self.sync
                .observe(&names, &db.spec.synchronous_standbys, observation);
        }
    }

    fn postmaster_gone(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.facts.process.is_running() {
            return;
        }
        let stopping = matches!(self.running, Some(Step::Stop { .. } | Step::KillAll));
        if !stopping {
            effects.push(Effect::Log(Reason::warn(
                "postmaster-gone",
                "the postmaster ended",
            )));
        }
        if matches!(self.facts.health, Health::Unknown | Health::Starting(_)) {
            self.facts.starts_failed = self.facts.starts_failed.saturating_add(1);
        }
        self.instance_ended(now);
        // I8: whatever comes next is decided from a document read after this moment.
        self.read(effects);
    }

    fn instance_ended(&mut self, now: Instant) {
        self.facts.process = Process::Leftovers;
        self.facts.health = Health::Unknown;
        self.facts.writable_until = now;
        self.facts.applied = None;
        self.sync = SyncTracker::new(false);
        self.round_closed = false;
    }

    fn step_ended(&mut self, now: Instant, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(step) = self.running.take() else {
            return;
        };
        self.round_closed = false;
        match outcome {
            Outcome::Done(disk) => {
                self.facts.error = None;
                self.facts.disk = disk;
                self.step_done(now, step);
            }
            Outcome::Started(disk) => {
                self.facts.error = None;
                self.facts.disk = disk;
                self.facts.process = Process::Started;
                self.facts.health = Health::Unknown;
                self.facts.released_at = None;
                self.sync = SyncTracker::new(false);
            }
            Outcome::Failed(error, disk) => {
                self.facts.disk = disk;
                let text = step.failure_text();
                let reason = Reason::error("step-failed", text).with("error", &error);
                effects.push(Effect::Log(reason));
                if matches!(step, Step::Start { .. }) {
                    self.facts.starts_failed = self.facts.starts_failed.saturating_add(1);
                    self.facts.process = Process::Leftovers;
                }
                self.facts.error = Some(format!("{text}: {error}"));
                self.retry_at = Some(now.after(RETRY_PAUSE));
            }
        }
    }

    fn step_done(&mut self, now: Instant, step: Step) {
        match step {
            Step::Configure(wanted) => self.facts.applied = Some(*wanted),
            Step::KillAll => self.facts.process = Process::None,
            Step::Stop { .. } => {
                self.instance_ended(now);
                self.read_again = true;
            }
            Step::Release { revision } => self.facts.released_at = Some(revision),
            Step::SetUpRoles => self.facts.parameters_known = true,
            Step::Stir => self.sync.stirred(),
            Step::SaveState(_)
            | Step::Initialize { .. }
            | Step::Copy { .. }
            | Step::Swap { .. }
            | Step::Discard
            | Step::Claim { .. }
            | Step::Start { .. }
            | Step::Slots { .. }
            | Step::Promote => {}
        }
    }

    /// Decides and begins the next step, when none is running.
    fn proceed(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.running.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let Some(document) = &self.document else {
            return;
        };
        let Decision { step, reasons } = decide(&self.settings, &self.facts, document, &self.sync);
        self.say(reasons, effects);
        match step {
            Some(Step::Release { revision }) => {
                self.facts.released_at = Some(revision);
            }
            Some(step) => {
                self.retry_at = None;
                self.running = Some(step.clone());
                effects.push(Effect::Run(Box::new(step)));
            }
            None => self.close_round(effects),
        }
    }

    /// What follows every round that found nothing to change (contract, section 2).
    fn close_round(&mut self, effects: &mut Vec<Effect>) {
        if self.round_closed || !matches!(self.facts.health, Health::Running(_)) {
            return;
        }
        self.round_closed = true;
        let Some(db) = self
            .document
            .as_ref()
            .and_then(|d| d.data.db_of(&self.settings.uid))
        else {
            return;
        };
        let role = db
            .spec
            .role
            .as_ref()
            .map_or("", |role| role.as_str())
            .to_owned();
        for text in [
            format!("our db requested role is {role}"),
            format!("already {role}"),
            "postgres parameters not changed".to_owned(),
        ] {
            effects.push(Effect::Log(Reason::info("round", text)));
        }
    }

    fn publish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(document) = self.document.as_ref().filter(|_| !self.publishing) else {
            return;
        };
        let Some(cluster) = document.data.cluster.as_ref() else {
            return;
        };
        let info = report::report(
            &self.settings,
            &self.facts,
            &self.sync,
            document,
            self.running.as_ref(),
        );
        let interval = self.spec().sleep_interval;
        let age = self.last_publication.map(|last| now.since(last));
        let changed = self
            .published
            .as_ref()
            .is_none_or(|p| report::differs(p, &info));
        let due = age.is_none_or(|age| {
            // A little early, so that looks a sleepInterval apart never miss one.
            age >= interval.mul_f64(0.9) || (changed && age >= PUBLICATION_PAUSE)
        });
        if !due || cluster.uid.is_empty() {
            return;
        }
        self.publishing = true;
        self.last_publication = Some(now);
        self.published = Some(info.clone());
        let ttl = Duration::from_secs(20).max(interval);
        effects.push(Effect::Publish(Box::new(info), ttl));
    }

    /// Asks for the next looks, and to be woken for whatever time brings.
    fn schedule(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let interval = self.spec().sleep_interval;
        let since = |last: Option<Instant>| last.map_or(Duration::MAX, |last| now.since(last));
        if !self.reading && since(self.last_read) >= interval {
            self.round_closed = false;
            self.read(effects);
        }
        let awaited = self.is_awaiting();
        let starting = matches!(self.facts.health, Health::Starting(_));
        let pause = match (awaited, starting) {
            (true, true) => START_PAUSE,
            (true, false) => AWAIT_PAUSE,
            (false, _) => interval,
        };
        let observable = self.facts.process.is_running();
        if observable && !self.observing && since(self.last_observation) >= pause {
            self.observing = true;
            effects.push(Effect::Observe);
        }
        let mut wake = now.after(interval);
        for (last, pause) in [
            (self.last_read, interval),
            (self.last_observation.filter(|_| observable), pause),
            (self.last_publication, PUBLICATION_PAUSE),
        ] {
            let at = last.map_or(now, |last| last.after(pause));
            if at > now {
                wake = wake.min(at);
            }
        }
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            wake = wake.min(at);
        }
        effects.push(Effect::WakeAt(wake));
    }

    /// Whether something is on its way that only looking again will show.
    fn is_awaiting(&self) -> bool {
        let Some(db) = self
            .document
            .as_ref()
            .and_then(|d| d.data.db_of(&self.settings.uid))
        else {
            return false;
        };
        let converged = self
            .facts
            .disk
            .state
            .as_ref()
            .is_some_and(|state| state.uid == db.uid && state.generation == db.generation);
        let unsettled = match &self.facts.health {
            Health::Running(_) => !converged,
            Health::Unknown | Health::Starting(_) => true,
            Health::Saturated(_) | Health::Silent(_) => false,
        };
        unsettled || self.sync.is_awaiting(&db.spec.synchronous_standbys)
    }

    /// Logs the reasons that were not there at the last decision.
    fn say(&mut self, reasons: Vec<Reason>, effects: &mut Vec<Effect>) {
        let key = |reason: &Reason| (reason.code.clone(), reason.text.clone());
        let now: Vec<_> = reasons.iter().map(key).collect();
        let fresh = reasons
            .into_iter()
            .filter(|reason| !self.said.contains(&key(reason)));
        effects.extend(fresh.map(Effect::Log));
        self.said = now;
    }
}
