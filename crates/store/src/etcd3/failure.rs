//! What etcd's errors mean.
//!
//! The codes do not suffice: a broken connection is `Unknown` or `Cancelled` here, so messages are
//! read too (dependencies.md, 3.1 and 3.6).

use std::error::Error as StdError;

use etcd_client::Error as EtcdError;
use tonic::Code;

use crate::failure::{Failure, Kind, innermost};

/// Answers that mean that the server did nothing, although another one may.
const DONE_NOTHING: [&str; 3] = [
    "not supported for learner",
    NO_LEADER,
    "etcdserver: too many requests",
];
const NO_LEADER: &str = "etcdserver: no leader";
/// The server asks for a user, and was told none.
pub(super) const NO_USER: &str = "user name is empty";
/// The token by which a user is known has expired, or is from before a change of users or roles.
const OLD_TOKENS: [&str; 2] = ["invalid auth token", "revision of auth store is old"];

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        let EtcdError::GRpcStatus(status) = &error else {
            return Self::unavailable(error.to_string());
        };
        let text = match status.source() {
            Some(cause) => innermost(cause),
            None => status.message().to_owned(),
        };
        let broken = Self::connection(text.clone(), never_connected(status));
        if broken.kind != Kind::Unavailable {
            return broken;
        }
        if DONE_NOTHING.iter().any(|words| text.contains(words)) {
            let remedy = if text.contains(NO_LEADER) {
                MAJORITY_REMEDY
            } else {
                ""
            };
            return Self::did_nothing(format!("{text}{remedy}"));
        }
        let refused = |remedy: &str| Self::refused(format!("{text}{remedy}"));
        match status.code() {
            Code::Unauthenticated => refused(AUTHENTICATION_REMEDY),
            Code::InvalidArgument if text.contains(NO_USER) => refused(AUTHENTICATION_REMEDY),
            Code::InvalidArgument if text.contains("authentication failed") => {
                refused(PASSWORD_REMEDY)
            }
            Code::PermissionDenied => refused(PERMISSION_REMEDY),
            Code::ResourceExhausted if text.contains("database space exceeded") => {
                refused(SPACE_REMEDY)
            }
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => refused(""),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => broken,
        }
    }
}

const AUTHENTICATION_REMEDY: &str = " (etcd's authentication is on: give a user by --store-username \
     and --store-password-file, or a client certificate whose common name is one by --store-cert-file \
     and --store-key)";
const PASSWORD_REMEDY: &str = " (etcd has no such user with the password in --store-password-file)";
const MAJORITY_REMEDY: &str = " (most of etcd's members are down, or do not reach each other: \
     etcdctl endpoint health --cluster)";
const SPACE_REMEDY: &str = " (etcd takes nothing until it has room: etcdctl compact and defrag, then \
     etcdctl alarm disarm; have it compact by itself with --auto-compaction-retention)";
const PERMISSION_REMEDY: &str =
    " (the role of this etcd user must allow reading and writing below --store-prefix)";

/// Whether a refusal says that the user is to authenticate anew.
pub(super) fn is_old_token(text: &str) -> bool {
    OLD_TOKENS.iter().any(|words| text.contains(words))
}

/// Whether the error says that the servers know no users at present.
pub(super) fn authentication_is_off(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}

/// Whether the error says that a lease is gone, which is an answer and no failure.
pub(super) fn lease_is_gone(error: &EtcdError) -> bool {
    match error {
        EtcdError::LeaseKeepAliveError(text) => text == "lease not found",
        EtcdError::GRpcStatus(status) => {
            status.code() == Code::NotFound && status.message().contains("lease not found")
        }
        _ => false,
    }
}

/// Whether the request was never sent, because there was no connection to send it on.
fn never_connected(status: &tonic::Status) -> bool {
    let mut next = status.source();
    while let Some(cause) = next {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        next = cause.source();
    }
    false
}
