//! One keeper with its disk, its PostgreSQL instance and a store, as a model: every effect is taken
//! apart into the smallest changes of the world that it makes, in the order in which the daemon makes
//! them, and what must never happen is checked after each. Time is a number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use stolon_core::keeper::decide::{Step, Wanted, is_managed, synchronous_standby_names};
use stolon_core::keeper::facts::{
    Content, Control, DbState, Disk, Health, Observation, Peer, Process,
};
use stolon_core::keeper::{Effect, Event, Keeper, Outcome, Settings};
use stolon_core::model::{
    BootUuid, ClusterData, ClusterSpec, Db, DbUid, Generation, InitMode, KeeperInfo, KeeperUid,
    Lsn, PostgresVersion, TimelineId,
};
use stolon_core::reason::Severity;
use stolon_core::time::{Instant, Timestamp};

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
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Data {
    /// The db that these data are, whatever they say.
    pub(crate) owner: DbUid,
    pub(crate) system: String,
    pub(crate) timeline: u64,
    pub(crate) lsn: u64,
    pub(crate) roles: bool,
    pub(crate) clean: bool,
    /// It was stopped while it recovered from a crash: it says that it ended in recovery.
    pub(crate) interrupted: bool,
    pub(crate) slots: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pgdata,
    Beside,
}

/// The smallest changes that a keeper's death can fall between.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    SaveState(DbState),
    Clear(Place),
    RemovePart(Place),
    Remove(Place),
    PutAside,
    MakePart(DbUid),
    MakeWhole(DbUid),
    CopyPart,
    CopyWhole,
    Signal(Place, bool),
    Identity(Place, DbUid),
    Swap,
    Write(Box<Wanted>),
    Reload,
    Spawn,
    Stop,
    KillOrphans,
    MakeRoles,
    CreateSlot(String),
    DropSlot(String),
    Promote,
    Stir,
    Fail(&'static str),
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
    pub(crate) no_room: bool,
    pub(crate) silent: bool,
    pub(crate) slow: bool,
    pub(crate) saturated: bool,
    pub(crate) not_admitting: bool,
    pub(crate) slots_fail: bool,
}

