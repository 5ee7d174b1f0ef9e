//! Liveness: once all that failed is well again there is one primary, writable through every proxy,
//! followed by every keeper, with a complete synchronous set and one leader.

use std::time::Duration;

use stolon_core::model::{ClusterData, Db, EffectiveSpec, Phase, Role};
use stolon_core::sentinel::observe::{FAILOVER_WINDOW, fail_after};

use crate::world::World;
use crate::world::event::Actor;
use crate::world::keeper::keeper_uid;
use crate::world::postgres::Data;

/// How long each thing that has to follow another may take by the model of PostgreSQL: a start with
/// recovery, a stop, a promotion, a copy.
const MODEL: Duration = Duration::from_secs(90);

/// How long the cluster may take to be well after the last fault ended.
pub(crate) fn bound(spec: &EffectiveSpec, lease: Duration, store_timeout: Duration) -> Duration {
    let proxies = spec.proxy_timeout * 2 + Duration::from_secs(1);
    let leader = lease * 2 + store_timeout;
    let judged = fail_after(spec) + spec.convergence_timeout + spec.sleep_interval * 10;
    // The limit on failovers may hold the next one back, and two may have to follow each other.
    FAILOVER_WINDOW + leader + (judged + proxies + MODEL) * 2 + spec.init_timeout
}

/// How long ago a write of busy clients may be.
const LATELY: Duration = Duration::from_secs(15);

impl World {
    /// The specification in force; that of the plan before there is one.
    pub fn spec(&self) -> EffectiveSpec {
        let stored = self
            .store
            .data()
            .and_then(|(_, data)| data.cluster.as_ref()?.spec.clone());
        stored
            .unwrap_or_else(|| self.plan.shape.spec.clone())
            .effective()
    }

