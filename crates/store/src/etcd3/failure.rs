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
    "etcdserver: no leader",
    "etcdserver: too many requests",
];
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
            return Self::did_nothing(text);
        }
        let refused = |remedy: &str| Self::refused(format!("{text}{remedy}"));
        match status.code() {
            Code::Unauthenticated => refused(AUTHENTICATION_REMEDY),
            Code::InvalidArgument if text.contains("user name is empty") => {
                refused(AUTHENTICATION_REMEDY)
            }
            Code::PermissionDenied => refused(PERMISSION_REMEDY),
            Code::ResourceExhausted if text.contains("database space exceeded") => refused(
                " (compact and defragment etcd, then disarm its alarm: etcdctl alarm disarm)",
            ),
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

const AUTHENTICATION_REMEDY: &str = " (etcd's authentication is on: give a client certificate \
     whose common name is an etcd user, by --store-cert-file and --store-key)";
const PERMISSION_REMEDY: &str =
    " (the role of this etcd user must allow reading and writing below --store-prefix)";

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
