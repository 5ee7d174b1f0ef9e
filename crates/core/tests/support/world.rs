//! A small obedient world around one sentinel: keepers and proxies that do what the document says,
//! until the test makes them fail. Time is a number.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::invariants::{Step, check};
use stolon_core::model::report::{FEATURE_AGE_FROM_SEND, FEATURE_FLUSH_RULE, IMPLEMENTATION};
use stolon_core::model::{
    BootUuid, ClusterData, ClusterSpec, ClusterUid, Condition, Db, DbUid, Generation, InfoUid,
    InitMode, InstanceReport, KeeperInfo, KeeperUid, List, Lsn, PeerReport, PostgresState,
    ProxyInfo, ProxyUid, Role, SentinelUid, TimelineId, TimelineSwitch, Unknown,
};
use stolon_core::reason::Reason;
use stolon_core::sentinel::observe::{Memory, View};
use stolon_core::sentinel::{
    DEFAULT_MOST_FAILOVERS, Effect, Event, Look, Sentinel, Settings, WriteOutcome,
};
use stolon_core::time::{Instant, Timestamp};

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

/// A keeper with its instance.
#[derive(Debug, Clone)]
pub(crate) struct KeeperModel {
    pub(crate) alive: bool,
    pub(crate) healthy: bool,
    /// Does not carry out what the document says.
    pub(crate) stuck: bool,
    /// Does not receive WAL.
    pub(crate) cut: bool,
    /// Carries out what the document says and cannot say so.
    pub(crate) mute: bool,
    /// A Go keeper: says less of itself.
    pub(crate) go: bool,
    pub(crate) can_be_master: bool,
    pub(crate) can_be_synchronous: bool,
    pub(crate) boot: u64,
    pub(crate) released_at: Option<u64>,
    pub(crate) instance: Option<InstanceModel>,
}

/// What is in a keeper's data directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct InstanceModel {
    pub(crate) db: DbUid,
    pub(crate) generation: Generation,
    pub(crate) primary: bool,
    pub(crate) lsn: u64,
    /// Bytes received of a record that is not whole.
    pub(crate) half: u64,
    pub(crate) timeline: u64,
    pub(crate) history: Vec<(u64, u64)>,
    /// Of a primary: the names its commits wait for, as it was last told.
    pub(crate) waits_for: Vec<String>,
}

