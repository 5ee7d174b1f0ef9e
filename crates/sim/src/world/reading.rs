//! The side of a proxy that leads clients that only read to standbys.

use std::ops::Range;

use stolon_core::proxy::{MaxLag, ReadRoute};
use stolon_core::reason::Reason;

use super::World;
use super::event::Actor;
use super::proxy::{Permit, keeper_at};

impl World {
    /// The proxies that clients that read come to.
    pub(crate) fn reading_proxies(&self) -> Range<usize> {
        let all = self.proxies.len();
        let reading = self.plan.shape.reading.as_ref();
        all - reading.map_or(0, |reading| reading.proxies)..all
    }

    /// How far behind the standbys may be that a proxy leads clients to; none: it leads nobody there.
    pub(super) fn max_lag(&self, p: usize) -> Option<MaxLag> {
        let leads = self.reading_proxies().contains(&p) && !self.proxies[p].is_go;
        let reading = self.plan.shape.reading.as_ref();
        reading
            .map(|reading| reading.max_lag)
            .filter(|_| leads && self.proxies[p].process.up)
    }

    /// As the relay does it: of each standby that is left every connection goes first, and of each one
    /// whose permit has run out.
    pub(crate) fn set_read_route(&mut self, p: usize, route: &ReadRoute) {
        let now = self.local(Actor::Proxy(p));
        let wanted = match route {
            ReadRoute::Closed(_) => &[],
            ReadRoute::To(targets) => targets.as_slice(),
        };
        let wanted = wanted.iter();
        let mut wanted: Vec<_> = wanted
            .filter_map(|(target, until)| Some((keeper_at(&target.host)?, *until)))
            .collect();
        let mut left = Vec::new();
        for mut permit in std::mem::take(&mut self.proxies[p].reading) {
            let at = wanted.iter().position(|(k, _)| *k == permit.target);
            let prolonged = at.filter(|_| now < permit.until);
            if let Some(at) = prolonged {
                (_, permit.until) = wanted.remove(at);
                self.proxies[p].reading.push(permit);
            } else {
                left.push(permit);
            }
        }
        for permit in left {
            self.leave_standby(p, &permit);
        }
        for (target, until) in wanted {
            let serial = self.proxies[p].next_permit();
            self.proxies[p].reading.push(Permit {
                serial,
                target,
                until,
            });
            self.say(|| format!("p{p} opens pg{target} to those who read"));
        }
    }

    fn leave_standby(&mut self, p: usize, permit: &Permit) {
        if permit.until <= self.local(Actor::Proxy(p)) {
            self.note("reading-fenced");
        }
        let target = permit.target;
        self.say(|| format!("p{p} closes pg{target} to those who read"));
        let sessions = self.connections.len();
        self.reset_connections(|of| of.proxy == Some(p) && of.permit == permit.serial);
        let read = self.proxies[p].read.as_ref();
        let data = read.and_then(|(_, _, data)| data.as_deref());
        let successor = data.map(|data| &data.proxy.spec.successor_db_uid);
        let is_successor = successor.is_some_and(|uid| self.keeper_of(uid) == Some(target));
        if self.connections.len() < sessions && is_successor {
            self.note("readers-sent-away");
        }
    }

    /// Takes note of what a proxy says of standbys that it leads clients to.
    pub(super) fn note_reading(&mut self, p: usize, reason: &Reason) {
        let text = reason.to_string();
        if reason.code == "not-read-from" && text.contains("behind") {
            let leads_there = |permit: &Permit| {
                let (_, data) = self.store.data()?;
                let uid = crate::world::keeper::keeper_uid(permit.target);
                data.db_of(&uid).map(|db| text.contains(db.uid.as_str()))
            };
            let mut permits = self.proxies[p].reading.iter();
            if permits.any(|permit| leads_there(permit) == Some(true)) {
                self.note("left-for-its-lag");
            }
        }
        if reason.code == "reading-closed" && text.contains("sentinels") {
            self.note("reading-stopped-for-a-sentinel");
        }
    }
}
