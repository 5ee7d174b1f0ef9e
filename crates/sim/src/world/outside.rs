//! Servers outside the cluster, of which a standby cluster follows one: one is written to, another one
//! follows it, until somebody promotes that, or restores the one to what it was before. No keeper manages
//! them. They are instances like the others, with the numbers after those of the keepers.

use std::ops::Range;
use std::time::Duration;

use stolon_core::keeper::decide::{Follow, Wanted};
use stolon_core::keeper::facts::{Content, Outside as Answer};
use stolon_core::model::spec::{ClusterInitMode, ClusterRole};
use stolon_core::model::{ClusterData, Lsn, TimelineId};

use super::event::{Actor, PostgresEvent, What};
use super::keeper::history;
use super::postgres::data::BEGINNING;
use super::postgres::{Data, Ending, Folder, Record};
use super::{Time, World};
use crate::chance::Chance;
use crate::plan::OutsideFault;

/// Their rows have numbers from here on: clients of the cluster write other ones.
const FIRST_ROW: u64 = 1 << 40;
/// Records that there are when the world begins.
const AT_FIRST: u64 = 20;

/// What is known of the servers outside, beside the instances themselves.
#[derive(Debug)]
pub(crate) struct Outside {
    chance: Chance,
    rows: u64,
    /// The last timeline that one of them began.
    timelines: u64,
    /// What a standby cluster begins with.
    backup: Data,
    /// When a server was last made another one's standby: what it said before is not so any more.
    changed_at: Time,
}

impl Outside {
    /// What is known before there is anything.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::of(seed, "outside", 0),
            rows: 0,
            timelines: 1,
            backup: Data::default(),
            changed_at: Time::ZERO,
        }
    }

    fn next_row(&mut self) -> u64 {
        self.rows += 1;
        FIRST_ROW + self.rows
    }

    /// The backup that a standby cluster begins with.
    pub(super) fn backup(&self) -> Data {
        self.backup.clone()
    }
}

/// Where the server of this number is reached, as a specification says it.
pub(crate) fn conninfo(number: usize) -> String {
    format!("host=10.0.0.{} port=5432 user=repl", number + 1)
}

/// The server that a connection string names.
pub(crate) fn server_at(conninfo: &str) -> Option<usize> {
    let host = conninfo
        .split_whitespace()
        .find_map(|word| word.strip_prefix("host="))?;
    super::proxy::keeper_at(host)
}

/// Whether the cluster is to follow a server outside.
pub(crate) fn is_standby_cluster(data: &ClusterData) -> bool {
    let spec = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.as_ref());
    spec.is_some_and(|spec| spec.role == Some(ClusterRole::Standby))
}

/// The server that the specification names.
pub(crate) fn source_of(data: &ClusterData) -> Option<usize> {
    let spec = data.cluster.as_ref()?.spec.as_ref()?;
    let settings = spec.standby_config.as_ref()?.standby_settings.as_ref()?;
    server_at(&settings.primary_conninfo)
}

impl World {
    /// The numbers of the servers outside.
    pub(crate) fn outside(&self) -> Range<usize> {
        self.keepers.len()..self.instances.len()
    }

    /// The servers outside begin: one is written to, the others follow it; and the keeper whose data a
    /// cluster is to take over has a copy.
    pub(super) fn begin_outside(&mut self) {
        let numbers = self.outside();
        let Some(first) = numbers.clone().next() else {
            return;
        };
        let data = self.first_data();
        self.outside.backup = data.clone();
        for number in numbers {
            let instance = &mut self.instances[number];
            instance.wal_kept = u64::MAX;
            instance.pgdata = Folder {
                content: Content::Cluster,
                data: Some(data.clone()),
                config: Some(Wanted::default()),
                ..Folder::default()
            };
            if number != first {
                self.make_replica(number, first);
            }
            self.start_server(number);
        }
        if self.plan.shape.spec.init_mode == Some(ClusterInitMode::Existing) {
            let copy = Data {
                ending: Ending::InRecovery,
                ..data
            };
            self.instances[0].pgdata = Folder {
                content: Content::Cluster,
                data: Some(copy),
                signal: true,
                ..Folder::default()
            };
        }
        self.queue.put(Duration::from_secs(1), What::OutsideWrites);
    }