/// A proxy.
#[derive(Debug, Clone)]
pub(crate) struct ProxyModel {
    pub(crate) alive: bool,
    /// Does not carry out what the document says.
    pub(crate) stuck: bool,
    pub(crate) go: bool,
    pub(crate) generation: Generation,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) data: Option<ClusterData>,
    pub(crate) revision: u64,
    pub(crate) keepers: BTreeMap<String, KeeperModel>,
    pub(crate) proxies: BTreeMap<String, ProxyModel>,
    pub(crate) keeper_infos: BTreeMap<String, KeeperInfo>,
    pub(crate) proxy_infos: BTreeMap<String, ProxyInfo>,
    pub(crate) sentinel: Sentinel,
    pub(crate) store_up: bool,
    /// What was logged since it was last taken.
    pub(crate) log: Vec<Reason>,
    /// Every document that the sentinel stored, with what it was decided from.
    pub(crate) steps: Vec<Decided>,
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
            keeper_infos: BTreeMap::new(),
            proxy_infos: BTreeMap::new(),
            sentinel: new_sentinel(),
            store_up: true,
            log: Vec::new(),
            steps: Vec::new(),
            withheld: Vec::new(),
            memory: Memory::new(DEFAULT_MOST_FAILOVERS),
            view: None,
            acknowledged: 0,
            publications: 0,
            looks: 0,
        }
    }

    pub(crate) fn add_keeper(&mut self, name: &str) {
        let model = KeeperModel {
            alive: true,
            healthy: true,
            stuck: false,
            cut: false,
            mute: false,
            go: false,
            can_be_master: true,
            can_be_synchronous: true,
            boot: 1,
            released_at: None,
            instance: None,
        };
        self.keepers.insert(name.to_owned(), model);
    }

    pub(crate) fn add_proxy(&mut self, name: &str) {
        let model = ProxyModel {
            alive: true,
            stuck: false,
            go: false,
            generation: Generation::NONE,
        };
        self.proxies.insert(name.to_owned(), model);
    }

    pub(crate) fn keeper(&mut self, name: &str) -> &mut KeeperModel {
        self.keepers
            .get_mut(name)
            .unwrap_or_else(|| panic!("no keeper {name}"))
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
            sent_at: self.instant(),
            wall: stamp(self.now),
            entropy: self.looks,
            revision: Some(self.revision),
            data: self.data.clone(),
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

    /// Every living keeper and proxy does what the document says.
    pub(crate) fn obey(&mut self) {
        let data = self.data().clone();
        let source = self.source();
        for (name, keeper) in &mut self.keepers {
            if keeper.alive && !keeper.stuck && admitted(&data, name, keeper) {
                obey_as_keeper(name, keeper, &data, self.revision, source.as_ref());
            }
        }
        for proxy in self.proxies.values_mut() {
            if proxy.alive && !proxy.stuck {
                proxy.generation = data.proxy.generation;
            }
        }
    }

    /// The running primary the others can copy from and follow.
    fn source(&self) -> Option<InstanceModel> {
        let uid = self.data().cluster.as_ref()?.status.master.clone()?;
        let running = self
            .keepers
            .values()
            .filter(|keeper| keeper.alive && keeper.healthy);
        running
            .filter_map(|keeper| keeper.instance.clone())
            .find(|i| i.db == uid && i.primary)
    }

    /// Every living keeper and proxy publishes.
    pub(crate) fn publish(&mut self) {
        let names: Vec<String> = self.keepers.keys().cloned().collect();
        for name in names {
            if self.keepers[&name].alive && !self.keepers[&name].mute {
                let info = self.keeper_info(&name);
                self.keeper_infos.insert(name, info);
            }
        }
        for (name, proxy) in self.proxies.iter().filter(|(_, proxy)| proxy.alive) {
            self.publications += 1;
            let features = if proxy.go {
                vec![]
            } else {
                vec![FEATURE_AGE_FROM_SEND.to_owned()]
            };
            let info = ProxyInfo {
                info_uid: InfoUid::new(self.publications.to_string()),
                uid: ProxyUid::from(name.as_str()),
                generation: proxy.generation,
                proxy_timeout_nanos: 3_000_000_000,
                features,
                ..ProxyInfo::default()
            };
            self.proxy_infos.insert(name.clone(), info);
        }
    }

    fn keeper_info(&mut self, name: &str) -> KeeperInfo {
        self.publications += 1;
        let keeper = &self.keepers[name];
        let state = keeper.instance.as_ref().map(|instance| PostgresState {
            healthy: keeper.healthy && admitted(self.data(), name, keeper),
            ..self.state(keeper, instance)
        });
        KeeperInfo {
            info_uid: InfoUid::new(self.publications.to_string()),
            uid: KeeperUid::from(name),
            cluster_uid: self.data().cluster.as_ref().expect("cluster").uid.clone(),
            boot_uuid: BootUuid::new(keeper.boot.to_string()),
            postgres_state: state,
            can_be_master: Some(keeper.can_be_master),
            can_be_synchronous_replica: Some(keeper.can_be_synchronous),
            implementation: if keeper.go {
                String::new()
            } else {
                IMPLEMENTATION.to_owned()
            },
            features: vec![FEATURE_FLUSH_RULE.to_owned()],
            ..KeeperInfo::default()
        }
    }

    fn state(&self, keeper: &KeeperModel, instance: &InstanceModel) -> PostgresState {
        let peers: Vec<PeerReport> = if instance.primary {
            self.peers(instance)
        } else {
            vec![]
        };
        let named = self
            .data()
            .dbs
            .get(&instance.db)
            .map(|db| db.spec.synchronous_standbys.clone());
        let in_sync = peers
            .iter()
            .filter(|peer| {
                named
                    .as_ref()
                    .is_some_and(|named| named.contains(&peer.db_uid))
            })
            .map(|peer| peer.db_uid.clone());
        let report = InstanceReport {
            condition: Some(Condition::Running),
            in_recovery: Some(!instance.primary),
            streaming: (!instance.primary).then_some(!keeper.cut),
            replay_lsn: Lsn(instance.lsn),
            peers: peers.clone(),
            released_at_revision: keeper.released_at,
            ..InstanceReport::default()
        };
        PostgresState {
            uid: instance.db.clone(),
            generation: instance.generation,
            listen_address: "127.0.0.1".to_owned(),
            port: "5432".to_owned(),
            system_id: "7275812345678901234".to_owned(),
            timeline_id: TimelineId(instance.timeline),
            xlog_pos: Lsn(instance.lsn + instance.half),
            // The format keeps the last two.
            timelines_history: instance
                .history
                .iter()
                .skip(instance.history.len().saturating_sub(2))
                .map(switch)
                .collect(),
            synchronous_standbys: in_sync.collect::<List<DbUid>>(),
            instance: (!keeper.go).then_some(report),
            ..PostgresState::default()
        }
    }

    fn peers(&self, primary: &InstanceModel) -> Vec<PeerReport> {
        let follows = |instance: &InstanceModel| {
            self.data().dbs.get(&instance.db).is_some_and(|db| {
                let follow = db.spec.follow_config.as_ref();
                follow.is_some_and(|follow| follow.db_uid == primary.db)
            })
        };
        self.keepers
            .values()
            .filter(|keeper| keeper.alive && keeper.healthy && !keeper.cut)
            .filter_map(|keeper| keeper.instance.as_ref())
            .filter(|instance| !instance.primary && follows(instance))
            .map(|instance| PeerReport {
                db_uid: instance.db.clone(),
                state: "streaming".to_owned(),
                flush_lsn: Lsn(instance.lsn),
                ..PeerReport::default()
            })
            .collect()
    }

    /// The primary writes so many bytes; whoever streams receives them.
    pub(crate) fn write_wal(&mut self, bytes: u64) {
        let Some(source) = self.source() else { return };
        for keeper in self
            .keepers
            .values_mut()
            .filter(|keeper| keeper.alive && keeper.healthy)
        {
            if let Some(instance) = keeper.instance.as_mut() {
                let receives = !keeper.cut && instance.timeline == source.timeline;
                if instance.db == source.db || receives {
                    instance.lsn = instance.lsn.max(source.lsn + bytes);
                    instance.half = 0;
                }
            }
        }
        let written = source.lsn + bytes;
        let has_it = |name: &String| {
            let keepers = self.keepers.values().filter(|keeper| keeper.alive);
            let mut instances = keepers.filter_map(|keeper| keeper.instance.as_ref());
            instances.any(|instance| instance.db.as_str() == name && instance.lsn >= written)
        };
        if !source.waits_for.is_empty() && source.waits_for.iter().all(has_it) {
            self.acknowledged = self.acknowledged.max(written);
        }
    }

    /// The primary that runs by the document, if any.
    pub(crate) fn running_primary(&self) -> Option<InstanceModel> {
        self.source()
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

    /// The state on one line a keeper, for stories.
    pub(crate) fn describe(&self) -> String {
        let data = self.data();
        let cluster = data.cluster.as_ref().expect("cluster");
        let keeper_of = |uid: &DbUid| {
            data.dbs
                .get(uid)
                .map_or("?".to_owned(), |db| db.spec.keeper_uid.to_string())
        };
        let primary = cluster
            .status
            .master
            .as_ref()
            .map_or("none".to_owned(), &keeper_of);
        let to = &data.proxy.spec.primary_db_uid;
        let route = if to.is_empty() {
            "closed".to_owned()
        } else {
            keeper_of(to)
        };
        let mut lines = vec![format!("primary {primary}, proxies {route}")];
        for keeper in data.keepers.values() {
            let health = if keeper.status.healthy { "up" } else { "down" };
            let db = data.db_of(&keeper.uid);
            let db = db.map_or("no db".to_owned(), |db| describe_db(db, &keeper_of));
            lines.push(format!("{} {health}: {db}", keeper.uid));
        }
        lines.join("\n")
    }
}

fn describe_db(db: &Db, keeper_of: &dyn Fn(&DbUid) -> String) -> String {
    let role = db.spec.role.as_ref().map_or("?", |role| match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
        Role::Unknown(_) => "unknown",
    });
    let health = if db.status.healthy {
        "healthy"
    } else {
        "unhealthy"
    };
    let there = if db.status.current_generation == db.generation {
        ""
    } else {
        ", converging"
    };
    let init = match &db.spec.init_mode {
        Some(InitMode::None) | None => String::new(),
        Some(mode) => format!(", {mode}"),
    };
    let names = |uids: &[DbUid]| uids.iter().map(keeper_of).collect::<Vec<_>>().join(" ");
    let mut line = format!("{role} {health}{there}{init}");
    if db.spec.synchronous_replication {
        line += ", sync [";
        line += &names(&db.spec.synchronous_standbys);
        line += "] confirmed [";
        line += &names(&db.status.synchronous_standbys);
        line += "]";
        if !db.spec.external_synchronous_standbys.is_empty() {
            line += " placeholder";
        }
    }
    line
}

