//! The leadership of the sentinels in Kubernetes, as client-go and so the Go program has it: a
//! record that the leader renews (contract, section 3).
//!
//! Whether it has lapsed is judged by when this candidate saw it change and by its own clock, never
//! by the times in it, which are of other clocks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::Api;
use super::place::{Field, Names};
use crate::Error;
use crate::clock::{boot_time, wall_time};
use crate::leadership::Lease;

/// The annotation with the record.
pub(super) const LEADER: Field = Field::Annotation("control-plane.alpha.kubernetes.io/leader");
/// How long a leader holds on after it was last heard. The Go program's is 15 s; the candidates'
/// may differ. Renewed three times as often, it is written as often as the Go program's.
pub(super) const LEADER_TTL: Duration = Duration::from_secs(6);
/// How long a record that cannot be read is respected after it changed.
const UNREADABLE: Duration = Duration::from_secs(15);
/// No lease is waited for longer, whatever its record says.
const LONGEST_LEASE: Duration = Duration::from_mins(2);
/// How often a candidate looks while another one leads.
const LOOK: Duration = Duration::from_secs(2);
/// How often one try starts again because something else was written to the ConfigMap meanwhile.
const ROUNDS: u32 = 10;

/// What client-go calls a `LeaderElectionRecord`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Empty: nobody leads.
    #[serde(default)]
    pub(super) holder_identity: String,
    #[serde(default)]
    lease_duration_seconds: u64,
    #[serde(default)]
    acquire_time: Option<Timestamp>,
    #[serde(default)]
    renew_time: Option<Timestamp>,
    #[serde(default)]
    leader_transitions: u64,
}

/// The record as this candidate knows it.
#[derive(Debug)]
pub(super) struct Lock {
    api: Arc<Api>,
    names: Names,
    seen: Mutex<Seen>,
}

/// What was seen of the record, on the boot clock.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// As it stands there.
    text: Option<String>,
    /// When that was first seen.
    since: Duration,
    /// When it was last looked at.
    looked: Option<Duration>,
    /// Until when its holder may lead.
    until: Duration,
    ours: bool,
}

impl Record {
    /// Reads a record; none: there is none, or one that nobody can hold.
    pub(super) fn read(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }

    /// The record of a candidate that takes or renews it.
    fn held(before: Option<&Self>, uid: &str, ttl: Duration) -> Self {
        let now = whole_second(wall_time());
        let ours = before.filter(|before| before.holder_identity == uid);
        let transitions = before.map_or(0, |before| before.leader_transitions);
        // Others see a renewal by the change, so no two may be equal, whatever the clock does.
        let after_last = before
            .and_then(|before| before.renew_time)
            .and_then(|last| Timestamp::from_second(last.as_second() + 1).ok());
        let renewed = after_last.map_or(now, |after| after.max(now));
        Self {
            holder_identity: uid.to_owned(),
            lease_duration_seconds: ttl.as_secs(),
            acquire_time: ours.map_or(Some(now), |ours| ours.acquire_time),
            renew_time: Some(renewed),
            leader_transitions: if ours.is_some() {
                transitions
            } else {
                transitions + 1
            },
        }
    }

    /// The record of a leader that leaves, as client-go writes it.
    fn released(&self) -> Self {
        Self {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            ..self.clone()
        }
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_duration_seconds).min(LONGEST_LEASE)
    }

    fn is_held(&self) -> bool {
        !self.holder_identity.is_empty()
    }
}

/// The times of a record have whole seconds (`metav1.Time`).
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