/// What can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Keeper,
    Postmaster,
    Both,
    Machine,
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
    pub(crate) state: Option<DbState>,
    pub(crate) pgdata: Folder,
    pub(crate) beside: Folder,
    pub(crate) server: Option<Server>,
    pub(crate) orphans: bool,
    pub(crate) faults: Faults,
    /// Who streams from our instance: name, and how far behind it is.
    pub(crate) peers: BTreeMap<String, u64>,
    /// The neighbour's position.
    pub(crate) source_lsn: u64,
    pub(crate) published: Option<KeeperInfo>,
    pub(crate) log: Vec<String>,
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
            state: None,
            pgdata: Folder::default(),
            beside: Folder::default(),
            server: None,
            orphans: false,
            faults: Faults::default(),
            peers: BTreeMap::new(),
            source_lsn: 5000,
            published: None,
            log: Vec::new(),
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
        let keeper = Keeper::new(settings(self.boot), self.instant(), self.inspect(), process);
        self.keeper = Some(keeper);
        self.say("keeper starts");
        self.now += Duration::from_millis(1);
        self.hand(Event::StoreChanged);
    }

    /// The keeper's process dies; its instance goes on.
    pub(crate) fn kill_keeper(&mut self) {
        self.keeper = None;
        self.work = None;
        self.inbox.clear();
        self.wake_at = None;
        self.admit_at = None;
        self.last_step = None;
        self.say("keeper killed");
    }

    /// The postmaster dies; its children go on for a while.
    pub(crate) fn kill_postmaster(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        self.say("postmaster killed");
        if server.writable {
            self.writable_until = self.now;
        }
        self.orphans = true;
        self.inbox
            .push((self.now + Duration::from_millis(2), Event::PostmasterGone));
    }

    /// The machine stops: nothing of all that runs is left.
    pub(crate) fn kill_machine(&mut self) {
        self.kill_postmaster();
        self.orphans = false;
        self.kill_keeper();
    }

    /// Something dies; a keeper that died is started again a little later.
    pub(crate) fn die(&mut self, death: Death) {
        match death {
            Death::Keeper => self.kill_keeper(),
            Death::Postmaster => self.kill_postmaster(),
            Death::Both => {
                self.kill_postmaster();
                self.kill_keeper();
            }
            Death::Machine => self.kill_machine(),
        }
        if self.keeper.is_none() {
            self.restart_at = Some(self.now + Duration::from_millis(200));
        }
    }

    /// The operator gives the users other passwords.
    pub(crate) fn change_passwords(&mut self) {
        self.hand(Event::PasswordsChanged);
    }

    /// Changes the stored document.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut ClusterData)) {
        let mut data = self.data.clone().unwrap_or_else(empty);
        change(&mut data);
        self.store(Some(data));
    }

    pub(crate) fn store(&mut self, data: Option<ClusterData>) {
        for db in data.iter().flat_map(|data| data.dbs.values()) {
            self.specs
                .insert((db.uid.clone(), db.generation), db.clone());
        }
        self.revision += 1;
        self.history.insert(self.revision, data.clone());
        self.data = data;
        self.tell_of_change();
    }

    /// The store is restored to what it was so many revisions ago.
    pub(crate) fn restore(&mut self, revisions: u64) {
        self.revision = self.revision.saturating_sub(revisions).max(1);
        self.data = self.history.get(&self.revision).cloned().flatten();
        self.tell_of_change();
    }

    /// Somebody writes a document of so many revisions ago over the present one.
    pub(crate) fn write_back(&mut self, revisions: u64) {
        let then = self.revision.saturating_sub(revisions).max(1);
        self.store(self.history.get(&then).cloned().flatten());
    }

    fn tell_of_change(&mut self) {
        if self.keeper.is_some() {
            self.inbox
                .push((self.now + Duration::from_millis(1), Event::StoreChanged));
        }
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
            self.pgdata.data.timeline += 1;
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
            Effect::Log(reason) => {
                if reason.severity >= Severity::Info && reason.code != "round" {
                    let line = format!("{:?} {}: {reason}", reason.severity, reason.code);
                    self.say(&line);
                }
            }
            Effect::Cancel => {
                let work = self.work.as_mut().expect("nothing to give up");
                assert!(!work.cancelled, "given up twice");
                work.cancelled = true;
                work.next_at = soon;
            }
            Effect::WakeAt(at) => {
                assert!(at.since_boot() > self.now, "woken without a pause");
                self.wake_at = Some(at.since_boot());
            }
        }
    }

    fn read(&self) -> Event {
        if self.faults.store_down {
            return Event::ReadFailed;
        }
        Event::Document {
            sent_at: self.instant(),
            revision: self.revision,
            data: self.data.clone().map(Box::new),
        }
    }

    fn take_publication(&mut self, info: KeeperInfo) {
        let state = info.postgres_state.as_ref();
        let told = state.map_or_else(
            || "no db".to_owned(),
            |state| {
                let instance = state.instance.as_ref();
                let condition = instance.and_then(|instance| instance.condition.clone());
                let condition = condition.map_or_else(String::new, |c| c.as_str().to_owned());
                let released = instance.and_then(|instance| instance.released_at_revision);
                let released = released.map_or_else(String::new, |_| " released".to_owned());
                let healthy = if state.healthy { " healthy" } else { "" };
                let sync: Vec<&str> = state
                    .synchronous_standbys
                    .iter()
                    .map(DbUid::as_str)
                    .collect();
                let sync = if sync.is_empty() {
                    String::new()
                } else {
                    format!(" in sync {}", sync.join(","))
                };
                let (uid, generation) = (&state.uid, state.generation);
                format!("{uid} generation {generation} {condition}{healthy}{released}{sync}")
            },
        );
        if told != self.told {
            self.say(&format!("tells: {told}"));
            self.told.clone_from(&told);
        }
        let known = self
            .data
            .as_ref()
            .and_then(|data| data.keepers.get(US))
            .is_some_and(|keeper| keeper.status.boot_uuid == info.boot_uuid);
        // A sentinel answers a new start of the keeper, and a released primary without a successor, by
        // another document.
        let asks = !known || told.ends_with(" released");
        if asks && !self.faults.not_admitting && self.admit_at.is_none() {
            self.admit_at = Some(self.now + Duration::from_millis(300));
        }
        self.published = Some(info);
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
            Step::Promote => self.check_permission("promote"),
            Step::Discard => self.check_proof(),
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

    /// What a step does, in the daemon's order.
    fn acts_of(&self, step: &Step) -> VecDeque<Act> {
        use Place::{Beside, Pgdata};
        let discard = [
            Act::Clear(Beside),
            Act::RemovePart(Beside),
            Act::Remove(Beside),
        ];
        let running = self.server.is_some();
        let acts: Vec<Act> = match step {
            Step::SaveState(state) => vec![Act::SaveState(state.clone())],
            Step::Initialize { db, .. } => discard
                .into_iter()
                .chain([
                    Act::MakePart(db.clone()),
                    Act::MakeWhole(db.clone()),
                    Act::Identity(Beside, db.clone()),
                ])
                .collect(),
            Step::Copy {
                db, may_discard, ..
            } => self.acts_of_copy(db, *may_discard),
            Step::Swap { .. } => vec![Act::Swap],
            Step::Discard => discard.to_vec(),
            Step::Claim { db } => vec![Act::Identity(Pgdata, db.clone())],
            Step::Configure(wanted) => {
                let last = if running {
                    Act::Reload
                } else {
                    Act::Signal(Pgdata, wanted.standby)
                };
                vec![Act::Write(wanted.clone()), last]
            }
            Step::Start { .. } => vec![Act::Spawn],
            Step::Stop { .. } => vec![Act::Stop],
            Step::KillAll => vec![Act::KillOrphans],
            Step::SetUpRoles => vec![Act::MakeRoles],
            Step::Slots { .. } if self.faults.slots_fail => vec![Act::Fail("no free slot")],
            Step::Slots { create, drop } => {
                let create = create.iter().cloned().map(Act::CreateSlot);
                create
                    .chain(drop.iter().cloned().map(Act::DropSlot))
                    .collect()
            }
            Step::Stir => vec![Act::Stir],
            Step::Promote => vec![Act::Promote],
            Step::Release { .. } => panic!("the core does this itself"),
        };
        acts.into()
    }

    fn acts_of_copy(&self, db: &DbUid, may_discard: bool) -> Vec<Act> {
        use Place::{Beside, Pgdata};
        let discard = [
            Act::Clear(Beside),
            Act::RemovePart(Beside),
            Act::Remove(Beside),
        ];
        let mut acts = discard.to_vec();
        if self.faults.no_room && self.pgdata.content != Content::Nothing {
            if !may_discard {
                return vec![Act::Fail("no room for the copy")];
            }
            acts.extend([Act::Clear(Pgdata), Act::PutAside]);
            acts.extend(discard);
        }
        acts.push(Act::CopyPart);
        if self.faults.copy_fails {
            acts.push(Act::Fail("the copy failed"));
            return acts;
        }
        acts.extend([
            Act::CopyWhole,
            Act::Clear(Beside),
            Act::Signal(Beside, true),
            Act::Identity(Beside, db.clone()),
        ]);
        acts
    }

    fn work_on(&mut self) {
        let work = self.work.as_mut().expect("work");
        let step = work.step.clone();
        let Some(act) = work.acts.pop_front().filter(|_| !work.cancelled) else {
            self.end_step(None);
            return;
        };
        // Only copying takes its time.
        let pause = if act == Act::CopyPart { 2000 } else { 3 };
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
            && self.acts == at
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
        if started && self.faults.start_dies {
            self.server = None;
            self.orphans = true;
            self.inbox
                .push((soon + Duration::from_millis(20), Event::PostmasterGone));
        }
    }
}

