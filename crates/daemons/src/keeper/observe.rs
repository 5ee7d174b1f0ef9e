//! Looking at the running instance: the persistent session, and each sleepInterval a fresh
//! connection as a client would make it.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use stolon_core::keeper::decide::{SCRAM, is_managed};
use stolon_core::keeper::facts::{Health, Observation, Peer, Slot};
use stolon_core::time::Instant;
use stolon_postgres::query::{self, Session, Target};
use stolon_postgres::{Error, data_dir, history};

use super::instance::Instance;
use crate::runtime::clock;

/// The limit of an answer is reckoned from sleepInterval, and never from less than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// So many intervals an answer may be late; the decisions count it as missing much earlier.
const LATEST: u32 = 3;

/// How long one query of a look may take.
pub(super) fn longest(interval: Duration) -> Duration {
    interval.max(SHORTEST_INTERVAL) * LATEST
}

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    probed_at: Option<Instant>,
    parameters: BTreeMap<String, String>,
    md5_verifiers: Vec<String>,
    last: Option<Observation>,
    pub(super) recovery_told_at: Option<Instant>,
    /// When it was last seen to stream.
    streamed_at: Option<Instant>,
}

impl Instance {
    /// Looks once; always answers within a few limits of one query.
    pub(super) async fn observe(&self, interval: Duration) -> Health {
        let limit = longest(interval);
        let due = {
            let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            looks
                .probed_at
                .is_none_or(|last| clock::now().since(last) >= interval.mul_f64(0.9))
        };
        match self.ask(interval, due).await {
            Ok(mut observation) => {
                observation.source = self.source.heard(&observation, interval * LATEST);
                if due {
                    self.source.ask(&self.installation, &observation, limit);
                }
                self.tell_recovery(&observation);
                let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
                looks.last = Some(observation.clone());
                if due {
                    looks.probed_at = Some(clock::now());
                }
                Health::Running(Box::new(observation))
            }
            Err(error) => self.diagnose(error),
        }
    }

    async fn ask(&self, interval: Duration, thorough: bool) -> Result<Observation, Error> {
        let limit = longest(interval);
        if thorough {
            // First: an instance may not answer because of its disk. A write that is a little late is
            // done by the next look, and only one that stays away lasts for all of failInterval.
            self.disk.check(interval.max(SHORTEST_INTERVAL))?;
            self.probe(limit).await?;
        }
        let mut session = self.session.lock().await;
        if session.as_ref().is_none_or(Session::is_closed) {
            *session = Some(Session::connect(&self.target(), limit).await?);
        }
        let Some(open) = session.as_ref() else {
            return Err(Error::NoAnswer {
                what: "connect",
                limit,
            });
        };
        let answer = look(open, thorough, self.is_recovering(), &self.by_scram()).await;
        match answer {
            Ok(Seen {
                answers: seen,
                replayed_until,
                thorough,
            }) => Ok(Observation {
                replayed_until,
                ..self.understand(seen, thorough)
            }),
            Err(error) => {
                // After a missing answer the connection cannot be trusted.
                *session = None;
                Err(error)
            }
        }
    }

