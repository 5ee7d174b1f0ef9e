//! I1 and I6 for clients that read from standbys, and that they can.

use stolon_core::model::{ClusterData, ProxyInfo, ProxySpec, Role};

use crate::world::World;
use crate::world::client::Entry;

/// With less room than this in bytes a standby of busy clients may be too far behind at any moment.
const ROOM: u64 = 1 << 20;

impl World {
    /// I6: when a proxy says that it has carried out a generation, nobody comes through it to the standby
    /// that is to be promoted; to none where the proxy is not enabled.
    pub(super) fn check_standbys_left(&mut self, p: usize, info: &ProxyInfo, spec: &ProxySpec) {
        let successor = self.keeper_of(&spec.successor_db_uid);
        let is_enabled = spec.enabled_proxies.contains(&info.uid);
        let mut permits = self.proxies[p].reading.iter();
        let kept = permits.find(|permit| {
            let is_forbidden = !is_enabled || successor == Some(permit.target);
            is_forbidden && self.holds(p, permit)
        });
        if let Some(target) = kept.map(|permit| permit.target) {
            let generation = info.generation;
            let text = format!(
                "p{p} acknowledges generation {generation} and leads those who read to pg{target}"
            );
            self.fail("I6-acknowledged-early", text);
        }
    }

    /// I1: nobody who came in to read is told that a row is committed: the instance was no standby any
    /// more, and its proxy had not left it.
    pub(crate) fn check_reading_session(
        &mut self,
        c: usize,
        txn: u64,
        route: Option<(Option<usize>, usize)>,
    ) {
        if self.clients[c].entry == Entry::Reading {
            let (proxy, target) = route.unwrap_or_default();
            let text =
                format!("c{c} came to read by {proxy:?}, and pg{target} committed row {txn}");
            self.fail("I1-reader-writes", text);
        }
    }

    /// Liveness: every proxy that leads clients to standbys leads them to each that streams.
    pub(super) fn readers_unwell(&self, data: &ClusterData) -> Option<String> {
        let reading = self.plan.shape.reading.as_ref()?;
        if reading.max_lag.bytes < ROOM {
            return None;
        }
        let mut careless = self.sentinels.iter().filter(|sentinel| sentinel.is_go);
        let may_read = !careless.any(|sentinel| sentinel.process.up);
        let at = self.keeper_of(&data.primary()?.uid)?;
        let server = self.instances[at].server.as_ref()?;
        let standbys = data.dbs.values().filter(|db| {
            let peer = server.peers.get(&db.uid.replication_name());
            db.spec.role == Some(Role::Standby) && peer.is_some_and(|peer| peer.streaming)
        });
        // Keepers of the Go program do not say how far an instance has come.
        let standbys = standbys.filter_map(|db| self.keeper_of(&db.uid));
        let told: Vec<usize> = standbys
            .filter(|k| !self.keepers[*k].is_go && *k != at)
            .collect();
        let proxies = self.reading_proxies().filter(|p| !self.proxies[*p].is_go);
        for p in proxies {
            let mut permits = self.proxies[p].reading.iter();
            if !may_read && permits.any(|permit| self.holds(p, permit)) {
                return Some(format!(
                    "p{p} leads to standbys, and a sentinel does not mind"
                ));
            }
            let leads_to = |k: usize| {
                let mut permits = self.proxies[p].reading.iter();
                permits.any(|permit| permit.target == k && self.holds(p, permit))
            };
            if let Some(k) = told.iter().find(|k| may_read && !leads_to(**k)) {
                return Some(format!("p{p} leads nobody to pg{k}, which streams"));
            }
        }
        None
    }
}