fn name_of(step: &Step) -> String {
    match step {
        Step::SaveState(state) if state.initializing => {
            format!("note that the making of {} begins", state.uid)
        }
        Step::SaveState(state) => {
            format!("note {} at generation {}", state.uid, state.generation)
        }
        Step::Initialize { db, .. } => format!("initdb for {db}"),
        Step::Copy {
            db, may_discard, ..
        } => {
            let may = if *may_discard {
                ", old data may go first"
            } else {
                ""
            };
            format!("copy for {db}{may}")
        }
        Step::Swap { db } => format!("put {db} in place"),
        Step::Discard => "remove the old copy".to_owned(),
        Step::Claim { db } => format!("claim the data for {db}"),
        Step::Configure(wanted) => {
            let role = match (&wanted.follow, wanted.standby) {
                (Some(follow), _) => format!("to follow {}:{}", follow.host, follow.port),
                (None, true) => "to be promoted".to_owned(),
                (None, false) => "as primary".to_owned(),
            };
            let users = wanted.access_rules.iter().any(|rule| rule.contains(" md5"));
            let closed = if users { "" } else { ", users kept out" };
            format!("configure {role}{closed}")
        }
        Step::Start { db } => format!("start {db}"),
        Step::Stop { why, .. } => format!("stop: {why}"),
        Step::KillAll => "end what is left".to_owned(),
        Step::SetUpRoles => "make the roles".to_owned(),
        Step::Slots { create, drop } => {
            format!("slots +[{}] -[{}]", create.join(" "), drop.join(" "))
        }
        Step::Stir => "write a little WAL".to_owned(),
        Step::Promote => "promote".to_owned(),
        Step::Release { .. } => "release".to_owned(),
    }
}

