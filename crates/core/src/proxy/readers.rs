//! Which standbys clients may read from, and until when.
//!
//! No clock of another machine is asked how old a standby's data are. A report of the primary says
//! how far it was when it was made; a standby that has replayed so much shows everything that was
//! committed by then. When a report was made is known by the reads of the store: not before the last
//! read was sent that did not bring it yet. So nothing is known before reports have changed once, and
//! a primary that does not report any more makes its standbys old.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Passage, Passages, Route, Target};
use crate::model::report::{KeeperInfo, PostgresState};
use crate::model::{ClusterData, Db, DbUid, Generation, InfoUid, Lsn, Role};
use crate::reason::Reason;
use crate::sentinel::lineage::is_forked;
use crate::time::Instant;

pub use lag::{Lag, LagError};

mod lag;

/// How those are served who only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOnly {
    /// How far behind a standby may be that they go to.
    pub max_lag: Lag,
    /// Where they go while there is no such standby.
    pub fallback: Fallback,
}

/// Where those go who only read while there is no standby for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// To the primary.
    Primary,
    /// Nowhere.
    Refuse,
}

/// What is known of the standbys, and where clients go by it.
#[derive(Debug)]
pub(super) struct Readers {
    settings: ReadOnly,
    /// What each db was last seen to have.
    sightings: BTreeMap<DbUid, Sighting>,
    /// When the last read of the reports was sent that brought some.
    read_at: Option<Instant>,
    /// A read of them is on its way.
    reading: bool,
    passages: Passages,
}

/// A report of an instance that says where it is.
#[derive(Debug)]
struct Sighting {
    report: InfoUid,
    /// It was published after this moment; none: it may be of any age.
    made_after: Option<Instant>,
    state: PostgresState,
    /// Bytes that it had not replayed of what the primary had in a report read before this one: of
    /// two that come together nobody knows which was made first.
    lag: Option<u64>,
    /// It shows everything that was committed by then, as far as is known.
    complete: Option<Instant>,
}

/// Why clients do not go to a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("not healthy")]
    Unhealthy,
    #[error("its address is not known")]
    NoAddress,
    #[error("its lag is not known")]
    Unknown,
    #[error("it has left the history of the primary")]
    Forked,
    #[error("it lags by too many bytes")]
    Behind,
    #[error("it was not seen up to date for too long")]
    Old,
}

impl Readers {
    pub(super) fn new(settings: ReadOnly) -> Self {
        Self {
            settings,
            sightings: BTreeMap::new(),
            read_at: None,
            reading: false,
            passages: Passages {
                to: Vec::new(),
                closed: "the cluster data were not read yet".to_owned(),
            },
        }
    }

    /// Where clients go now.
    pub(super) const fn passages(&self) -> &Passages {
        &self.passages
    }

    /// Whether to read the reports now.
    pub(super) const fn ask(&mut self) -> bool {
        !std::mem::replace(&mut self.reading, true)
    }