fn switch((timeline, point): &(u64, u64)) -> TimelineSwitch {
    TimelineSwitch {
        timeline_id: TimelineId(*timeline),
        switch_point: Lsn(*point),
        reason: String::new(),
        unknown: Unknown::new(),
    }
}

/// The boot rule: whether the document knows this start of the keeper.
fn admitted(data: &ClusterData, name: &str, keeper: &KeeperModel) -> bool {
    let known = data.keepers.get(&KeeperUid::from(name));
    known.is_some_and(|known| known.status.boot_uuid.as_str() == keeper.boot.to_string())
}

fn obey_as_keeper(
    name: &str,
    keeper: &mut KeeperModel,
    data: &ClusterData,
    revision: u64,
    source: Option<&InstanceModel>,
) {
    let Some(db) = data.db_of(&KeeperUid::from(name)) else {
        keeper.instance = None;
        return;
    };
    let known = keeper
        .instance
        .as_ref()
        .is_some_and(|instance| instance.db == db.uid);
    if !known && !start_anew(keeper, db, source) {
        return;
    }
    let is_primary = data.cluster.as_ref().and_then(|c| c.status.master.as_ref()) == Some(&db.uid);
    if is_primary
        && keeper
            .released_at
            .is_some_and(|released| revision > released)
    {
        // It reads a newer document and takes its instance back.
        keeper.released_at = None;
        keeper.healthy = true;
    }
    let Some(instance) = keeper.instance.as_mut() else {
        return;
    };
    if is_primary && db.spec.role == Some(Role::Primary) && !instance.primary {
        instance.history.push((instance.timeline, instance.lsn));
        instance.timeline += 1;
        instance.primary = true;
        instance.half = 0;
    }
    if let (false, Some(source)) = (instance.primary || keeper.cut, source) {
        let switched = source
            .history
            .iter()
            .find(|(timeline, _)| *timeline == instance.timeline);
        let forked = switched.is_some_and(|(_, point)| *point < instance.lsn);
        if !forked && instance.timeline <= source.timeline {
            if instance.timeline != source.timeline {
                instance.half = 0;
            }
            instance.timeline = source.timeline;
            instance.history.clone_from(&source.history);
            instance.lsn = instance.lsn.max(source.lsn);
        }
    }
    let listed = db.spec.synchronous_standbys.iter().map(ToString::to_string);
    let external = db.spec.external_synchronous_standbys.iter().cloned();
    instance.waits_for = listed.chain(external).collect();
    instance.generation = db.generation;
}

/// Makes the data a db begins with; false: not possible now.
fn start_anew(keeper: &mut KeeperModel, db: &Db, source: Option<&InstanceModel>) -> bool {
    let fresh = match (&db.spec.init_mode, source) {
        (Some(InitMode::New), _) => InstanceModel {
            primary: true,
            lsn: 1000,
            timeline: 1,
            ..InstanceModel::default()
        },
        (Some(InitMode::Resync), Some(source)) if !keeper.cut => InstanceModel {
            primary: false,
            ..source.clone()
        },
        _ => return false,
    };
    keeper.healthy = true;
    keeper.instance = Some(InstanceModel {
        db: db.uid.clone(),
        ..fresh
    });
    true
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