impl World {
    fn folder(&mut self, place: Place) -> &mut Folder {
        match place {
            Place::Pgdata => &mut self.pgdata,
            Place::Beside => &mut self.beside,
        }
    }

    fn act(&mut self, act: &Act, step: &Step) -> Result<(), &'static str> {
        match act {
            Act::SaveState(state) => self.save_state(state),
            Act::Clear(place) => {
                let may = matches!(
                    step,
                    Step::Copy {
                        may_discard: true,
                        ..
                    }
                );
                let folder = self.folder(*place);
                folder.identity = None;
                folder.given_up |= may || *place == Place::Beside;
            }
            Act::RemovePart(place) => self.remove_part(*place, step),
            Act::Remove(place) => *self.folder(*place) = Folder::default(),
            Act::PutAside => {
                assert_eq!(self.beside.content, Content::Nothing);
                self.beside = std::mem::take(&mut self.pgdata);
            }
            Act::MakePart(_) => self.beside.content = Content::Broken,
            Act::MakeWhole(db) => self.make_whole(db),
            Act::CopyPart => {
                self.beside.content = Content::Cluster;
                self.beside.identity = Some(DbUid::from("d2"));
            }
            Act::CopyWhole => self.copy_whole(),
            Act::Signal(place, standby) => self.folder(*place).signal = *standby,
            Act::Identity(place, db) => self.set_identity(*place, db),
            Act::Swap => std::mem::swap(&mut self.pgdata, &mut self.beside),
            Act::Write(wanted) => self.pgdata.config = Some((**wanted).clone()),
            Act::Spawn => self.spawn(),
            Act::Stop => self.stop(),
            Act::KillOrphans => self.kill_orphans(),
            Act::Fail(_) => {}
            act => return self.act_on_server(act),
        }
        Ok(())
    }

    fn act_on_server(&mut self, act: &Act) -> Result<(), &'static str> {
        let names = |wanted: &Wanted| wanted.parameters.clone();
        let Some(server) = &mut self.server else {
            // A reload of nobody is no error; all else is asked over a connection.
            return if *act == Act::Reload {
                Ok(())
            } else {
                Err("no connection")
            };
        };
        match act {
            Act::Reload => {
                let config = self.pgdata.config.clone().expect("a configuration");
                let restart = "max_connections";
                let (old, new) = (names(&server.in_force), names(&config));
                if old.get(restart) != new.get(restart) {
                    server.pending_restart = vec![restart.to_owned()];
                }
                server.in_force = config;
            }
            Act::MakeRoles => self.pgdata.data.roles = true,
            Act::CreateSlot(name) => {
                self.pgdata.data.slots.insert(name.clone());
            }
            Act::DropSlot(name) => {
                self.pgdata.data.slots.remove(name);
            }
            Act::Promote if !server.writable => {
                server.promoted_at = Some(self.now + Duration::from_millis(150));
            }
            Act::Promote => {}
            Act::Stir => {
                assert!(server.writable, "a standby cannot write");
                self.pgdata.data.lsn += 8;
            }
            other => panic!("not on a server: {other:?}"),
        }
        Ok(())
    }

    /// A generation is told only when what it asks for is in force.
    fn save_state(&mut self, state: &DbState) {
        let spec = self.specs.get(&(state.uid.clone(), state.generation));
        // It may have died since the decision.
        if let (Some(db), Some(server)) = (spec, &self.server) {
            assert_eq!(
                self.pgdata.data.owner, state.uid,
                "acknowledged for another"
            );
            let in_force = &server.in_force;
            let names = in_force.parameters.get("synchronous_standby_names");
            if server.writable {
                let asked = synchronous_standby_names(&db.spec);
                assert_eq!(names, Some(&asked), "acknowledged before it is in force");
                for follower in db.spec.followers.iter() {
                    let slot = follower.replication_name();
                    assert!(self.pgdata.data.slots.contains(&slot), "no slot {slot}");
                }
            }
            for (name, value) in &db.spec.pg_parameters {
                assert_eq!(in_force.parameters.get(name), Some(value), "{name}");
            }
        }
        self.state = Some(state.clone());
    }

    /// The only good copy is never removed (I7).
    fn remove_part(&mut self, place: Place, step: &Step) {
        let (this, other) = match place {
            Place::Pgdata => (&self.pgdata, &self.beside),
            Place::Beside => (&self.beside, &self.pgdata),
        };
        if this.whole {
            let copy = matches!(step, Step::Copy { .. });
            // An operator who has a cluster initialised has said what that means.
            let ordered = matches!(step, Step::Initialize { .. });
            let allowed = other.whole || (copy && this.given_up) || ordered;
            assert!(allowed, "the only good copy is removed by {step:?}");
        }
        assert!(this.identity.is_none(), "removed while it says it is whole");
        let folder = self.folder(place);
        folder.whole = false;
    }

    fn make_whole(&mut self, db: &DbUid) {
        self.beside = Folder {
            content: Content::Cluster,
            whole: true,
            data: Data {
                owner: db.clone(),
                system: format!("{SYSTEM}{db}"),
                timeline: 1,
                lsn: 100,
                clean: true,
                ..Data::default()
            },
            ..Folder::default()
        };
    }

    fn copy_whole(&mut self) {
        self.beside = Folder {
            content: Content::Cluster,
            whole: true,
            // A copy brings its source's identity along.
            identity: Some(DbUid::from("d2")),
            data: Data {
                owner: DbUid::from("d2"),
                system: SYSTEM.to_owned(),
                timeline: 2,
                lsn: self.source_lsn,
                roles: true,
                ..Data::default()
            },
            ..Folder::default()
        };
    }

    fn set_identity(&mut self, place: Place, db: &DbUid) {
        if place == Place::Pgdata {
            let folder = &self.pgdata;
            let (data, source) = (&folder.data, self.source_lsn);
            assert!(folder.whole && data.clean, "claimed: {data:?}");
            assert!(data.lsn <= source, "claimed what is ahead of its source");
        }
        let folder = self.folder(place);
        folder.identity = Some(db.clone());
        folder.data.owner = db.clone();
    }

    fn spawn(&mut self) {
        assert!(self.server.is_none(), "a second postmaster");
        assert!(!self.orphans, "started beside what is left of the last one");
        let folder = &self.pgdata;
        assert!(folder.whole, "started on {folder:?}");
        let config = folder
            .config
            .clone()
            .expect("started without configuration");
        let writable = !folder.signal;
        assert_eq!(config.standby, folder.signal, "half configured");
        self.server = Some(Server {
            writable,
            ready_at: self.now + Duration::from_millis(100),
            recovers: !folder.data.clean,
            in_force: config,
            pending_restart: Vec::new(),
            promoted_at: None,
        });
        self.pgdata.data.clean = false;
        self.pgdata.data.interrupted = false;
    }

    /// What was replaced goes only when what replaced it was seen to run.
    fn check_proof(&self) {
        let keeper = self.keeper.as_ref().expect("a keeper");
        let runs = matches!(keeper.facts().health, Health::Running(_));
        assert!(runs, "the new copy was never proven");
    }

    /// I8: whoever becomes writable was named primary by a document that was read after it was last
    /// writable.
    fn check_permission(&self, what: &str) {
        let keeper = self.keeper.as_ref().expect("a keeper");
        let document = keeper.document().expect("a document");
        let db = document.data.db_of(keeper.uid()).expect("a db");
        let initialising = db.spec.init_mode == Some(InitMode::New);
        let primary = document.data.primary().map(|primary| &primary.uid);
        assert!(
            primary == Some(&db.uid) || initialising,
            "{what}: {} is not the primary",
            db.uid
        );
        assert_eq!(db.uid, self.pgdata.data.owner, "{what}: other data");
        assert!(
            document.sent_at.since_boot() > self.writable_until,
            "{what}: the document was read before the instance ended"
        );
        let admitted = document.data.keepers.get(US);
        let admitted = admitted.map(|keeper| keeper.status.boot_uuid.clone());
        let asked = self.published.as_ref().map(|info| info.boot_uuid.clone());
        assert_eq!(admitted, asked, "{what}: not admitted");
        let starts = admitted.is_some_and(|boot| boot.as_str().starts_with(&boot_name(self.boot)));
        assert!(starts, "{what}: another start was admitted");
    }

    fn stop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let recovering = server.recovers && server.ready_at > self.now;
        self.pgdata.data.interrupted = recovering;
        self.pgdata.data.clean = !recovering;
        if server.writable {
            self.writable_until = self.now;
        }
        self.inbox
            .push((self.now + Duration::from_millis(1), Event::PostmasterGone));
    }

    fn kill_orphans(&mut self) {
        assert!(self.server.is_none(), "a running postmaster is killed");
        if self.orphans {
            // An orphan could commit until now.
            self.writable_until = self.now;
        }
        self.orphans = false;
    }

    /// What the keeper would believe of PGDATA, were it started now, is so.
    fn check_belief(&self) {
        let folder = &self.pgdata;
        if folder.content != Content::Cluster {
            return;
        }
        let noted = self.state.as_ref().filter(|state| !state.initializing);
        let believed = folder
            .identity
            .as_ref()
            .or_else(|| noted.map(|state| &state.uid));
        if let Some(uid) = believed {
            let log = self.log.join("\n");
            assert!(folder.whole, "{uid} is taken for whole\n{log}");
            assert_eq!(*uid, folder.data.owner, "taken for another\n{log}");
        }
    }

    fn inspect(&self) -> Disk {
        let folder = &self.pgdata;
        let rules = folder.config.as_ref().map(|config| &config.access_rules);
        let control = (self.server.is_none() && folder.content == Content::Cluster).then(|| {
            let data = &folder.data;
            Control {
                system_id: data.system.clone(),
                shut_down: data.clean && !folder.signal,
                shut_down_in_recovery: data.interrupted || data.clean && folder.signal,
                checkpoint: Lsn(data.lsn),
                timeline: TimelineId(data.timeline),
                min_recovery: Lsn(if data.interrupted { 0 } else { data.lsn }),
                history: Vec::new(),
            }
        });
        let beside = (self.beside.content != Content::Nothing)
            .then(|| self.beside.identity.clone().unwrap_or_default());
        Disk {
            state: self.state.clone(),
            content: folder.content,
            identity: folder.identity.clone(),
            beside,
            control,
            standby_signal: folder.signal,
            gate_was_open: rules
                .is_some_and(|rules| rules.iter().any(|rule| rule.contains(" md5"))),
        }
    }

    fn health(&self) -> Health {
        let Some(server) = &self.server else {
            return Health::Silent("connection refused".to_owned());
        };
        if self.faults.silent {
            return Health::Silent("no answer".to_owned());
        }
        if server.ready_at > self.now {
            return Health::Starting("the database system is starting up".to_owned());
        }
        let data = &self.pgdata.data;
        let peers = self.peers.iter().map(|(name, behind)| Peer {
            name: name.clone(),
            state: "streaming".to_owned(),
            flush_lsn: Lsn(data.lsn.saturating_sub(*behind)),
            replay_lsn: Lsn(data.lsn.saturating_sub(*behind)),
            sync_state: "sync".to_owned(),
        });
        let names = server.in_force.parameters.get("synchronous_standby_names");
        let observation = Box::new(Observation {
            in_recovery: !server.writable,
            timeline: TimelineId(data.timeline),
            flush_lsn: Lsn(data.lsn),
            replay_lsn: Lsn(data.lsn),
            system_id: data.system.clone(),
            history: Vec::new(),
            synchronous_standby_names: names.cloned().unwrap_or_default(),
            streams_from: (!server.writable)
                .then_some(&server.in_force.follow)
                .and_then(|follow| follow.as_ref())
                .map(|follow| (follow.host.clone(), follow.port.clone())),
            peers: peers.collect(),
            slots: data
                .slots
                .iter()
                .map(|name| (name.clone(), false))
                .collect(),
            pending_restart: server.pending_restart.clone(),
            parameters: server
                .in_force
                .parameters
                .iter()
                .filter(|(name, _)| !is_managed(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        });
        if self.faults.saturated {
            Health::Saturated(observation)
        } else {
            Health::Running(observation)
        }
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.log.push(text.to_owned());
    }

    /// What is on disk, what runs, and what was told last.
    pub(crate) fn describe(&self) -> String {
        let noted = self.state.as_ref().map_or_else(
            || "nothing".to_owned(),
            |state| {
                let making = if state.initializing {
                    " being made"
                } else {
                    ""
                };
                format!("{} generation {}{making}", state.uid, state.generation)
            },
        );
        let folder = |folder: &Folder| match (folder.content, folder.whole) {
            (Content::Nothing, _) => "nothing".to_owned(),
            (_, false) => "a part".to_owned(),
            (_, true) => format!("{} whole", folder.data.owner),
        };
        let server = match &self.server {
            None if self.orphans => "orphans",
            None => "nothing",
            Some(server) if server.writable => "a primary",
            Some(_) => "a standby",
        };
        format!(
            "noted {noted}; in place {}; beside {}; running {server}; told {}",
            folder(&self.pgdata),
            folder(&self.beside),
            self.told
        )
    }
}

fn boot_name(boot: u32) -> String {
    format!("boot{boot}-")
}

fn settings(boot: u32) -> Settings {
    Settings {
        uid: KeeperUid::from(US),
        boot_uuid: BootUuid::new(boot_name(boot)),
        version: "0".to_owned(),
        postgres_version: PostgresVersion {
            major: 15,
            minor: 0,
        },
        listen_address: "10.0.0.1".to_owned(),
        port: 5432,
        advertise_address: "10.0.0.1".to_owned(),
        advertise_port: 5432,
        socket_folder: "/tmp".to_owned(),
        superuser: ("postgres".to_owned(), "trust".to_owned()),
        replication_user: ("repl".to_owned(), "trust".to_owned()),
        can_be_master: true,
        can_be_synchronous_replica: true,
    }
}

fn empty() -> ClusterData {
    let spec = ClusterSpec {
        sleep_interval: Some(Duration::from_secs(1).into()),
        ..ClusterSpec::default()
    };
    let mut data = ClusterData::new("c1".into(), spec, Timestamp::ZERO);
    data.keepers
        .insert(US.into(), stolon_core::model::Keeper::default());
    data
}

/// The system identifier of the cluster that the neighbour is the primary of.
pub(crate) fn system_id() -> String {
    SYSTEM.to_owned()
}
