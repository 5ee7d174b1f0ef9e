//! Faults beginning and ending, and what operators do.

use std::time::Duration;

use stolon_core::model::spec::ClusterRole;
use stolon_core::model::{ClusterData, ClusterSpec, InitMode};

use super::client::Response;
use super::event::{Actor, What};
use super::keeper::keeper_uid;
use super::network::Way;
use super::past::GoesBack;
use super::postgres::Ending;
use super::{Time, World};
use crate::plan::{FaultKind, SpecChange, Wish};

impl World {
    /// The fault of this number begins.
    pub(crate) fn fault_begins(&mut self, number: usize) {
        let Some(fault) = self.plan.faults.get(number).cloned() else {
            return;
        };
        let until = self.now + fault.lasts;
        self.say(|| {
            format!(
                "FAULT {:?} for {:.1}s",
                fault.kind,
                fault.lasts.as_secs_f64()
            )
        });
        self.queue.put(until, What::FaultEnds(number));
        match fault.kind {
            FaultKind::Kill(actor) => self.kill(actor),
            FaultKind::Exchange(actor) => self.exchange(actor),
            FaultKind::KillAfter(actor, effects) => {
                self.process_mut(actor).crash_after = Some(effects);
            }
            FaultKind::Pause(Actor::Postgres(k)) => {
                self.note("hung");
                self.instances[k].hung_until = until;
            }
            FaultKind::Pause(actor) => {
                self.note("paused");
                self.process_mut(actor).paused_until = until;
            }
            FaultKind::PauseHost(host) => {
                self.note("host-paused");
                self.hosts[host].paused_until = until;
            }
            FaultKind::BelievesToLead(s) => {
                self.note("two-leaders");
                self.sentinels[s].deluded_until = until;
                self.sentinel_turns(s);
            }
            FaultKind::CrashHost(host) => self.crash_host(host),
            FaultKind::LoseDisk(k) => {
                self.note("disk-lost");
                self.crash_host(self.host_of(Actor::Keeper(k)));
                self.lose_data(k);
            }
            FaultKind::KillPostmaster(k, orphans) => self.kill_postmaster(k, orphans),
            FaultKind::StoreGoesBack(how, age) => self.store_goes_back(how, age),
            FaultKind::DataGone(_) => self.lose_cluster_data(),
            FaultKind::BeginAnew => self.begin_cluster_anew(),
            FaultKind::FailKeeper(_)
            | FaultKind::RemoveKeeper(_)
            | FaultKind::ChangeSpec(_)
            | FaultKind::NameSource(_)
            | FaultKind::Ask(_) => {
                self.operator_acts(number, &fault.kind);
            }
            FaultKind::Outside(fault) => self.outside_fault_begins(fault),
            kind => self.condition(&kind, true),
        }
    }

    /// The fault of this number ends.
    pub(crate) fn fault_ends(&mut self, number: usize) {
        let Some(fault) = self.plan.faults.get(number).cloned() else {
            return;
        };
        match fault.kind {
            FaultKind::Kill(actor) | FaultKind::Exchange(actor) => self.start(actor),
            FaultKind::KillAfter(actor, _) => {
                self.process_mut(actor).crash_after = None;
                self.start(actor);
            }
            FaultKind::CrashHost(host) => self.start_host(host),
            FaultKind::LoseDisk(k) => self.start_host(self.host_of(Actor::Keeper(k))),
            FaultKind::DataGone(age) => {
                self.store_goes_back(GoesBack::WrittenOver, fault.lasts + age);
            }
            FaultKind::BelievesToLead(s) => self.sentinel_turns(s),
            FaultKind::Ask(Wish::Pause) => self.resume(),
            FaultKind::Outside(fault) => self.outside_fault_ends(fault),
            FaultKind::Pause(_)
            | FaultKind::Ask(_)
            | FaultKind::NameSource(_)
            | FaultKind::StoreGoesBack(_, _)
            | FaultKind::BeginAnew
            | FaultKind::PauseHost(_)
            | FaultKind::KillPostmaster(_, _)
            | FaultKind::FailKeeper(_)
            | FaultKind::RemoveKeeper(_)
            | FaultKind::ChangeSpec(_) => {}
            kind => self.condition(&kind, false),
        }
    }

