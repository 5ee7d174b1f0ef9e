//! What is remembered of each proxy: how long it may still forward what it was told before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::view::MOST_AHEAD;
use super::{Look, ProxyView};
use crate::model::report::{FEATURE_AGE_FROM_SEND, FEATURE_READS};
use crate::model::{ClusterData, EffectiveSpec, Generation, ProxyInfo, ProxyUid};
use crate::proxy::forwards_for;

/// The proxies that were heard, or that the cluster data enable. Times are of the observed clock.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    memory: BTreeMap<ProxyUid, ProxyMemory>,
    /// The highest generation that the cluster data had, or that a proxy says it has carried out.
    reached: Generation,
}

#[derive(Debug)]
struct ProxyMemory {
    info: ProxyInfo,
    heard: bool,
    changed: Duration,
    acknowledged: Duration,
}

impl ProxyMemory {
    fn unheard(now: Duration) -> Self {
        Self {
            info: ProxyInfo::default(),
            heard: false,
            changed: now,
            acknowledged: now,
        }
    }

    fn closes_first(&self) -> bool {
        self.has(FEATURE_AGE_FROM_SEND)
    }

    fn has(&self, feature: &str) -> bool {
        let features = &self.info.features;
        features.iter().any(|name| name == feature)
    }

    /// How long after its last publication it may still forward (contract, section 7).
    fn bound(&self, spec: &EffectiveSpec) -> Duration {
        let declared = u64::try_from(self.info.proxy_timeout_nanos)
            .ok()
            .filter(|nanos| *nanos > 0);
        let timeout = match declared {
            Some(nanos) if self.heard => Duration::from_nanos(nanos),
            Some(_) | None => spec.proxy_timeout,
        };
        if self.closes_first() {
            forwards_for(timeout)
        } else {
            timeout.saturating_mul(2)
        }
    }

    /// What is seen of it at `now`, and how long until the passing of time alone changes that.
    fn view(&self, now: Duration, spec: &EffectiveSpec) -> (ProxyView, Option<Duration>) {
        let silent_for = now.saturating_sub(self.changed);
        let acknowledged_for = now.saturating_sub(self.acknowledged);
        let bound = self.bound(spec);
        let closes_first = self.closes_first();
        let pause = spec
            .sleep_interval
            .checked_sub(acknowledged_for)
            .filter(|_| !closes_first);
        let left = [bound.checked_sub(silent_for), pause];
        let view = ProxyView {
            generation: self.heard.then_some(self.info.generation),
            live: silent_for < bound,
            heard: self.heard,
            closes_first,
            // One that was not heard yet may be of any kind.
            reads: !self.heard || self.has(FEATURE_READS),
            acknowledged_for,
        };
        let left = left.into_iter().flatten().filter(|time| !time.is_zero());
        (view, left.min())
    }
}

impl Proxies {
    /// Takes in what proxies published, and which of them `data` enable.
    pub(super) fn note(
        &mut self,
        now: Duration,
        look: &Look,
        data: &ClusterData,
        spec: &EffectiveSpec,
    ) {
        let enabled = &data.proxy.spec.enabled_proxies;
        let generation = data.proxy.generation;
        let most = Generation(generation.0.saturating_add(MOST_AHEAD));
        let said = look.proxies.iter().map(|info| info.generation);
        let said = said.filter(|said| *said <= most).max();
        self.reached = self.reached.max(generation).max(said.unwrap_or_default());
        // A vanished key is silence like any other: forgotten only once it cannot forward.
        self.memory.retain(|uid, memory| {
            enabled.contains(uid)
                || look.proxies.iter().any(|info| info.uid == *uid)
                || now.saturating_sub(memory.changed) < memory.bound(spec)
        });
        for info in &look.proxies {
            let memory = self
                .memory
                .entry(info.uid.clone())
                .or_insert_with(|| ProxyMemory::unheard(now));
            if memory.heard && memory.info.info_uid == info.info_uid {
                continue;
            }
            if memory.info.generation != info.generation || !memory.heard {
                memory.acknowledged = now;
            }
            memory.info = info.clone();
            memory.heard = true;
            memory.changed = now;
        }
        for uid in enabled {
            self.memory
                .entry(uid.clone())
                .or_insert_with(|| ProxyMemory::unheard(now));
        }
    }

    /// The highest generation that any proxy may have carried out.
    pub(super) const fn reached(&self) -> Generation {
        self.reached
    }

    /// Every proxy as it is seen at `now`; adds to `deadlines` when that changes with time.
    pub(super) fn view(
        &self,
        now: Duration,
        spec: &EffectiveSpec,
        deadlines: &mut Vec<Option<Duration>>,
    ) -> BTreeMap<ProxyUid, ProxyView> {
        let views = self.memory.iter().map(|(uid, memory)| {
            let (view, left) = memory.view(now, spec);
            deadlines.push(left);
            (uid.clone(), view)
        });
        views.collect()
    }
}