    /// When the first of the passages ends by itself.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.passages.to.iter().map(|passage| passage.until).min()
    }

    /// Takes in the reports that a read has brought.
    pub(super) fn take(
        &mut self,
        sent_at: Instant,
        reports: Option<Vec<KeeperInfo>>,
        data: Option<&ClusterData>,
    ) {
        self.reading = false;
        let Some((reports, data)) = reports.zip(data) else {
            return;
        };
        let primary = primary(data);
        let before = primary.and_then(|primary| {
            let sighting = self.sightings.get(&primary.uid)?;
            Some(sighting.state.xlog_pos)
        });
        for info in reports {
            self.sight(info, data, before);
        }
        self.sightings.retain(|db, _| data.dbs.contains_key(db));
        self.read_at = Some(sent_at);
        if let Some(primary) = primary {
            self.note_complete(primary);
        }
    }

    /// Takes in one report. One that does not say where its instance is, because that did not answer,
    /// is passed over: the last one that did grows old by itself.
    fn sight(&mut self, info: KeeperInfo, data: &ClusterData, primary_had: Option<Lsn>) {
        let cluster = data.cluster.as_ref().map(|cluster| &cluster.uid);
        let Some(state) = info.postgres_state else {
            return;
        };
        let is_its = |db: &Db| db.spec.keeper_uid == info.uid;
        let known = data.dbs.get(&state.uid).is_some_and(is_its);
        if !known || Some(&info.cluster_uid) != cluster {
            // It runs something else.
            let is_others = |db: &DbUid| !data.dbs.get(db).is_some_and(is_its);
            self.sightings.retain(|db, _| is_others(db));
            return;
        }
        if state.xlog_pos == Lsn::UNKNOWN {
            return;
        }
        let before = self.sightings.get(&state.uid);
        if before.is_some_and(|before| before.report == info.info_uid) {
            return;
        }
        let replayed = replayed(&state);
        let known = replayed != Lsn::UNKNOWN;
        let sighting = Sighting {
            report: info.info_uid,
            made_after: before.and(self.read_at),
            lag: primary_had
                .filter(|_| known)
                .map(|had| had.bytes_ahead_of(replayed)),
            complete: before.and_then(|before| before.complete).filter(|_| known),
            state,
        };
        self.sightings.insert(sighting.state.uid.clone(), sighting);
    }

    /// Notes which standbys have replayed what the primary is known to have had.
    fn note_complete(&mut self, primary: &Db) {
        let Some(seen) = self.sightings.get(&primary.uid) else {
            return;
        };
        let (Some(made_after), state) = (seen.made_after, seen.state.clone()) else {
            return;
        };
        for sighting in self.sightings.values_mut() {
            if replayed(&sighting.state) >= state.xlog_pos && !left(&state, &sighting.state) {
                sighting.complete = sighting.complete.max(Some(made_after));
            }
        }
    }

    /// Says anew where clients go; none: nothing has changed.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        data: Option<&ClusterData>,
        until: Option<Instant>,
        route: &Route,
        effects: &mut Vec<Effect>,
    ) -> Option<Passages> {
        let passages = self.decide(now, data, until, route);
        if passages == self.passages {
            return None;
        }
        self.tell(&passages, effects);
        self.passages = passages.clone();
        Some(passages)
    }

    fn decide(
        &self,
        now: Instant,
        data: Option<&ClusterData>,
        until: Option<Instant>,
        route: &Route,
    ) -> Passages {
        let closed = |why: &str| Passages {
            to: Vec::new(),
            closed: why.to_owned(),
        };
        let Some(until) = until else {
            return closed("no check of the cluster data succeeded lately");
        };
        let Some((data, primary)) = data.and_then(|data| Some((data, primary(data)?))) else {
            return closed("there is no primary");
        };
        let mut to = Vec::new();
        let mut refused = Vec::new();
        for standby in standbys(data) {
            match self.passage(now, primary, standby, until) {
                Ok(passage) => to.push(passage),
                Err(why) => refused.push(format!("{}: {why}", standby.uid)),
            }
        }
        if let (Fallback::Primary, Route::To { target, until }) = (self.settings.fallback, route) {
            to.push(Passage {
                target: target.clone(),
                until: *until,
                is_spare: true,
            });
        }
        let closed = if refused.is_empty() {
            "there is no standby".to_owned()
        } else {
            refused.join("; ")
        };
        Passages { to, closed }
    }

    fn passage(
        &self,
        now: Instant,
        primary: &Db,
        standby: &Db,
        until: Instant,
    ) -> Result<Passage, Refused> {
        let status = &standby.status;
        if status.listen_address.is_empty() || status.port.is_empty() {
            return Err(Refused::NoAddress);
        }
        // By the document, which has the patience of failInterval.
        if !status.healthy {
            return Err(Refused::Unhealthy);
        }
        let of = |db: &Db| self.sightings.get(&db.uid).ok_or(Refused::Unknown);
        let (of_primary, sighting) = (of(primary)?, of(standby)?);
        if left(&of_primary.state, &sighting.state) {
            return Err(Refused::Forked);
        }
        let lag = sighting.lag.ok_or(Refused::Unknown)?;
        if self.settings.max_lag.bytes.is_some_and(|most| lag > most) {
            return Err(Refused::Behind);
        }
        let complete = sighting.complete.ok_or(Refused::Unknown)?;
        let until = self
            .settings
            .max_lag
            .time
            .map_or(until, |most| until.min(complete.after(most)));
        if until <= now {
            return Err(Refused::Old);
        }
        Ok(Passage {
            target: Target {
                db: standby.uid.clone(),
                host: status.listen_address.clone(),
                port: status.port.clone(),
            },
            until,
            is_spare: false,
        })
    }

    /// Says which standbys are new and which are not read from any more.
    fn tell(&self, next: &Passages, effects: &mut Vec<Effect>) {
        let standbys = |passages: &Passages| -> BTreeSet<(DbUid, String)> {
            let regular = passages.to.iter().filter(|passage| !passage.is_spare);
            let named = regular.map(|passage| {
                let target = &passage.target;
                (
                    target.db.clone(),
                    format!("{}:{}", target.host, target.port),
                )
            });
            named.collect()
        };
        let (before, after) = (standbys(&self.passages), standbys(next));
        for (db, address) in after.difference(&before) {
            let reason = Reason::info("reading", "clients that only read go to a standby");
            let reason = reason.with("db", db).with("address", address);
            effects.push(Effect::Log(reason));
        }
        for (db, address) in before.difference(&after) {
            let text = "clients that only read do not go to a standby any more";
            let reason = Reason::warn("not-reading", text)
                .with("db", db)
                .with("address", address)
                .with("why", &next.closed);
            effects.push(Effect::Log(reason));
        }
    }
}

/// The db that is the source of the others.
fn primary(data: &ClusterData) -> Option<&Db> {
    let cluster = data.cluster.as_ref()?;
    data.dbs.get(cluster.status.master.as_ref()?)
}

fn standbys(data: &ClusterData) -> impl Iterator<Item = &Db> {
    let is_standby = |db: &&Db| db.spec.role == Some(Role::Standby);
    let primary = primary(data).map(|db| db.uid.clone());
    data.dbs
        .values()
        .filter(is_standby)
        .filter(move |db| Some(&db.uid) != primary.as_ref())
}

/// What a standby shows; the Go program's keepers do not tell.
fn replayed(state: &PostgresState) -> Lsn {
    let instance = state.instance.as_ref();
    instance.map_or(Lsn::UNKNOWN, |instance| instance.replay_lsn)
}

/// Whether a standby shows what the history of the primary does not have.
fn left(primary: &PostgresState, standby: &PostgresState) -> bool {
    is_forked(
        &db_at(primary, primary.xlog_pos),
        &db_at(standby, replayed(standby)),
    )
}

fn db_at(state: &PostgresState, position: Lsn) -> Db {
    let mut db = Db {
        generation: Generation::FIRST,
        ..Db::default()
    };
    db.status.current_generation = Generation::FIRST;
    db.status.system_id.clone_from(&state.system_id);
    db.status.timeline_id = state.timeline_id;
    db.status.xlog_pos = position;
    db.status
        .timelines_history
        .clone_from(&state.timelines_history);
    db
}

#[cfg(test)]
mod tests;
