//! The keeper: makes one PostgreSQL instance what the cluster data say.
//!
//! [`Keeper::handle`] is the whole protocol. After every event the one next step towards the wanted
//! state is decided from what is on disk, what the instance is, and the newest document; the step's
//! outcome is a new fact. So a keeper killed at any point goes on where the facts are.

pub mod decide;
pub mod facts;
mod reading;
mod report;
mod requests;
mod rhythm;
mod source;
mod sync;
mod trouble;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::request::{Progress, RequestId};
use crate::model::{
    BootUuid, ClusterData, ClusterSpec, EffectiveSpec, ExtSettings, KeeperInfo, KeeperUid,
    PostgresVersion,
};
use crate::reason::Reason;
use crate::time::Instant;
use decide::Step;
use facts::{Asked, Disk, Facts, Health, Process};
use requests::Part;
use source::Source;
use sync::SyncTracker;

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
    /// Whether members connect to one another by TLS only, so that nothing else is taken of their users.
    pub requires_tls: bool,
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
        data: Option<Arc<ClusterData>>,
        /// The settings beside it; none: they could not be read, and those known still hold.
        settings: Option<ExtSettings>,
    },
    /// The document could not be read.
    ReadFailed,
    /// The passwords that the configuration holds are others now.
    PasswordsChanged,
    /// The instance was looked at.
    Observed(Health),
    /// The data at rest were looked at.
    Inspected(Disk),
    /// The postmaster ended; never sent before the [`Outcome::Started`] of its start.
    PostmasterGone,
    /// A step ended.
    StepEnded(Outcome),
    /// A publication ended.
    Published,
    /// What is asked for was read.
    Asked(Box<Asked>),
    /// It could not be read.
    AskFailed,
    /// [`Effect::Note`] ended; true: it is stored.
    Noted(bool),
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
    /// It was given up because [`Effect::Cancel`] asked for it.
    Cancelled(Disk),
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
    /// Give the running step up; it still answers with [`Event::StepEnded`], which may say that it
    /// was done before.
    Cancel,
    /// Publish; answer with [`Event::Published`]. The shell adds the publication's name.
    Publish(Box<KeeperInfo>, Duration),
    /// Read what operators ask for, and what the other keepers publish when `peers` is set; answer with
    /// [`Event::Asked`] or [`Event::AskFailed`].
    Ask {
        /// Whether the others' publications are needed.
        peers: bool,
    },
    /// Write what came of a request at this keeper into it; answer with [`Event::Noted`].
    Note {
        /// The request.
        request: RequestId,
        /// What came of it.
        progress: Progress,
    },
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
    pub data: Arc<ClusterData>,
    /// The settings beside it, as last read.
    pub settings: ExtSettings,
}

/// One keeper.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    facts: Facts,
    document: Option<Document>,
    /// What its specification comes to; that of none without a document.
    spec: EffectiveSpec,
    /// The last document, also while there is none: what comes after it may be older (I5).
    last: Option<(u64, Arc<ClusterData>)>,
    /// A document of a lower revision than one seen, until it is read again (I5).
    fallen: Option<u64>,
    /// How often documents older than one seen were taken.
    falls: u32,
    sync: SyncTracker,
    reading: bool,
    read_again: bool,
    observing: bool,
    look_began: Option<Instant>,
    /// When the look began that found what is told of the instance.
    looked_at: Option<Instant>,
    /// The look that is on its way began before the instance was changed.
    outdated_look: bool,
    running: Option<Step>,
    /// The passwords changed since the running step began.
    passwords_changed: bool,
    /// The running step was asked to end.
    cancelling: bool,
    publishing: bool,
    /// Its part in operators' requests.
    part: Part,
    /// Since when parameters wait for a restart.
    pending_since: Option<Instant>,
    /// What there is to remember of the server outside.
    source: Source,
    last_read: Option<Instant>,
    read_failed: bool,
    last_observation: Option<Instant>,
    /// Since when nothing has moved while something is awaited.
    awaiting_since: Option<Instant>,
    last_publication: Option<Instant>,
    published: Option<KeeperInfo>,
    retry_at: Option<Instant>,
    /// Failures of steps in a row, without those of starts.
    failures: u32,
    /// After failed starts: no other start before this.
    start_at: Option<Instant>,
    /// Promotion was asked for; not again before this.
    promote_at: Option<Instant>,
    round_closed: bool,
    said: Vec<(String, String)>,
    /// What was told of connections and disk, and when it was last so.
    trouble: BTreeMap<String, Instant>,
}