    fn first_data(&mut self) -> Data {
        let mut wal = Vec::new();
        for number in 1..=AT_FIRST {
            self.serial += 1;
            wal.push(Record {
                id: self.serial,
                end: BEGINNING + number * 1000,
                timeline: 1,
                txn: self.outside.next_row(),
            });
        }
        Data {
            system: "6000000000000000000".to_owned(),
            timeline: 1,
            flushed: wal.len(),
            min_recovery: BEGINNING + AT_FIRST * 1000,
            wal,
            ..Data::default()
        }
    }

    fn make_replica(&mut self, number: usize, of: usize) {
        let folder = &mut self.instances[number].pgdata;
        folder.signal = true;
        folder.config = Some(Wanted {
            follow: Some(Follow {
                name: format!("outside{number}"),
                host: format!("10.0.0.{}", of + 1),
                port: "5432".to_owned(),
            }),
            ..Wanted::default()
        });
    }

    /// Whoever writes there writes.
    pub(super) fn outside_writes(&mut self) {
        for number in self.outside() {
            let server = self.instances[number].server.as_ref();
            if server.is_some_and(|server| server.writable && server.accepts()) {
                let row = self.outside.next_row();
                self.append(number, row);
                self.flush_soon(number);
            }
        }
        let (least, most) = self.plan.shape.outside_pace;
        let pause = self.outside.chance.millis(least, most);
        self.queue.put(self.now + pause, What::OutsideWrites);
    }

    /// The one that counts as the primary there: of those that are none's standby that of the latest
    /// timeline.
    pub(crate) fn outside_primary(&self) -> Option<usize> {
        let folder = |number: usize| &self.instances[number].pgdata;
        let primaries = self.outside().filter(|number| !folder(*number).signal);
        let timeline = |number: &usize| folder(*number).data.as_ref().map(|data| data.timeline);
        primaries.max_by_key(timeline)
    }

    /// How long the servers outside have been what they are.
    pub(crate) fn outside_unchanged_for(&self) -> Duration {
        self.now.saturating_sub(self.outside.changed_at)
    }

    /// Something happens there.
    pub(super) fn outside_fault_begins(&mut self, fault: OutsideFault) {
        let Some(primary) = self.outside_primary() else {
            return;
        };
        match fault {
            OutsideFault::Crash => {
                self.note("source-crashed");
                self.end_server(primary, Ending::Crash);
            }
            OutsideFault::Promote => self.promote_outside(primary),
            OutsideFault::GoBack(records) => self.outside_goes_back(primary, records),
        }
    }

    /// And is mended: who is down is started again, and one alone is written to.
    pub(super) fn outside_fault_ends(&mut self, fault: OutsideFault) {
        let Some(primary) = self.outside_primary() else {
            return;
        };
        if fault != OutsideFault::Crash {
            self.outside.changed_at = self.now;
            let parted = self.outside().filter(|number| *number != primary);
            for number in parted.collect::<Vec<_>>() {
                self.end_server(number, Ending::Crash);
                let data = self.instances[primary].pgdata.data.clone();
                self.instances[number].pgdata.data = data.map(|mut data| {
                    data.wal.truncate(data.flushed);
                    data.half = 0;
                    data
                });
                self.make_replica(number, primary);
            }
        }
        for number in self.outside() {
            if self.instances[number].server.is_none() {
                self.start_server(number);
            }
        }
    }

    /// A standby there is promoted, while the primary of before goes on.
    fn promote_outside(&mut self, primary: usize) {
        let standby = self.outside().find(|number| {
            let server = self.instances[*number].server.as_ref();
            let follows = server.is_some_and(|server| server.ready && !server.promoting);
            *number != primary && follows && self.instances[*number].pgdata.signal
        });
        let Some(number) = standby else {
            return;
        };
        self.note("source-promoted");
        self.outside.timelines += 1;
        let last = self.outside.timelines - 1;
        if let Some(data) = self.instances[number].pgdata.data.as_mut() {
            data.passed_over = last;
        }
        if let Some(server) = self.instances[number].server.as_mut() {
            server.promoting = true;
        }
        let pause = self.outside.chance.millis(30, 500);
        self.postgres_later(number, pause, PostgresEvent::Promotes(0));
    }

