//! Where clients go that only read: to standbys that are known to be near enough to their primary.
//!
//! A standby is left before it is promoted: a session that goes on could write there, while proxies
//! that are late lead others to the old primary (I1). The sentinel names it in the cluster data first
//! and waits for the acknowledgement, so that all sentinels must know to do that. All else is as for
//! the primary: only while enabled, and fresh by this process's clock (I6).

use std::collections::BTreeMap;
use std::time::Duration;

use super::heard::{Heard, Reports};
use super::{Effect, ReadRoute, Target};
use crate::model::{ClusterData, Db, DbUid, FollowType, Lsn, ProxyUid, Role};
use crate::reason::Reason;
use crate::time::Instant;

/// How far a standby may be behind and still be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxLag {
    /// WAL that it has not replayed.
    pub bytes: u64,
    /// Time, the age of what is known included.
    pub time: Duration,
}

/// The reading side of a proxy.
#[derive(Debug)]
pub(super) struct Reads {
    max_lag: MaxLag,
    heard: Heard,
    asking: bool,
    route: ReadRoute,
    /// Why standbys were not read from when that was told last.
    told: BTreeMap<DbUid, Unfit>,
}

/// What a proxy may do, and what it knows, at a moment.
pub(super) struct Ground<'a> {
    pub(super) now: Instant,
    pub(super) uid: &'a ProxyUid,
    pub(super) data: Option<&'a ClusterData>,
    /// Until when it may forward.
    pub(super) until: Option<Instant>,
    /// The cluster data went back: others may forward by newer ones.
    pub(super) is_held: bool,
    pub(super) proxy_timeout: Duration,
}

/// Why a standby is not read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    Successor,
    Unhealthy,
    Unknown,
    NoLag,
    Behind,
    Late,
    NoAddress,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Successor => "it is to become the primary",
            Self::Unhealthy => "it is not healthy",
            Self::Unknown => "its keeper has published nothing about it lately",
            Self::NoLag => "how far it is behind is not known",
            Self::Behind => "it is more bytes behind than --read-only-max-lag",
            Self::Late => "it may be further behind in time than --read-only-max-lag",
            Self::NoAddress => "its address is not known",
        })
    }
}

impl Reads {
    pub(super) fn new(max_lag: MaxLag) -> Self {
        Self {
            max_lag,
            heard: Heard::default(),
            asking: false,
            route: ReadRoute::Closed("nothing was read yet".to_owned()),
            told: BTreeMap::new(),
        }
    }

    pub(super) const fn route(&self) -> &ReadRoute {
        &self.route
    }

    /// Whether to ask what members published: with each check, one question at a time.
    pub(super) const fn ask(&mut self) -> bool {
        !std::mem::replace(&mut self.asking, true)
    }

    /// What members published was read.
    pub(super) fn learn(
        &mut self,
        sent_at: Instant,
        reports: Reports,
        document: (Option<&ClusterData>, u64),
    ) {
        self.asking = false;
        self.heard
            .note(sent_at, reports, document, self.max_lag.time);
    }

    /// It could not be read.
    pub(super) const fn failed(&mut self) {
        self.asking = false;
    }

    /// The cluster data are of another history.
    pub(super) fn forget(&mut self) {
        self.heard.forget();
    }

    /// Decides anew where clients go; true when that is another place, or another time.
    pub(super) fn turn(&mut self, ground: &Ground<'_>, effects: &mut Vec<Effect>) -> bool {
        let (route, unfit) = self.decide(ground);
        self.tell_unfit(unfit, effects);
        if route == self.route {
            return false;
        }
        if let Some(reason) = told_of(&self.route, &route) {
            effects.push(Effect::Log(reason));
        }
        self.route = route.clone();
        effects.push(Effect::ReadRoute(route));
        true
    }