impl Lock {
    pub(super) fn new(api: Arc<Api>, names: Names) -> Self {
        Self {
            api,
            names,
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look: a candidate that saw another one lead waits a little.
    fn is_due(&self) -> bool {
        let (seen, now) = (self.seen(), boot_time());
        let looked_lately = seen.looked.is_some_and(|looked| now < looked + LOOK);
        seen.ours || !looked_lately || seen.until <= now
    }

    /// Notes what stands there; until when its holder may lead.
    fn note(&self, text: Option<&str>, record: Option<&Record>, uid: &str) -> Duration {
        let now = boot_time();
        let mut seen = self.seen();
        if seen.text.as_deref() != text {
            seen.text = text.map(str::to_owned);
            seen.since = now;
        }
        seen.looked = Some(now);
        seen.ours = record.is_some_and(|record| record.holder_identity == uid);
        seen.until = match (text, record) {
            (None, _) => Duration::ZERO,
            (_, Some(record)) if !record.is_held() => Duration::ZERO,
            (_, Some(record)) => seen.since + record.lease(),
            // Somebody newer may hold it.
            (_, None) => seen.since + UNREADABLE,
        };
        seen.until
    }

    /// The ConfigMap as this process saw it last, if this candidate held the record then. As in
    /// client-go its leader renews over that: two calls for each renewal, at a server that is slow,
    /// take longer than the lease lasts.
    fn held_when_last_seen(&self, uid: &str) -> Option<ConfigMap> {
        let map = self.api.latest().filter(|_| self.seen().ours)?;
        let record = Record::read(LEADER.of(&map))?;
        (record.holder_identity == uid).then_some(map)
    }

    /// Reads the ConfigMap with the record.
    async fn read(&self, end: Instant) -> Result<ConfigMap, Error> {
        let name = self.names.main();
        let found = self.api.config_map(&name, end).await?;
        Ok(found.unwrap_or_else(|| self.names.new_map(&name)))
    }

    /// Writes the record, if nothing was written to the ConfigMap since it was read.
    async fn write(
        &self,
        mut map: ConfigMap,
        record: &Record,
        end: Instant,
    ) -> Result<bool, Error> {
        let text = serde_json::to_string(record)
            .map_err(|error| Error::Config(format!("the leader's record: {error}")))?;
        LEADER.set(&mut map, Some(&text));
        Ok(self.api.write(&map, end).await.result?.is_some())
    }
}

#[async_trait::async_trait]
impl Lease for Lock {
    async fn hold(&self, _: &str, uid: &str, ttl: Duration) -> Result<bool, Error> {
        if !self.is_due() {
            return Ok(false);
        }
        let end = self.api.pool.deadline();
        let mut renewed = self.held_when_last_seen(uid);
        for _ in 0..ROUNDS {
            let sent = boot_time();
            let map = match renewed.take() {
                Some(map) => map,
                None => self.read(end).await?,
            };
            let text = LEADER.of(&map);
            let record = Record::read(text);
            let until = self.note(text, record.as_ref(), uid);
            let ours = record
                .as_ref()
                .is_some_and(|record| record.holder_identity == uid);
            // Who led when this was read may have renewed it only after that.
            if !ours && sent < until {
                return Ok(false);
            }
            let next = Record::held(record.as_ref(), uid, ttl);
            if self.write(map, &next, end).await? {
                self.seen().ours = true;
                return Ok(true);
            }
        }
        Err(Error::Unavailable {
            store: self.api.pool.describe(),
            cause: format!("the leader's record was never the last one read, {ROUNDS} times"),
        })
    }

    /// The token is the uid: it is that of one process.
    async fn release(&self, uid: &str) -> Result<(), Error> {
        let end = self.api.pool.deadline();
        for _ in 0..ROUNDS {
            let map = self.read(end).await?;
            let record = Record::read(LEADER.of(&map));
            let Some(ours) = record.filter(|record| record.holder_identity == uid) else {
                return Ok(());
            };
            if self.write(map, &ours.released(), end).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Record;

    const TTL: Duration = Duration::from_secs(6);

    #[test]
    fn a_record_is_that_of_client_go() {
        let text = r#"{"holderIdentity":"af1","leaseDurationSeconds":15,"acquireTime":"2026-11-22T10:00:00Z","renewTime":"2026-11-22T10:00:04Z","leaderTransitions":3}"#;
        let record = Record::read(Some(text)).expect("a record");
        assert_eq!(serde_json::to_string(&record).expect("JSON"), text);
        assert_eq!(record.lease(), Duration::from_secs(15));
        assert!(record.is_held() && !record.released().is_held());
        let empty = r#"{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":null,"renewTime":null,"leaderTransitions":0}"#;
        assert!(!Record::read(Some(empty)).expect("a record").is_held());
        let lasting = text.replace(":15,", ":18446744073709551615,");
        let record = Record::read(Some(&lasting)).expect("a record");
        assert_eq!(record.lease(), super::LONGEST_LEASE);
    }

    #[test]
    fn every_renewal_changes_the_record_and_keeps_since_when_it_is_held() {
        let mut record = Record::held(None, "s1", TTL);
        assert_eq!(record.leader_transitions, 1);
        for _ in 0..5 {
            let next = Record::held(Some(&record), "s1", TTL);
            assert!(next.renew_time > record.renew_time);
            assert_eq!(next.acquire_time, record.acquire_time);
            assert_eq!(next.leader_transitions, 1);
            record = next;
        }
        assert_eq!(Record::held(Some(&record), "s2", TTL).leader_transitions, 2);
    }
}