    /// A fresh connection over the advertised address: what a client would meet. Any answer of the
    /// server is life, a refusal and the question for a password included. It gets no password: who
    /// answers there is not verified, and would choose how it is told.
    async fn probe(&self, limit: Duration) -> Result<(), Error> {
        let target = Target {
            host: self.config.advertise_address.clone(),
            port: self.config.advertise_port,
            tls: self.config.tls.for_a_sign_of_life(),
            password: None,
            ..self.target()
        };
        match Session::connect(&target, limit).await {
            Ok(_)
            | Err(Error::Query { answered: true, .. } | Error::Refused(_) | Error::Saturated(_)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn understand(
        &self,
        seen: query::Observation,
        thorough: Option<(BTreeMap<String, String>, Vec<String>)>,
    ) -> Observation {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((parameters, md5_verifiers)) = thorough {
            looks.md5_verifiers = md5_verifiers;
            looks.parameters = parameters
                .into_iter()
                .filter(|(name, _)| !is_managed(name))
                .collect();
        }
        let now = clock::now();
        if seen.streams_from.is_some() {
            looks.streamed_at = Some(now);
            self.forget_stream_error();
        }
        let ended = looks.streamed_at.map(|last| now.since(last));
        let stream_error = self.stream_error.lock();
        let stream_error = stream_error.unwrap_or_else(PoisonError::into_inner).clone();
        let peer = |peer: query::Peer| Peer {
            name: peer.name,
            state: peer.state,
            flush_lsn: peer.flush_lsn,
            replay_lsn: peer.replay_lsn,
            sync_state: peer.sync_state,
        };
        let is_ours = |slot: &query::Slot| slot.physical && !slot.temporary;
        Observation {
            in_recovery: seen.in_recovery,
            timeline: seen.timeline,
            flush_lsn: seen.flush_lsn,
            replay_lsn: seen.replay_lsn,
            replayed_until: String::new(),
            system_id: seen.system_id,
            history: history::read(&self.local.pgdata(), seen.timeline),
            synchronous_standby_names: seen.synchronous_standby_names,
            streams_from: seen.streams_from,
            silent_for: seen.message_age.or(ended),
            stream_error,
            source: None,
            replay_age: seen.replay_age,
            taken: seen.taken,
            free_space: data_dir::free_space(&self.local.pgdata().join("pg_wal")).ok(),
            peers: seen.peers.into_iter().map(peer).collect(),
            slots: seen
                .slots
                .into_iter()
                .filter(is_ours)
                .map(|slot| Slot {
                    name: slot.name,
                    active: slot.active,
                    restart_lsn: slot.restart_lsn,
                    wal_status: slot.wal_status,
                })
                .collect(),
            postmaster: data_dir::postmaster_start(&self.local.pgdata()).unwrap_or_default(),
            wal_segment: seen.wal_segment,
            pending_restart: seen.pending_restart,
            refused_parameters: self.refused(),
            oldest_wal_file: seen.oldest_wal_file,
            oldest_wal: seen.oldest_wal,
            md5_verifiers: looks.md5_verifiers.clone(),
            parameters: looks.parameters.clone(),
        }
    }

    /// The users that are to authenticate by SCRAM.
    fn by_scram(&self) -> Vec<&str> {
        let users = [&self.config.superuser, &self.config.replication_user];
        let users = users.into_iter().filter(|user| user.method == SCRAM);
        users.map(|user| user.name.as_str()).collect()
    }

    /// What of the users' settings is not in force, with the reasons.
    fn refused(&self) -> BTreeMap<String, String> {
        let rules = self.refused_access_rules();
        let rules = rules.map(|why| ("pgHBA".to_owned(), why));
        self.refused_parameters().into_iter().chain(rules).collect()
    }

    pub(super) fn forget_stream_error(&self) {
        let last = self.stream_error.lock();
        last.unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn diagnose(&self, error: Error) -> Health {
        let last = self
            .looks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last
            .clone();
        match (error, last) {
            (Error::Saturated(_), Some(last)) => Health::Saturated(Box::new(last)),
            (Error::NotAccepting(why) | Error::Saturated(why), _) => {
                // A standby without the WAL that makes it consistent would start for ever.
                let complaint = self.stream_error.lock();
                let complaint = complaint.unwrap_or_else(PoisonError::into_inner).clone();
                if complaint.is_empty() {
                    Health::Starting(why)
                } else {
                    Health::Starting(format!("{why}: {complaint}"))
                }
            }
            (error, _) => Health::Silent(error.to_string()),
        }
    }

    /// Forgets what was seen of an instance that is no more.
    pub(super) fn forget_looks(&self) {
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = Looks::default();
    }
}

/// The answers of one look.
struct Seen {
    answers: query::Observation,
    replayed_until: String,
    /// Of a thorough one: the parameters, and users whose stored passwords are for md5.
    thorough: Option<(BTreeMap<String, String>, Vec<String>)>,
}

async fn look(
    session: &Session,
    thorough: bool,
    recovers: bool,
    by_scram: &[&str],
) -> Result<Seen, Error> {
    let seen = session.observe().await?;
    let replayed_until = if recovers {
        session.replayed_until().await?
    } else {
        String::new()
    };
    let thorough = if thorough {
        let parameters = session.parameters_from_files().await?;
        let md5_verifiers = if by_scram.is_empty() {
            Vec::new()
        } else {
            session.md5_verifiers(by_scram).await?
        };
        Some((parameters, md5_verifiers))
    } else {
        None
    };
    Ok(Seen {
        answers: seen,
        replayed_until,
        thorough,
    })
}