    /// The primary there is restored to so many records before, and goes on on a timeline of its own, as
    /// after a recovery to a point in time.
    fn outside_goes_back(&mut self, number: usize, records: u64) {
        self.note("source-went-back");
        self.end_server(number, Ending::Crash);
        self.outside.timelines += 1;
        let timeline = self.outside.timelines;
        let Some(data) = self.instances[number].pgdata.data.as_mut() else {
            return;
        };
        let gone = usize::try_from(records).unwrap_or(0);
        let left = data.flushed.saturating_sub(gone).max(1);
        data.wal.truncate(left);
        data.flushed = left;
        data.half = 0;
        let before = data.wal.last().map_or(1, |record| record.timeline);
        data.history.retain(|(ended, _)| *ended < before);
        data.history.push((before, data.end_of(left)));
        data.timeline = timeline;
        self.append(number, 0);
        if let Some(data) = self.instances[number].pgdata.data.as_mut() {
            data.flushed = data.wal.len();
        }
        self.start_server(number);
    }

    /// What the server outside answers that an instance is to follow, as it asks while it does not
    /// stream; none: it is not reached.
    pub(super) fn ask_outside(&self, k: usize) -> Option<Answer> {
        let server = self.instances[k].server.as_ref()?;
        if server.config.follow.is_some() {
            return None;
        }
        let number = server_at(server.config.recovery.get("primary_conninfo")?)?;
        let there = self.instances.get(number)?;
        let (asked, data) = there.server.as_ref().zip(there.pgdata.data.as_ref())?;
        if !asked.accepts() || !self.reaches(k, number) {
            return None;
        }
        let own = self.instances[k].pgdata.data.as_ref()?;
        Some(Answer {
            replayed_before: Lsn(own.flush_lsn()),
            system_id: data.system.clone(),
            is_writable: asked.writable || self.takes_behind_for_parted(),
            timeline: TimelineId(data.timeline),
            flush_lsn: Lsn(data.flush_lsn()),
            history: history(data),
        })
    }

    /// An operator of a standby cluster has it follow the server outside that is written to, or another
    /// one; false: it is no such cluster, or does so already.
    pub(super) fn point_at_outside(&mut self, at_primary: bool) -> bool {
        let primary = self.outside_primary();
        let found = self
            .outside()
            .find(|number| (Some(*number) == primary) == at_primary);
        let Some(number) = found else {
            return false;
        };
        self.operate(|data| {
            if !is_standby_cluster(data) || source_of(data) == Some(number) {
                return false;
            }
            let cluster = data.cluster.as_mut();
            let spec = cluster.and_then(|cluster| cluster.spec.as_mut());
            let config = spec.and_then(|spec| spec.standby_config.as_mut());
            let settings = config.and_then(|config| config.standby_settings.as_mut());
            let Some(settings) = settings else {
                return false;
            };
            settings.primary_conninfo = conninfo(number);
            if let Some(cluster) = data.cluster.as_mut() {
                cluster.generation = cluster.generation.next();
            }
            true
        })
    }

    /// Operators who see their standby cluster follow nobody point it at the one that is written to.
    pub(crate) fn operator_heeds_source(&mut self) {
        if self.point_at_outside(true) {
            self.say(|| "an operator names the server outside that is written to".to_owned());
        }
    }

    /// The host of a server outside.
    pub(super) fn host_of_outside(&self, number: usize) -> usize {
        let shape = &self.plan.shape;
        let before = shape.keepers + shape.sentinels + shape.proxies;
        1 + before + shape.clients + shape.direct_clients + (number - shape.keepers)
    }

    /// Whether an instance is one of this cluster, which a keeper manages.
    pub(crate) fn is_member(&self, actor: Actor) -> bool {
        matches!(actor, Actor::Postgres(k) if k < self.keepers.len())
    }
}