    /// A condition that begins and ends.
    fn condition(&mut self, kind: &FaultKind, begins: bool) {
        let by = |count: &mut u32| {
            *count = if begins {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
        };
        if begins {
            self.note(name_of(kind));
        }
        match kind {
            FaultKind::StartsDie(k, times) => {
                self.instances[*k].ailments.starts_die = if begins { *times } else { 0 };
            }
            FaultKind::PromotionsDie(k) => {
                self.instances[*k].ailments.promotions_die = u32::from(begins);
            }
            FaultKind::CopiesFail(k) => by(&mut self.instances[*k].ailments.copies_fail),
            FaultKind::DiskFull(k) => by(&mut self.instances[*k].ailments.disk_full),
            FaultKind::SlowDisk(k, millis) => {
                self.instances[*k].ailments.slow_disk = if begins { *millis } else { 0 };
            }
            FaultKind::Cut(from, to) => self.set_cut(*from, *to, begins),
            FaultKind::Isolate(host, out, inward) => {
                for other in 0..self.hosts.len() {
                    if *out {
                        self.set_cut(*host, other, begins);
                    }
                    if *inward {
                        self.set_cut(other, *host, begins);
                    }
                }
            }
            FaultKind::Trouble(host) => {
                let (delay, loss) = if begins { ((1, 900), 150) } else { ((0, 2), 0) };
                for other in 0..self.hosts.len() {
                    self.trouble(*host, other, delay, loss);
                    self.trouble(other, *host, delay, loss);
                }
            }
            FaultKind::StoreDown => by(&mut self.store.ailments.down),
            FaultKind::StoreSlow(millis) => {
                self.store.ailments.slow = if begins { *millis } else { 0 };
            }
            FaultKind::StoreLosesAnswers(share) => {
                self.store.ailments.loses_answers = if begins { *share } else { 0 };
            }
            FaultKind::StoreExpiresLate(late) => {
                self.store.ailments.late_expiry = if begins { *late } else { Time::ZERO };
            }
            FaultKind::StallWatch(actor) => {
                if begins {
                    self.store.stalled.insert(*actor);
                } else {
                    self.store.stalled.remove(actor);
                }
            }
            FaultKind::WallJump(host, millis) if begins => {
                self.hosts[*host].clock.jump(*millis);
            }
            _ => {}
        }
    }

    fn set_cut(&mut self, from: usize, to: usize, begins: bool) {
        if begins {
            self.note("cut");
            self.cut(from, to);
        } else {
            self.mend(from, to);
        }
    }

    /// A process dies. What its host's kernel holds of it is still sent.
    pub(crate) fn kill(&mut self, actor: Actor) {
        if let Actor::Postgres(k) = actor {
            self.kill_postmaster(k, false);
            return;
        }
        let process = self.process_mut(actor);
        if !process.up {
            return;
        }
        process.up = false;
        process.life += 1;
        process.paused_until = Time::ZERO;
        self.say(|| format!("{actor} is killed"));
        match actor {
            Actor::Keeper(k) => self.forget_keeper(k),
            Actor::Sentinel(s) => self.sentinels[s].looking = None,
            Actor::Proxy(p) => self.forget_proxy(p),
            Actor::Store | Actor::Postgres(_) | Actor::Client(_) => {}
        }
    }

    fn forget_proxy(&mut self, p: usize) {
        self.proxies[p].permit = None;
        self.proxies[p].reading.clear();
        let of = self
            .connections
            .iter()
            .filter(|(_, of)| of.proxy == Some(p));
        let ids: Vec<_> = of.map(|(id, of)| (*id, of.client)).collect();
        for (id, client) in ids {
            self.connections.remove(&id);
            let closed = What::ToClient(client, id, Response::Closed);
            self.send(Actor::Proxy(p), Actor::Client(client), Way::Stream, closed);
        }
    }

    /// Everything on a host ends at once.
    fn crash_host(&mut self, host: usize) {
        self.note("host-crashed");
        for actor in self.actors() {
            if self.host_of(actor) == host {
                self.kill(actor);
            }
        }
        for k in 0..self.keepers.len() {
            if self.host_of(Actor::Postgres(k)) == host {
                self.end_server(k, Ending::Crash);
            }
        }
        self.network.drop_all_parked(host);
    }

    fn start_host(&mut self, host: usize) {
        for actor in self.actors() {
            if self.host_of(actor) == host {
                let pause = Duration::from_millis(300);
                self.queue.put(self.now + pause, What::Start(actor));
            }
        }
    }

    /// An operator tries, and tries again while the store is away.
    fn operator_acts(&mut self, number: usize, kind: &FaultKind) {
        if self.store.ailments.down > 0 {
            self.queue
                .put(self.now + Duration::from_secs(2), What::Fault(number));
            return;
        }
        let done = match kind {
            FaultKind::FailKeeper(k) => self.operate(|data| {
                let keeper = data.keepers.get_mut(&keeper_uid(*k));
                keeper
                    .map(|keeper| keeper.status.force_fail = true)
                    .is_some()
            }),
            FaultKind::RemoveKeeper(k) => self.remove_keeper(*k),
            FaultKind::Ask(wish) => self.take_wish(wish),
            FaultKind::NameSource(primary) => self.point_at_outside(*primary),
            FaultKind::ChangeSpec(change) => self.operate(|data| change_spec(data, change)),
            _ => false,
        };
        if done {
            self.note("operator");
            self.say(|| format!("an operator did {kind:?}"));
        }
    }

    /// An operator does what keepers ask for whose data are not those of the db they are to run: "not
    /// starting (stolonctl removekeeper lets it begin anew)".
    pub(crate) fn operator_heeds_errors(&mut self) {
        let Some((_, data)) = self.store.data() else {
            return;
        };
        let complains = |k: &usize| {
            let db = data.db_of(&keeper_uid(*k));
            let made = db.filter(|db| db.spec.init_mode == Some(InitMode::None));
            let here = self.instances[*k].pgdata.identity.as_ref();
            self.keepers[*k].process.up && made.is_some_and(|db| Some(&db.uid) != here)
        };
        let complaining: Vec<usize> = (0..self.keepers.len()).filter(complains).collect();
        for k in complaining {
            if self.remove_keeper(k) {
                self.note("keeper-begins-anew");
                self.say(|| format!("an operator removes k{k}, which has other data"));
            }
        }
    }

    /// As `stolonctl removekeeper` does it: not that of the primary.
    fn remove_keeper(&mut self, k: usize) -> bool {
        let uid = keeper_uid(k);
        self.operate(|data| {
            let db = data.db_of(&uid).map(|db| db.uid.clone());
            let is_primary = db.is_some() && data.primary().map(|db| &db.uid) == db.as_ref();
            if is_primary || !data.keepers.contains_key(&uid) {
                return false;
            }
            if let Some(db) = db {
                data.dbs.remove(&db);
            }
            data.keepers.remove(&uid);
            true
        })
    }
}

/// What a condition is noted as.
fn name_of(kind: &FaultKind) -> &'static str {
    match kind {
        FaultKind::DiskFull(_) => "disk-full",
        FaultKind::SlowDisk(_, _) => "disk-slow",
        FaultKind::CopiesFail(_) => "copies-fail",
        FaultKind::Isolate(_, true, true) => "isolated",
        FaultKind::Isolate(_, _, _) => "isolated-one-way",
        FaultKind::Trouble(_) => "lossy",
        FaultKind::StoreDown => "store-down",
        FaultKind::StoreSlow(_) => "store-slow",
        FaultKind::StoreExpiresLate(_) => "late-expiry",
        FaultKind::StallWatch(_) => "watch-stalled",
        FaultKind::WallJump(_, _) => "wall-jump",
        _ => "condition",
    }
}

