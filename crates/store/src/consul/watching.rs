//! A question for changes to Consul: a read that is answered when there is something new.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;

use super::agent::Agent;
use super::answer;
use crate::failure::Failure;
use crate::http::Client;
use crate::http::following::{Heard, Question, SILENCE};

/// Changes of keys that begin with a path.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) agent: Arc<Agent>,
    pub(super) folder: String,
}

impl Question for Changes {
    async fn ask(
        &self,
        client: Client,
        from: Option<u64>,
        answer: Duration,
    ) -> Result<Heard, Failure> {
        let request = self.agent.key(Method::GET, &self.folder).query("keys", "");
        let (request, limit) = match from {
            None => (request, answer),
            // Consul adds up to a sixteenth to the wait.
            Some(index) => (
                request
                    .query("index", &index)
                    .query("wait", &format!("{}s", SILENCE.as_secs())),
                SILENCE + SILENCE / 16 + answer,
            ),
        };
        let asked = tokio::time::timeout(limit, self.agent.send(&client, request));
        let answer = asked.await.map_err(|_| Failure::timeout(limit))??;
        if !matches!(answer.status, 200 | 404) {
            return Err(answer::failure(&answer));
        }
        let index = answer.number(answer::INDEX).unwrap_or(0);
        Ok(match from {
            Some(from) if from == index => Heard::Silence(index),
            // It went back: the servers were set up anew or restored (Consul's manual, "Blocking
            // Queries"). Zero would be answered at once, for ever.
            Some(from) if index < from => Heard::Change(None),
            Some(_) | None => Heard::Change((index > 0).then_some(index)),
        })
    }
}