    /// What is not as it should be; none: the cluster is well.
    pub fn unwell(&self) -> Option<String> {
        let Some((_, data)) = self.store.data() else {
            return Some("there is no cluster".to_owned());
        };
        let spec = data
            .cluster
            .as_ref()?
            .spec
            .clone()
            .unwrap_or_default()
            .effective();
        let phase = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.status.phase.as_ref());
        if phase != Some(&Phase::Normal) {
            return Some("the cluster is not initialised".to_owned());
        }
        let leaders = self
            .sentinels
            .iter()
            .filter(|sentinel| sentinel.leading())
            .count();
        if leaders != 1 {
            return Some(format!("{leaders} sentinels lead"));
        }
        let first = if self.follows_outside() {
            self.source_unwell(data)
        } else {
            self.primary_unwell(data)
        };
        first
            .or_else(|| self.standbys_unwell(data, &spec))
            .or_else(|| self.proxies_unwell(data))
            .or_else(|| self.readers_unwell(data))
            .or_else(|| self.request_unmet())
    }

    fn primary_unwell(&self, data: &ClusterData) -> Option<String> {
        let primary = data.primary()?;
        let k = self.keeper_of(&primary.uid)?;
        let instance = &self.instances[k];
        let serves = instance
            .server
            .as_ref()
            .is_some_and(|server| server.writable && server.accepts() && server.lets_users_in());
        if !serves || instance.pgdata.identity.as_ref() != Some(&primary.uid) {
            return Some(format!("pg{k} does not serve as primary"));
        }
        let others = (0..self.keepers.len()).filter(|other| *other != k);
        let other = others
            .into_iter()
            .find(|other| self.instances[*other].is_writable());
        other.map(|other| format!("pg{other} is writable beside the primary"))
    }

    fn standbys_unwell(&self, data: &ClusterData, spec: &EffectiveSpec) -> Option<String> {
        let primary = data.primary()?;
        let at = self.keeper_of(&primary.uid)?;
        let up = (0..self.keepers.len())
            .filter(|k| self.keepers[*k].process.up)
            .count();
        let most = usize::from(spec.max_standbys_per_sender.min(spec.max_standbys));
        let wanted = up.saturating_sub(1).min(most);
        let server = self.instances[at].server.as_ref()?;
        let mut streaming = 0;
        for db in data
            .dbs
            .values()
            .filter(|db| db.spec.role == Some(Role::Standby))
        {
            let name = db.uid.replication_name();
            streaming += usize::from(server.peers.get(&name).is_some_and(|peer| peer.streaming));
        }
        if streaming < wanted {
            return Some(format!(
                "{streaming} of {wanted} standbys stream from pg{at}"
            ));
        }
        if !spec.synchronous_replication || self.follows_outside() {
            return None;
        }
        let named = primary.spec.synchronous_standbys.len();
        let confirmed = primary.status.synchronous_standbys.len();
        let complete = usize::from(spec.max_synchronous_standbys).min(wanted);
        let in_force = primary.spec.synchronous_replication;
        let is_complete = in_force && named >= complete && confirmed == named;
        (!is_complete).then(|| {
            format!(
                "{confirmed} of {named} synchronous standbys are confirmed, {complete} are wanted"
            )
        })
    }

    fn proxies_unwell(&self, data: &ClusterData) -> Option<String> {
        let at = self.keeper_of(&data.primary()?.uid)?;
        let closed = (0..self.proxies.len())
            .find(|p| self.permit(*p).map(|permit| permit.target) != Some(at));
        if let Some(p) = closed {
            return Some(format!("p{p} does not forward to pg{at}"));
        }
        if self.follows_outside() {
            // Nobody can write.
            return None;
        }
        let lately = Duration::from_millis(self.plan.shape.calm_pace().1).max(LATELY / 2) * 2;
        let since = self.now.saturating_sub(lately);
        let silent = (0..self.proxies.len()).find(|p| !self.record.wrote_since(*p, at, since));
        silent.map(|p| format!("no write through p{p} was acknowledged lately"))
    }

    /// Why the cluster may stay without a primary: nobody has what is needed.
    pub fn excuse(&self) -> Option<String> {
        let (_, data) = self.store.data()?;
        let spec = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref());
        if let Some(doubt) = spec.and_then(|spec| spec.doubts().into_iter().next()) {
            // The operator was warned.
            return Some(doubt.to_string());
        }
        let primary = data.primary()?;
        let k = self.keeper_of(&primary.uid);
        if let Some(later) = self.later_than(k, data) {
            return Some(format!("pg{later} was the primary by newer cluster data"));
        }
        let has = |k: usize| {
            let instance = &self.instances[k];
            instance.pgdata.data.is_some()
                && instance.pgdata.identity.as_ref() == Some(&primary.uid)
        };
        match k {
            Some(k) if has(k) => None,
            _ if self.may_take_over(data, primary) => None,
            // Its source outside has all of them.
            Some(k) if self.follows_outside() && self.keepers[k].process.up => None,
            Some(k) => Some(format!("the data of the primary at k{k} are lost")),
            None => Some("the primary's keeper is gone".to_owned()),
        }
    }

    /// Whether some standby has all that the primary, whose data are gone, was known to have: it is whole,
    /// on the timeline that the primary told last, and, where commits wait for standbys, confirmed.
    fn may_take_over(&self, data: &ClusterData, primary: &Db) -> bool {
        let spec = self.spec();
        let is_synchronous = primary.spec.synchronous_replication && !self.follows_outside();
        let told = &primary.status;
        let is_able = |db: &Db| {
            let Some(k) = self.keeper_of(&db.uid) else {
                return false;
            };
            let pgdata = &self.instances[k].pgdata;
            let held = pgdata.data.as_ref();
            let held = held.filter(|_| pgdata.identity.as_ref() == Some(&db.uid));
            let lag = told.xlog_pos.bytes_ahead_of(db.status.xlog_pos);
            let has_all = if is_synchronous {
                primary.spec.synchronous_standbys.contains(&db.uid)
                    && told.synchronous_standbys.contains(&db.uid)
            } else {
                lag <= u64::from(spec.max_standby_lag)
            };
            db.status.healthy
                && self.keepers[k].process.up
                && data.keepers.contains_key(&db.spec.keeper_uid)
                && held.is_some_and(|held| held.timeline == told.timeline_id.0)
                && has_all
        };
        let others = data.dbs.values().filter(|db| db.uid != primary.uid);
        others
            .filter(|db| db.spec.role == Some(Role::Standby))
            .any(is_able)
    }

    /// Whose data are on a later timeline than those of the primary, at `k`, that the store went back to,
    /// and were those of the primary by what it had: an operator has to choose.
    fn later_than(&self, k: Option<usize>, data: &ClusterData) -> Option<usize> {
        let timeline = |k: usize| {
            let data = self.instances[k].pgdata.data.as_ref();
            data.map_or(0, |data| data.timeline)
        };
        let named = k.map_or(0, timeline);
        (0..self.keepers.len()).find(|other| {
            let held = self.keepers[*other].state.as_ref();
            let knows_newer = held.is_some_and(|held| {
                let db = data.dbs.get(&held.uid);
                db.is_some_and(|db| held.generation > db.generation)
            });
            Some(*other) != k && knows_newer && timeline(*other) > named
        })
    }

    /// A text of who is where, for a story's end.
    pub fn state(&self) -> String {
        let keepers = (0..self.keepers.len()).map(|k| {
            let instance = &self.instances[k];
            let up = if self.keepers[k].process.up {
                "up"
            } else {
                "down"
            };
            let server = instance.server.as_ref().map_or("no server", |server| {
                if server.writable {
                    "primary"
                } else {
                    "standby"
                }
            });
            let identity = instance
                .pgdata
                .identity
                .as_ref()
                .map_or("nothing", |uid| uid.as_str());
            let data = instance.pgdata.data.as_ref();
            let lsn = data.map_or(0, Data::flush_lsn);
            let timeline = data.map_or(0, |data| data.timeline);
            format!(
                "{}: {up}, {server} of {identity} at {lsn:x} on timeline {timeline}",
                keeper_uid(k)
            )
        });
        let proxies = (0..self.proxies.len()).map(|p| {
            let target = self.permit(p).map(|permit| format!("pg{}", permit.target));
            let host = self.host_of(Actor::Proxy(p));
            format!(
                "p{p} on host {host}: {}",
                target.unwrap_or_else(|| "closed".to_owned())
            )
        });
        keepers.chain(proxies).collect::<Vec<_>>().join("\n")
    }
}