/// As `stolonctl update` does it: what is not valid is refused.
fn change_spec(data: &mut ClusterData, change: &SpecChange) -> bool {
    let Some(cluster) = data.cluster.as_mut() else {
        return false;
    };
    let Some(spec) = cluster.spec.as_mut() else {
        return false;
    };
    let mut next: ClusterSpec = spec.clone();
    match change {
        SpecChange::Synchronous(on) => next.synchronous_replication = Some(*on),
        SpecChange::SynchronousStandbys(least, most) => {
            next.min_synchronous_standbys = Some(*least);
            next.max_synchronous_standbys = Some(*most);
        }
        SpecChange::MostStandbys(most) => next.max_standbys_per_sender = Some(*most),
        SpecChange::Connections(number, restart) => {
            next.pg_parameters
                .insert("max_connections".to_owned(), number.to_string());
            next.automatic_pg_restart = Some(*restart);
        }
        SpecChange::PromoteCluster => {
            if next.role == Some(ClusterRole::Standby) {
                next.role = Some(ClusterRole::Primary);
            }
        }
        SpecChange::ProxyTimeout(millis) => {
            next.proxy_timeout = Some(Duration::from_millis(*millis).into());
        }
    }
    if next.validate().is_err() || *spec == next {
        return false;
    }
    *spec = next;
    cluster.generation = cluster.generation.next();
    true
}
