//! Why the API server did not do what was asked, in words.

use std::error::Error as StdError;

use kube::client::AuthError;
use kube::core::Status;

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
        429 => Failure::did_nothing(said),
        400..=499 => Failure::refused(said),
        // A server before it, or etcd behind it, may have given up on what is done all the same.
        _ => Failure::unavailable(said),
    }
}

/// What became of the connection.
fn transport(error: &(dyn StdError + 'static)) -> Failure {
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
