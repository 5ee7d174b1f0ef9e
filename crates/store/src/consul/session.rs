//! Sessions: what a key hangs on that is to disappear, and what holds a lock.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::agent::Agent;
use super::answer;
use crate::Error;
use crate::failure::Failure;
use crate::http::Answer;

/// The bounds that Consul sets to a session's TTL.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_hours(24);

/// What becomes of the keys that a session holds when it ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behavior {
    /// They go.
    Delete,
    /// They stay, held by nobody.
    Release,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Created {
    id: String,
}

/// Makes a session. It ends when it is not renewed for `ttl`, within Consul's bounds, or up to as
/// much later; or when the agent's host is lost.
pub(super) async fn create(
    agent: &Agent,
    behavior: Behavior,
    ttl: Duration,
    end: Instant,
) -> Result<String, Error> {
    let behavior = match behavior {
        Behavior::Delete => "delete",
        Behavior::Release => "release",
    };
    let ttl = ttl.clamp(SHORTEST, LONGEST).as_millis();
    // Consul holds a key back for a while after its session was lost, by default 15 s: there is no
    // need, because every write of the cluster data says what it expects (I4).
    let session = json!({
        "Behavior": behavior, "TTL": format!("{ttl}ms"), "LockDelay": "1ms", "Name": "stolon"
    });
    let request = agent
        .request(Method::PUT, ["v1", "session", "create"])
        .body("application/json", session.to_string().into_bytes());
    let ask = |client| {
        let request = request.clone();
        async move {
            let answer = agent.send(&client, request).await?;
            if answer.status != 200 {
                return Err(answer::failure(&answer));
            }
            created(&answer)
        }
    };
    agent.pool.call(end, ask).await.result
}

/// Reads the name of a session that was made.
pub(crate) fn created(answer: &Answer) -> Result<String, Failure> {
    let created: Created = answer.json()?;
    Ok(created.id)
}

/// Lets a session live on; false: it has ended.
pub(super) async fn renew(agent: &Agent, id: &str, end: Instant) -> Result<bool, Error> {
    let request = agent.request(Method::PUT, ["v1", "session", "renew", id]);
    let ask = |client| {
        let request = request.clone();
        async move {
            let answer = agent.send(&client, request).await?;
            match answer.status {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(answer::failure(&answer)),
            }
        }
    };
    agent.pool.call(end, ask).await.result
}

/// Ends a session.
pub(super) async fn destroy(agent: &Agent, id: &str, end: Instant) -> Result<(), Error> {
    let request = agent.request(Method::PUT, ["v1", "session", "destroy", id]);
    let ask = |client| {
        let request = request.clone();
        async move {
            let answer = agent.send(&client, request).await?;
            match answer.status {
                200 => Ok(()),
                _ => Err(answer::failure(&answer)),
            }
        }
    };
    agent.pool.call(end, ask).await.result
}
