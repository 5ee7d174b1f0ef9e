//! One keeper with its disk, its PostgreSQL instance and a store, as a model: every effect is taken
//! apart into the smallest changes of the world that it makes, in the order in which the daemon makes
//! them, and what must never happen is checked after each. Time is a number.

mod acts;
mod deaths;
pub(crate) mod looks;
mod promises;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use stolon_core::keeper::decide::{Step, Wanted};
use stolon_core::keeper::facts::{Content, DbState, Process};
use stolon_core::keeper::{Effect, Event, Keeper, Outcome, Settings};
use stolon_core::model::request::Request;
use stolon_core::model::{
    BootUuid, ClusterData, Db, DbUid, ExtSettings, Generation, KeeperInfo, KeeperUid,
    PostgresVersion,
};
use stolon_core::reason::Severity;
use stolon_core::time::Instant;

use acts::Act;
pub(crate) use deaths::Death;
use looks::name_of;

/// Changes of the world at most before a test calls it restless.
const MOST_TURNS: usize = 200_000;
/// A step that is repeated comes back no sooner than this.
const SHORTEST_REPEAT: Duration = Duration::from_millis(40);
/// Steps in one second at most: more are a keeper that goes to and fro.
const MOST_STEPS: usize = 80;
const SYSTEM: &str = "7000000000000000001";

/// The keeper under test, and its neighbour.
pub(crate) const US: &str = "k1";
pub(crate) const THEM: &str = "k2";

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Folder {
    pub(crate) content: Content,
    pub(crate) identity: Option<DbUid>,
    /// What is, or was before its removal began, in it.
    pub(crate) data: Data,
    /// Whether all of it is there.
    pub(crate) whole: bool,
    /// Whether somebody who was allowed to has marked it for removal.
    pub(crate) given_up: bool,
    pub(crate) config: Option<Wanted>,
    pub(crate) signal: bool,
    pub(crate) recovery_signal: bool,
    pub(crate) of_other_cluster: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Data {
    /// The db that these data are, whatever they say.
    pub(crate) owner: DbUid,
    pub(crate) system: String,
    pub(crate) timeline: u64,
    /// The last one that a promotion must not begin.
    pub(crate) passed_over: u64,
    pub(crate) lsn: u64,
    pub(crate) roles: bool,
    pub(crate) clean: bool,
    /// It was stopped while it recovered from a crash: it says that it ended in recovery.
    pub(crate) interrupted: bool,
    /// The `max_connections` of the primary that wrote the WAL.
    pub(crate) connections: u64,
    /// From where on each keeps WAL.
    pub(crate) slots: BTreeMap<String, Slot>,
    /// It ran without checksums and `wal_log_hints`.
    pub(crate) no_hints: bool,
    /// How often a recovery of restored data was finished.
    pub(crate) recoveries: u32,
}

/// A replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slot {
    /// From where on it keeps WAL.
    pub(crate) from: u64,
    /// It kept more than it may.
    pub(crate) lost: bool,
}

/// A running instance.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) writable: bool,
    ready_at: Duration,
    recovers: bool,
    pub(crate) in_force: Wanted,
    pub(crate) pending_restart: Vec<String>,
    promoted_at: Option<Duration>,
}

/// What goes wrong, until it is mended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) store_down: bool,
    pub(crate) start_dies: bool,
    pub(crate) copy_fails: bool,
    pub(crate) restore_fails: bool,
    /// The server outside has nothing for us.
    pub(crate) source_silent: bool,
    /// The server outside left every older timeline here.
    pub(crate) source_parted: Option<u64>,
    pub(crate) no_room: bool,
    /// A standby is not consistent, and its source has removed the WAL that would make it so.
    pub(crate) wal_gone: bool,
    /// The source refuses a rewind before the data are touched.
    pub(crate) rewind_refused: bool,
    /// A rewind fails midway.
    pub(crate) rewind_fails: bool,
    pub(crate) silent: bool,
    pub(crate) slow: bool,
    pub(crate) saturated: bool,
    /// Users' connections are all taken, and the keeper has its own.
    pub(crate) taken: bool,
    pub(crate) disk_full: bool,
    pub(crate) not_admitting: bool,
    pub(crate) slots_fail: bool,
}

struct Work {
    step: Step,
    acts: VecDeque<Act>,
    next_at: Duration,
    cancelled: bool,
}

