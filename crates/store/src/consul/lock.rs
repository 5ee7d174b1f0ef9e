//! The leadership of the sentinels in Consul, as the Go program has it: a key that the leader's
//! session holds (contract, section 3).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;

use super::agent::Agent;
use super::answer::{self, FLAGS};
use super::session::{self, Behavior};
use crate::Error;
use crate::leadership::Lease;

/// The key as this candidate knows it.
#[derive(Debug)]
pub(super) struct Lock {
    agent: Arc<Agent>,
    path: String,
    uid: String,
    session: Mutex<Option<String>>,
}

impl Lock {
    pub(super) fn new(agent: Arc<Agent>, path: String, uid: &str) -> Self {
        Self {
            agent,
            path,
            uid: uid.to_owned(),
            session: Mutex::default(),
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<String>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of before, renewed; none: there was none, or it has ended.
    async fn renewed(&self) -> Result<Option<String>, Error> {
        let Some(id) = self.session().clone() else {
            return Ok(None);
        };
        let end = self.agent.pool.deadline();
        let lives = session::renew(&self.agent, &id, end).await?;
        if !lives {
            *self.session() = None;
        }
        Ok(lives.then_some(id))
    }

    /// Takes the key for a session, or gives it back; false: another one holds it, or Consul holds
    /// it back. The value is written either way, and stays.
    async fn change(&self, what: &'static str, session: &str) -> Result<bool, Error> {
        let request = self
            .agent
            .key(Method::PUT, &self.path)
            .query(what, session)
            .query("flags", &FLAGS)
            .body("text/plain", self.uid.clone().into_bytes());
        let ask = |client| {
            let request = request.clone();
            async move {
                let answer = self.agent.send(&client, request).await?;
                if answer.status != 200 {
                    return Err(answer::failure(&answer));
                }
                Ok(answer.body.starts_with(b"true"))
            }
        };
        let end = self.agent.pool.deadline();
        self.agent.pool.call(end, ask).await.result
    }
}

#[async_trait::async_trait]
impl Lease for Lock {
    async fn hold(&self, _: &str, _: &str, ttl: Duration) -> Result<bool, Error> {
        let renewed = self.renewed().await?;
        let end = self.agent.pool.deadline();
        let holder = self.agent.read(&self.path, end).await?.0;
        if let Some(holder) = holder.and_then(|pair| pair.session) {
            return Ok(renewed.as_ref() == Some(&holder));
        }
        let session = if let Some(session) = renewed {
            session
        } else {
            let end = self.agent.pool.deadline();
            session::create(&self.agent, Behavior::Release, ttl, end).await?
        };
        *self.session() = Some(session.clone());
        self.change("acquire", &session).await
    }

    async fn release(&self, _: &str) -> Result<(), Error> {
        let Some(session) = self.session().take() else {
            return Ok(());
        };
        // First the key: one that is lost with its session is held back for the lock delay.
        self.change("release", &session).await?;
        session::destroy(&self.agent, &session, self.agent.pool.deadline()).await
    }
}
