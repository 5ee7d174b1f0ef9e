//! A question for changes to etcd's version 2 API: a request that is answered by the next change.

use std::time::Duration;

use reqwest::Method;

use super::answer::{self, CLEARED, INDEX};
use crate::failure::Failure;
use crate::http::following::{Heard, Question, SILENCE};
use crate::http::{Answer, Client};

/// Changes in a folder, at any depth.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) folder: String,
}

impl Question for Changes {
    async fn ask(
        &self,
        client: Client,
        from: Option<u64>,
        answer: Duration,
    ) -> Result<Heard, Failure> {
        match from {
            None => present(&client, &self.folder, answer).await,
            Some(from) => next(&client, &self.folder, from, answer).await,
        }
    }
}

/// The index that the next change has.
async fn present(client: &Client, folder: &str, limit: Duration) -> Result<Heard, Failure> {
    // The folder may be absent; the index comes all the same.
    let request = super::request(Method::GET, folder).query("quorum", &true);
    let answer = within(limit, client.send(request)).await?;
    if !matches!(answer.status, 200 | 404) {
        return Err(answer::refusal(&answer)?.failure());
    }
    let index = match answer.number(INDEX) {
        Some(index) => index,
        None => answer::refusal(&answer)?.index,
    };
    Ok(Heard::Change(index.checked_add(1)))
}

/// The next change at `from` or later.
async fn next(client: &Client, folder: &str, from: u64, limit: Duration) -> Result<Heard, Failure> {
    let request = super::request(Method::GET, folder)
        .query("wait", &true)
        .query("recursive", &true)
        .query("waitIndex", &from);
    // The server says at once, by the headers, that it watches, and from where.
    let begun = within(limit, client.begin(request)).await?;
    let index = begun.number(INDEX);
    if begun.status() != 200 {
        let refusal = answer::refusal(&within(limit, begun.read()).await?)?;
        if refusal.error_code == CLEARED {
            // It keeps a thousand events of all its users; what was missed is seen by reading.
            return Ok(Heard::Change(None));
        }
        return Err(refusal.failure());
    }
    let next = index.map(|index| index.saturating_add(1));
    if next.is_some_and(|next| next < from) {
        // etcd was set up anew or restored: it would be silent until it catches up.
        return Ok(Heard::Change(None));
    }
    match tokio::time::timeout(SILENCE, begun.read()).await {
        // Up to the index of the headers nothing has happened, or it had been told at once.
        Err(_) => Ok(Heard::Silence(from.max(next.unwrap_or(0)))),
        Ok(answer) => heard(&answer?),
    }
}

/// Reads the answer to a question that waited.
pub(crate) fn heard(answer: &Answer) -> Result<Heard, Failure> {
    // The server ends watches that cannot follow, or whose member is lost, with nothing.
    if answer.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Heard::Change(None));
    }
    let change: Event = answer.json()?;
    Ok(Heard::Change(change.node.modified_index.checked_add(1)))
}

#[derive(serde::Deserialize)]
struct Event {
    node: answer::Node,
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let timeout = |_| Err(Failure::timeout(limit));
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(timeout)
}