    /// When time alone changes where clients go.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.route {
            ReadRoute::To(targets) => targets.iter().map(|(_, until)| *until).min(),
            ReadRoute::Closed(_) => None,
        }
    }

    fn decide(&self, ground: &Ground<'_>) -> (ReadRoute, BTreeMap<DbUid, Unfit>) {
        let (data, until) = match self.may_lead(ground) {
            Ok(found) => found,
            Err(why) => return (ReadRoute::Closed(why), BTreeMap::new()),
        };
        let mut targets = Vec::new();
        let mut unfit = BTreeMap::new();
        for db in data.dbs.values().filter(|db| is_standby(db)) {
            match self.judge(ground.now, data, db) {
                Ok((target, fit_until)) => targets.push((target, until.min(fit_until))),
                Err(why) => {
                    unfit.insert(db.uid.clone(), why);
                }
            }
        }
        if !targets.is_empty() {
            return (ReadRoute::To(targets), unfit);
        }
        let each = unfit.iter().map(|(db, why)| format!("{db}: {why}"));
        let each: Vec<String> = each.collect();
        let why = if each.is_empty() {
            "there is none".to_owned()
        } else {
            each.join("; ")
        };
        (ReadRoute::Closed(why), unfit)
    }

    /// Until when this proxy may lead clients to standbys at all, or why it may not.
    fn may_lead<'a>(&self, ground: &Ground<'a>) -> Result<(&'a ClusterData, Instant), String> {
        let refused = |why: &str| Err(why.to_owned());
        if ground.is_held {
            return refused(
                "the cluster data went back: other proxies may yet forward by newer ones",
            );
        }
        let Some(until) = ground.until else {
            return refused("no check of the cluster data succeeded lately");
        };
        let Some(data) = ground.data else {
            return refused("there is no cluster");
        };
        if !data.proxy.spec.enabled_proxies.contains(ground.uid) {
            return refused("this proxy is not enabled by the sentinel yet");
        }
        let heard_until = self
            .heard
            .read_at()
            .map(|at| at.after(ground.proxy_timeout));
        let Some(heard_until) = heard_until.filter(|until| ground.now < *until) else {
            return refused("what keepers publish could not be read lately");
        };
        if let Some(why) = self.heard.danger() {
            return Err(why);
        }
        Ok((data, until.min(heard_until)))
    }

    /// Where a standby is and until when it may be read from, or why not.
    fn judge(&self, now: Instant, data: &ClusterData, db: &Db) -> Result<(Target, Instant), Unfit> {
        if data.proxy.spec.successor_db_uid == db.uid {
            return Err(Unfit::Successor);
        }
        if !db.status.healthy {
            return Err(Unfit::Unhealthy);
        }
        let (state, seen_at) = self.heard.state(data, db).ok_or(Unfit::Unknown)?;
        let instance = state.instance.as_ref().ok_or(Unfit::NoLag)?;
        if !state.healthy || instance.in_recovery != Some(true) {
            return Err(Unfit::Unhealthy);
        }
        if instance.replay_lsn == Lsn::UNKNOWN {
            return Err(Unfit::NoLag);
        }
        let lag = self.heard.lag(state.timeline_id, instance.replay_lsn);
        let lag = lag.ok_or(Unfit::NoLag)?;
        if lag.bytes > self.max_lag.bytes {
            return Err(Unfit::Behind);
        }
        let known_at = lag.level_at.ok_or(Unfit::Late)?.min(seen_at);
        let until = known_at.after(self.max_lag.time);
        if until <= now {
            return Err(Unfit::Late);
        }
        let (host, port) = (&db.status.listen_address, &db.status.port);
        if host.is_empty() || port.is_empty() {
            return Err(Unfit::NoAddress);
        }
        let target = Target {
            db: db.uid.clone(),
            host: host.clone(),
            port: port.clone(),
        };
        Ok((target, until))
    }

    /// Tells of standbys that cease to be read from, and why, once for each reason.
    fn tell_unfit(&mut self, unfit: BTreeMap<DbUid, Unfit>, effects: &mut Vec<Effect>) {
        for (db, why) in &unfit {
            if self.told.get(db) != Some(why) {
                let text = format!("clients may not read from a standby: {why}");
                let reason = Reason::info("not-read-from", text).with("db", db);
                effects.push(Effect::Log(reason));
            }
        }
        self.told = unfit;
    }
}

/// A standby of a db of this cluster.
fn is_standby(db: &Db) -> bool {
    let follow = db.spec.follow_config.as_ref();
    let follows = follow.and_then(|follow| follow.follow_type.as_ref());
    db.spec.role == Some(Role::Standby) && follows == Some(&FollowType::Internal)
}

/// What to tell when clients that read go elsewhere; none: the places are the same.
fn told_of(before: &ReadRoute, after: &ReadRoute) -> Option<Reason> {
    let names = |route: &ReadRoute| match route {
        ReadRoute::To(targets) => targets
            .iter()
            .map(|(target, _)| target.db.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        ReadRoute::Closed(_) => String::new(),
    };
    if names(before) == names(after) {
        return None;
    }
    Some(match after {
        ReadRoute::To(_) => {
            let text = "clients may read from standbys";
            Reason::info("reading", text).with("dbs", names(after))
        }
        ReadRoute::Closed(why) => {
            Reason::warn("reading-closed", format!("no standby is read from: {why}"))
        }
    })
}

#[cfg(test)]
mod tests;