impl Keeper {
    /// A keeper that found `disk` and `process` at its start.
    pub fn new(settings: Settings, now: Instant, disk: Disk, process: Process) -> Self {
        let control = disk.control.as_ref();
        let least_parameters = control.map(|control| control.least_parameters.clone());
        Self {
            sync: SyncTracker::new(process == Process::Adopted && disk.gate_was_open),
            settings,
            facts: Facts {
                disk,
                process,
                health: Health::Unknown,
                writable_until: now,
                starts_failed: 0,
                made_anew: 0,
                rewinds_failed: None,
                released_at: None,
                least_parameters: least_parameters.unwrap_or_default(),
                applied: None,
                roles_set_up: false,
                is_health_fresh: true,
                md5_verifiers: None,
                error: None,
                asked: None,
                may_restart: false,
                checkpoint_of: None,
                has_parted: false,
                copied_from: None,
                are_gone_for_long: false,
            },
            document: None,
            spec: ClusterSpec::default().effective(),
            last: None,
            fallen: None,
            falls: 0,
            reading: false,
            read_again: false,
            observing: false,
            look_began: None,
            looked_at: None,
            outdated_look: false,
            running: None,
            passwords_changed: false,
            cancelling: false,
            publishing: false,
            part: Part::default(),
            pending_since: None,
            source: Source::default(),
            last_read: None,
            read_failed: false,
            last_observation: None,
            awaiting_since: None,
            last_publication: None,
            published: None,
            retry_at: None,
            failures: 0,
            start_at: None,
            promote_at: None,
            round_closed: false,
            said: Vec::new(),
            trouble: BTreeMap::new(),
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

    /// Whether a running instance has not taken in the configuration it is to have.
    pub fn needs_reload(&self) -> bool {
        let is_configuring = matches!(self.running, Some(Step::Configure(_)));
        self.facts.process.is_running() && (is_configuring || self.facts.applied.is_none())
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
                settings,
            } => {
                self.read_ended(now, false);
                self.take_document(sent_at, revision, data, &mut effects);
                self.take_settings(settings);
            }
            Event::ReadFailed => self.read_ended(now, true),
            Event::PasswordsChanged => {
                self.facts.applied = None;
                self.passwords_changed = true;
            }
            Event::Observed(health) => {
                self.observing = false;
                self.last_observation = Some(now);
                if std::mem::take(&mut self.outdated_look) {
                    self.last_observation = None;
                } else {
                    self.take_health(now, health);
                }
            }
            Event::Inspected(disk) => self.take_disk(disk),
            Event::PostmasterGone => self.postmaster_gone(now, &mut effects),
            Event::StepEnded(outcome) => self.step_ended(now, outcome, &mut effects),
            Event::Published => self.publishing = false,
            Event::Asked(asked) => {
                if !self.take_asked(now, *asked) {
                    return effects;
                }
            }
            Event::AskFailed => self.part.ask_ended(now),
            Event::Noted(stored) => self.take_noted(now, stored),
        }
        if std::mem::take(&mut self.read_again) {
            self.read(&mut effects);
        }
        self.note_late_look(now);
        self.tell_trouble(now, &mut effects);
        self.proceed(now, &mut effects);
        self.publish(now, &mut effects);
        self.note_progress(now, &mut effects);
        self.schedule(now, &mut effects);
        effects
    }

    const fn spec(&self) -> &EffectiveSpec {
        &self.spec
    }

    fn take_disk(&mut self, disk: Disk) {
        if let Some(control) = &disk.control {
            self.facts
                .least_parameters
                .clone_from(&control.least_parameters);
        }
        self.facts.disk = disk;
    }

    fn take_health(&mut self, now: Instant, mut health: Health) {
        if !self.facts.process.is_running() {
            return;
        }
        self.facts.is_health_fresh = true;
        self.keep_worthwhile_restarts(&mut health);
        if let Some(why) = decide::lacks_wal(&self.facts.disk, &health) {
            self.never_starts(why);
        }
        if let Health::Running(observation) = &health {
            self.answered();
            self.looked_at = self.look_began;
            self.note_parting(now, observation);
            if !observation.in_recovery {
                self.facts.writable_until = now;
            }
            self.facts.md5_verifiers = Some(observation.md5_verifiers.clone());
            self.observe_sync(observation);
        }
        self.take_state(health);
    }
}