impl Work {
    fn is_done(&self) -> bool {
        self.acts.is_empty()
    }
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) data: Option<ClusterData>,
    pub(crate) revision: u64,
    /// The settings beside the document.
    pub(crate) settings: ExtSettings,
    pub(crate) state: Option<DbState>,
    pub(crate) pgdata: Folder,
    pub(crate) beside: Folder,
    /// Whether the superuser is to authenticate by SCRAM.
    pub(crate) by_scram: bool,
    pub(crate) requires_tls: bool,
    /// The user whose password is stored for md5.
    pub(crate) stored_for_md5: Option<String>,
    pub(crate) server: Option<Server>,
    /// What is beside PGDATA was in its place before.
    beside_is_replaced: bool,
    pub(crate) orphans: bool,
    pub(crate) faults: Faults,
    /// Who streams from our instance: name, and how far behind it is.
    pub(crate) peers: BTreeMap<String, u64>,
    /// The neighbour's position.
    pub(crate) source_lsn: u64,
    pub(crate) published: Option<KeeperInfo>,
    /// What operators ask for.
    pub(crate) requests: Vec<Request>,
    /// What the other keepers publish.
    pub(crate) peer_infos: Vec<KeeperInfo>,
    pub(crate) log: Vec<String>,
    /// How often the keeper looked at its instance.
    pub(crate) looks: u32,
    /// The version of PostgreSQL that is installed.
    pub(crate) postgres_major: i64,
    /// Changes of the world so far.
    pub(crate) acts: usize,
    /// What dies after the change of this number, and comes back a little later.
    pub(crate) death: Option<(usize, Death)>,
    restart_at: Option<Duration>,
    boot: u32,
    admit_at: Option<Duration>,
    work: Option<Work>,
    inbox: Vec<(Duration, Event)>,
    wake_at: Option<Duration>,
    writable_until: Duration,
    told: String,
    last_step: Option<(Duration, Step)>,
    /// When the steps of the last second began.
    begun: VecDeque<Duration>,
    pub(crate) busy_at: Duration,
    /// Every document, and every db spec, there ever was.
    history: BTreeMap<u64, Option<ClusterData>>,
    specs: BTreeMap<(DbUid, Generation), Db>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            now: Duration::from_secs(1000),
            keeper: None,
            data: None,
            revision: 0,
            settings: ExtSettings::default(),
            state: None,
            pgdata: Folder::default(),
            beside: Folder::default(),
            by_scram: false,
            requires_tls: false,
            stored_for_md5: None,
            server: None,
            beside_is_replaced: false,
            orphans: false,
            faults: Faults::default(),
            peers: BTreeMap::new(),
            source_lsn: 5000,
            published: None,
            requests: Vec::new(),
            peer_infos: Vec::new(),
            log: Vec::new(),
            looks: 0,
            postgres_major: 15,
            acts: 0,
            death: None,
            restart_at: None,
            boot: 0,
            admit_at: None,
            work: None,
            inbox: Vec::new(),
            wake_at: None,
            writable_until: Duration::ZERO,
            told: String::new(),
            last_step: None,
            begun: VecDeque::new(),
            busy_at: Duration::ZERO,
            history: BTreeMap::new(),
            specs: BTreeMap::new(),
        }
    }

    fn instant(&self) -> Instant {
        Instant::from_boot(self.now)
    }

    /// Starts the keeper on what it finds.
    pub(crate) fn start_keeper(&mut self) {
        self.boot += 1;
        let process = match (&self.server, self.orphans) {
            (Some(_), _) => Process::Adopted,
            (None, true) => Process::Leftovers,
            (None, false) => Process::None,
        };
        let settings = Settings {
            requires_tls: self.requires_tls,
            ..settings(self.boot, self.by_scram, self.postgres_major)
        };
        let keeper = Keeper::new(settings, self.instant(), self.inspect(), process);
        self.keeper = Some(keeper);
        self.say("keeper starts");
        self.now += Duration::from_millis(1);
        self.hand(Event::StoreChanged);
    }

    /// The operator gives the users other passwords.
    pub(crate) fn change_passwords(&mut self) {
        self.hand(Event::PasswordsChanged);
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..MOST_TURNS {
            match self.next_at() {
                Some(at) if at <= end => self.turn(at),
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("restless: {}", self.log.join("\n"));
    }

    /// Lets time pass until no step was run for a while.
    pub(crate) fn settle(&mut self, most: Duration) {
        let end = self.now + most;
        self.busy_at = self.now;
        while self.now < end {
            self.pass(Duration::from_millis(500));
            let quiet = self.now.saturating_sub(self.busy_at) >= Duration::from_secs(4);
            if quiet && self.work.is_none() && self.keeper.is_some() {
                return;
            }
        }
        panic!(
            "does not settle: {}\n{}",
            self.log.join("\n"),
            self.describe()
        );
    }

    fn next_at(&self) -> Option<Duration> {
        let promotion = self.server.as_ref().and_then(|server| server.promoted_at);
        let times = [
            self.inbox.iter().map(|(at, _)| *at).min(),
            self.work.as_ref().map(|work| work.next_at),
            self.wake_at,
            self.admit_at,
            self.restart_at,
            promotion,
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing happens.
    fn turn(&mut self, at: Duration) {
        self.now = self.now.max(at);
        if self.promotion_is_due() {
            let server = self.server.as_mut().expect("a server");
            server.promoted_at = None;
            server.writable = true;
            self.pgdata.signal = false;
            let recovered = std::mem::take(&mut self.pgdata.recovery_signal);
            let data = &mut self.pgdata.data;
            data.recoveries += u32::from(recovered);
            data.timeline = data.timeline.max(data.passed_over) + 1;
            return;
        }
        if self.restart_at.is_some_and(|at| at <= self.now) {
            self.restart_at = None;
            if self.keeper.is_none() {
                self.start_keeper();
            }
            return;
        }
        if self.admit_at.is_some_and(|at| at <= self.now) {
            self.admit_at = None;
            let published = self.published.as_ref().expect("a publication");
            let boot = published.boot_uuid.clone();
            self.edit(|data| {
                if let Some(keeper) = data.keepers.get_mut(US) {
                    keeper.status.boot_uuid = boot;
                }
            });
            return;
        }
        if self
            .work
            .as_ref()
            .is_some_and(|work| work.next_at <= self.now)
        {
            self.work_on();
            return;
        }
        let due = self.inbox.iter().position(|(at, _)| *at <= self.now);
        if let Some(index) = due {
            let (_, event) = self.inbox.remove(index);
            if self.keeper.is_some() {
                self.hand(event);
            }
            return;
        }
        if self.wake_at.is_some_and(|at| at <= self.now) {
            self.wake_at = None;
            if self.keeper.is_some() {
                self.hand(Event::Wake);
            }
        }
    }

    fn promotion_is_due(&self) -> bool {
        let at = self.server.as_ref().and_then(|server| server.promoted_at);
        at.is_some_and(|at| at <= self.now)
    }

    fn hand(&mut self, event: Event) {
        let now = self.instant();
        let keeper = self.keeper.as_mut().expect("a keeper");
        for effect in keeper.handle(now, event) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let soon = self.now + Duration::from_millis(2);
        match effect {
            Effect::Read => {
                let event = self.read();
                self.inbox.push((soon, event));
            }
            Effect::Observe => {
                self.looks += 1;
                let health = self.health();
                let answered =
                    soon + Duration::from_millis(if self.faults.slow { 1_500 } else { 0 });
                self.inbox.push((answered, Event::Observed(health)));
            }
            Effect::Run(step) => self.begin(*step),
            Effect::Publish(info, _) => {
                self.take_publication(*info);
                self.inbox.push((soon, Event::Published));
            }
            Effect::Ask { peers } => {
                let event = self.answer(peers);
                self.inbox.push((soon, event));
            }
            Effect::Note { request, progress } => {
                let stored = self.note(&request, progress);
                self.inbox.push((soon, Event::Noted(stored)));
            }
            Effect::Log(reason) => {
                if reason.severity >= Severity::Info && reason.code != "round" {
                    let line = format!("{:?} {}: {reason}", reason.severity, reason.code);
                    self.say(&line);
                }
            }
            Effect::Cancel => {
                // Its end may be on its way.
                if let Some(work) = &mut self.work {
                    assert!(!work.cancelled, "given up twice");
                    work.cancelled = true;
                    work.next_at = soon;
                }
            }
            Effect::WakeAt(at) => {
                assert!(at.since_boot() > self.now, "woken without a pause");
                self.wake_at = Some(at.since_boot());
            }
        }
    }

    fn begin(&mut self, step: Step) {
        assert!(self.work.is_none(), "two steps at a time: {step:?}");
        if let Some((at, last)) = &self.last_step
            && *last == step
        {
            let pause = self.now.saturating_sub(*at);
            assert!(
                pause >= SHORTEST_REPEAT,
                "{step:?} is repeated after {pause:?}\n{}",
                self.log.join("\n")
            );
        }
        match step {
            Step::Start { .. } if !self.pgdata.signal => self.check_permission("start"),
            Step::Promote { .. } => self.check_permission("promote"),
            Step::Discard => self.check_proof(),
            Step::Rewind { .. } => self.check_rewind(),
            _ => {}
        }
        let past = self.now.saturating_sub(Duration::from_secs(1));
        self.begun.retain(|at| *at > past);
        self.begun.push_back(self.now);
        let log = || self.log.join("\n");
        assert!(self.begun.len() < MOST_STEPS, "to and fro:\n{}", log());
        self.busy_at = self.now;
        self.say(&format!("does: {}", name_of(&step)));
        let acts = self.acts_of(&step);
        self.work = Some(Work {
            acts,
            next_at: self.now + Duration::from_millis(2),
            cancelled: false,
            step,
        });
    }

    fn work_on(&mut self) {
        let work = self.work.as_mut().expect("work");
        let step = work.step.clone();
        let Some(act) = work.acts.pop_front().filter(|_| !work.cancelled) else {
            self.end_step(None);
            return;
        };
        // Only making data takes its time.
        let pause = match act {
            Act::CopyPart | Act::RestorePart => 2000,
            Act::RewindPart => 1000,
            _ => 3,
        };
        work.next_at = self.now + Duration::from_millis(pause);
        self.acts += 1;
        if let Act::Fail(why) = act {
            self.end_step(Some(why));
            return;
        }
        if let Err(why) = self.act(&act, &step) {
            self.end_step(Some(why));
            return;
        }
        self.check_belief();
        if let Some((at, death)) = self.death
            && self.acts >= at
        {
            self.death = None;
            if death == Death::Postmaster && self.work.as_ref().is_some_and(Work::is_done) {
                // Its end is never heard of before its start.
                self.end_step(None);
            }
            self.die(death);
            return;
        }
        if self.work.as_ref().is_some_and(Work::is_done) {
            self.end_step(None);
        }
    }

    fn end_step(&mut self, error: Option<&str>) {
        let work = self.work.take().expect("work");
        let (step, cancelled) = (work.step, work.cancelled && !work.acts.is_empty());
        let disk = self.inspect();
        let outcome = match (error, &step) {
            _ if cancelled => Outcome::Cancelled(disk),
            (Some(error), _) => Outcome::Failed(error.to_owned(), disk),
            (None, Step::Start { .. }) => Outcome::Started(disk),
            (None, _) => Outcome::Done(disk),
        };
        self.last_step = Some((self.now, step.clone()));
        let soon = self.now + Duration::from_millis(1);
        let started = matches!(outcome, Outcome::Started(_));
        self.inbox.push((soon, Event::StepEnded(outcome)));
        if started && (self.faults.start_dies || self.is_below_its_primary()) {
            self.server = None;
            self.orphans = true;
            self.inbox
                .push((soon + Duration::from_millis(20), Event::PostmasterGone));
        }
    }
}

impl World {
    pub(crate) fn say(&mut self, text: &str) {
        self.log.push(text.to_owned());
    }
}

fn boot_name(boot: u32) -> String {
    format!("boot{boot}-")
}

fn settings(boot: u32, by_scram: bool, postgres_major: i64) -> Settings {
    let method = if by_scram { "scram-sha-256" } else { "md5" };
    Settings {
        uid: KeeperUid::from(US),
        boot_uuid: BootUuid::new(boot_name(boot)),
        version: "0".to_owned(),
        postgres_version: PostgresVersion {
            major: postgres_major,
            minor: 0,
        },
        listen_address: "10.0.0.1".to_owned(),
        port: 5432,
        advertise_address: "10.0.0.1".to_owned(),
        advertise_port: 5432,
        socket_folder: "/tmp".to_owned(),
        superuser: ("postgres".to_owned(), method.to_owned()),
        replication_user: ("repl".to_owned(), "trust".to_owned()),
        requires_tls: false,
        can_be_master: true,
        can_be_synchronous_replica: true,
    }
}

/// The system identifier of the cluster that the neighbour is the primary of.
pub(crate) fn system_id() -> String {
    SYSTEM.to_owned()
}
