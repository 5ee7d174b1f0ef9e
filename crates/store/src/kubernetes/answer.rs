//! Why the API server did not do what was asked, in words.

use std::error::Error as StdError;
use std::time::Duration;

use http::{Response, StatusCode, header};
use kube::client::AuthError;
use kube::core::Status;
use tower::BoxError;

use super::access::Client;
use crate::failure::{Failure, Kind, innermost};

/// What is asked of the server: as a Role would have to name it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// As `get`.
    pub(super) verb: &'static str,
    /// As `configmaps`.
    pub(super) resource: &'static str,
    /// Of the one that is meant; empty: of several.
    pub(super) name: String,
}

/// A definite answer that is no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// No such object.
    Absent,
    /// It is there already, or is another one than was expected.
    Conflict,
}

/// What the library has for the reason of an answer that no API server wrote.
const NO_STATUS: &str = "Failed to parse error data";

/// When a server that is too busy is asked again, if it does not say.
const WAIT: Duration = Duration::from_secs(1);

/// The server has too many requests, and looks at none.
#[derive(Debug, thiserror::Error)]
#[error("too many requests")]
pub(super) struct TooMany {
    /// How long it wants not to be asked again.
    wait: Duration,
}

/// Finds the answer of a server that has too many requests. In place of a refusal like its others it
/// is bare text with a header, which the library does not show (Kubernetes' manual, "API Priority
/// and Fairness").
pub(super) fn heeded<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let answer = answer?;
    let header = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let is_status = header(header::CONTENT_TYPE).is_some_and(|kind| kind.contains("json"));
    if answer.status() != StatusCode::TOO_MANY_REQUESTS || is_status {
        return Ok(answer);
    }
    let seconds = header(header::RETRY_AFTER).and_then(|text| text.parse::<u32>().ok());
    let wait = Duration::from_secs(seconds.unwrap_or_default().into()).max(WAIT);
    Err(TooMany { wait }.into())
}

/// Reads an answer; a failure when it says nothing of the object.
pub(super) fn read<T>(
    answer: kube::Result<T>,
    client: &Client,
    asked: &Asked,
) -> Result<Result<T, Without>, Failure> {
    let error = match answer {
        Ok(object) => return Ok(Ok(object)),
        Err(error) => error,
    };
    if let kube::Error::Api(status) = &error {
        let of_object = asked.verb != "create";
        // By its own word: what stands before an API server says 404 too.
        match (status.code, status.reason.as_str()) {
            (404, "NotFound") if of_object => return Ok(Err(Without::Absent)),
            (409, "Conflict" | "AlreadyExists") => return Ok(Err(Without::Conflict)),
            _ => {}
        }
    }
    Err(failure(&error, client, asked))
}

/// What a call failed with.
pub(super) fn failure(error: &kube::Error, client: &Client, asked: &Asked) -> Failure {
    match error {
        kube::Error::Api(status) => refusal(status, client.is_new(), asked),
        kube::Error::Auth(error) => Failure::did_nothing(credentials(error)),
        kube::Error::Service(error) => transport(error.as_ref()),
        other => transport(other),
    }
}

/// What the making of a client failed with.
pub(super) fn not_made(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Auth(error) => Failure::did_nothing(credentials(error)),
        other => Failure::did_nothing(innermost(other)),
    }
}

/// What the server says no with. `is_new`: our credentials were read just now.
fn refusal(status: &Status, is_new: bool, asked: &Asked) -> Failure {
    let Asked {
        verb,
        resource,
        name,
    } = asked;
    let said = status.message.lines().next().unwrap_or_default();
    let said = if said.is_empty() {
        format!("HTTP status {}", status.code)
    } else {
        said.to_owned()
    };
    if status.reason == NO_STATUS {
        let text = format!(
            "HTTP status {} of something that is no API server",
            status.code
        );
        return Failure::unavailable(text);
    }
    match status.code {
        // A new client reads the credentials again.
        401 if !is_new => Failure::did_nothing(said),
        401 => Failure::refused(format!(
            "{said} (who we are is not accepted: is the token of the service account or of the \
             kubeconfig expired, or another cluster's?)"
        )),
        403 => Failure::refused(format!(
            "{said} (the Role of this service account must allow: {verb} {resource} {name}; \
             docs/stores.md has one that suffices)"
        )),
        429 => Failure::busy(said, wait(status)),
        400..=499 => Failure::refused(said),
        // A server before it, or etcd behind it, may have given up on what is done all the same.
        _ => Failure::unavailable(said),
    }
}

/// How long the server wants not to be asked.
fn wait(status: &Status) -> Duration {
    let details = status.details.as_ref();
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(seconds.into()).max(WAIT)
}

/// What became of the connection.
fn transport(error: &(dyn StdError + 'static)) -> Failure {
    if let Some(busy) = error.downcast_ref::<TooMany>() {
        return Failure::busy(busy.to_string(), busy.wait);
    }
    let unused = error
        .downcast_ref::<hyper_util::client::legacy::Error>()
        .is_some_and(hyper_util::client::legacy::Error::is_connect);
    let text = innermost(error);
    let failure = Failure::connection(text.clone(), unused);
    if failure.kind != Kind::Tls {
        return failure;
    }
    let text =
        format!("{text} (the kubeconfig says whose certificates are accepted, and has ours)");
    Failure { text, ..failure }
}

/// Why there are no credentials. What a program printed on its output is not shown, nor how it was called:
/// they are in its environment, its arguments, or its answer.
fn credentials(error: &AuthError) -> String {
    if let AuthError::AuthExecRun { out, .. } = error {
        let said = String::from_utf8_lossy(&out.stderr);
        let said = said.trim().lines().next_back().unwrap_or_default();
        return format!(
            "the kubeconfig's program for credentials failed with {}: {said}",
            out.status
        );
    }
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
