//! Standby clusters: nobody of them is writable before an operator says so, nothing of theirs is replaced
//! that was no more than behind, and in the end they have what their source has.

use stolon_core::keeper::decide::Step;
use stolon_core::model::ClusterData;

use crate::world::World;
use crate::world::event::Actor;
use crate::world::outside::{is_standby_cluster, server_at, source_of};
use crate::world::postgres::Data;

/// After so many sleepIntervals a keeper has another answer of the server outside.
const ANSWERS: u32 = 4;

/// How many records two logs begin with alike.
fn shared(one: &Data, other: &Data) -> usize {
    let both = one.wal.iter().zip(&other.wal);
    both.take_while(|(one, other)| one.id == other.id).count()
}

impl World {
    /// Whether the cluster follows a server outside, by what the store says.
    pub(crate) fn follows_outside(&self) -> bool {
        let data = self.store.data();
        data.is_some_and(|(_, data)| is_standby_cluster(data))
    }

    /// An instance becomes writable: one of a standby cluster must not, before its operators have made it
    /// a master.
    pub(crate) fn check_role(&mut self, k: usize) {
        if self.is_member(Actor::Postgres(k)) && self.follows_outside() {
            let text = format!("pg{k} becomes writable in a cluster whose role is standby");
            self.fail("I8-writable-standby-cluster", text);
        }
    }

    /// A keeper is about to replace the data of an instance that runs by those of the server outside: they
    /// have something that it has not, and it is one that may be written to.
    pub(crate) fn check_replacement(&mut self, k: usize, step: &Step) {
        let Step::FromOutside { conninfo, .. } = step else {
            return;
        };
        let runs = self.instances[k].has_postmaster();
        // What it last answered it may have said of what it was then.
        let is_known = self.outside_unchanged_for() > self.spec().sleep_interval * ANSWERS;
        let number = server_at(conninfo).filter(|_| runs && is_known);
        let Some(number) = number else {
            return;
        };
        let (here, there) = (&self.instances[k].pgdata, &self.instances[number].pgdata);
        let Some((here, there)) = here.data.as_ref().zip(there.data.as_ref()) else {
            return;
        };
        let alike = shared(here, there);
        let is_behind = there.flushed == alike && self.instances[number].pgdata.signal;
        if alike == here.flushed || is_behind {
            let text = format!(
                "k{k} replaces {} records by those of pg{number}, which has {alike} of them and may \
                 have the others yet",
                here.flushed
            );
            self.fail("I7-replaced-for-nothing", text);
        }
    }

    /// Of a stored document: one instance of a standby cluster follows the server outside, or none.
    pub(crate) fn note_switch(&mut self, before: Option<&ClusterData>, after: &ClusterData) {
        let Some(before) = before.filter(|before| is_standby_cluster(before)) else {
            return;
        };
        if !is_standby_cluster(after) {
            self.note("cluster-promoted");
        } else if source_of(before) != source_of(after) {
            self.note("source-switched");
        }
        let first = |data: &ClusterData| data.primary().map(|db| db.uid.clone());
        let (old, new) = (first(before), first(after));
        if old.is_some() && new.is_some() && old != new {
            self.note("standby-cluster-failover");
        }
    }

    /// Why the first instance of a standby cluster is not as it should be.
    pub(super) fn source_unwell(&self, data: &ClusterData) -> Option<String> {
        let Some(primary) = data.primary() else {
            return Some("there is no first instance".to_owned());
        };
        let Some(k) = self.keeper_of(&primary.uid) else {
            return Some("the keeper of the first instance is not there".to_owned());
        };
        let instance = &self.instances[k];
        let Some(server) = instance.server.as_ref().filter(|server| server.accepts()) else {
            return Some(format!("pg{k} does not run as the first instance"));
        };
        if server.writable || instance.pgdata.identity.as_ref() != Some(&primary.uid) {
            return Some(format!(
                "pg{k} is not the first instance of a standby cluster"
            ));
        }
        let follows = server
            .receiver
            .as_ref()
            .filter(|receiver| receiver.established);
        let (source, wanted) = (follows.map(|receiver| receiver.source), source_of(data));
        if source.is_none() || source != wanted || wanted != self.outside_primary() {
            return Some(format!(
                "pg{k} receives from {source:?}, and not from {wanted:?}"
            ));
        }
        let writable = self
            .keepers()
            .find(|other| self.instances[*other].is_writable());
        writable.map(|other| format!("pg{other} is writable in a standby cluster"))
    }

    /// When a standby cluster is well its members have what their source has, as far as they came.
    pub(super) fn check_history_of_source(&mut self) {
        let data = self.store.data().map(|(_, data)| data.clone());
        let Some(source) = data.as_deref().and_then(source_of) else {
            return;
        };
        let Some(theirs) = self.instances[source].pgdata.data.clone() else {
            return;
        };
        for k in 0..self.keepers.len() {
            let instance = &self.instances[k];
            let streams = instance.server.as_ref().is_some_and(|server| {
                let receiver = server.receiver.as_ref();
                receiver.is_some_and(|receiver| receiver.established)
            });
            let Some(here) = instance.pgdata.data.as_ref().filter(|_| streams) else {
                continue;
            };
            let alike = shared(here, &theirs);
            if alike < here.flushed {
                let text = format!(
                    "pg{k} has {} records, of which pg{source} has {alike}",
                    here.flushed
                );
                self.fail("I3-not-the-sources-history", text);
            }
        }
    }

    /// The numbers of the keepers.
    fn keepers(&self) -> impl Iterator<Item = usize> {
        0..self.keepers.len()
    }
}
