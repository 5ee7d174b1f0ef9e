//! Why a try at one endpoint failed, and whether it may have been carried out all the same.
//!
//! The codes do not suffice: a broken connection is `Unknown` or `Cancelled` here, so messages are
//! read too (dependencies.md, 3.1 and 3.6).

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client::Error as EtcdError;
use tonic::Code;

/// What kind of failure it is: each is told, and gone on from, in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No answer in time.
    Timeout,
    /// No connection.
    Unreachable,
    /// A broken connection, or a server that cannot serve now.
    Unavailable,
    /// No TLS connection: the two do not accept each other.
    Tls,
    /// A definite refusal: another endpoint would say the same.
    Refused,
}

/// A failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// In the words of who refused, with a remedy where there is one.
    pub(super) text: String,
    /// Whether what was asked may have been done, or be done later.
    pub(super) doubtful: bool,
}

/// Answers that mean that the server did nothing, although another one may.
const DONE_NOTHING: [&str; 3] = [
    "not supported for learner",
    "etcdserver: no leader",
    "etcdserver: too many requests",
];
/// What rustls, or a server through an alert, says when there is no TLS connection.
const TLS_WORDS: [&str; 7] = [
    "tls handshake eof",
    "invalid peer certificate",
    "received fatal alert",
    "received corrupt message",
    "peer is incompatible",
    "peer misbehaved",
    "HTTP/2 was not negotiated",
];

impl Failure {
    pub(super) fn timeout(limit: Duration) -> Self {
        Self {
            kind: Kind::Timeout,
            text: format!("no answer within {limit:.1?}"),
            doubtful: true,
        }
    }

    pub(super) fn new(error: &EtcdError) -> Self {
        let EtcdError::GRpcStatus(status) = error else {
            return Self {
                kind: Kind::Unavailable,
                text: error.to_string(),
                doubtful: true,
            };
        };
        let text = match status.source() {
            Some(cause) => innermost(cause),
            None => status.message().to_owned(),
        };
        if let Some(word) = TLS_WORDS.iter().find(|word| text.contains(**word)) {
            return Self {
                kind: Kind::Tls,
                text: format!("{text}{}", tls_remedy(&text)),
                // An alert after the handshake cannot be told from a break of the connection.
                doubtful: *word == "received fatal alert" && !never_connected(status),
            };
        }
        if never_connected(status) {
            return Self {
                kind: Kind::Unreachable,
                text,
                doubtful: false,
            };
        }
        if DONE_NOTHING.iter().any(|words| text.contains(words)) {
            return Self {
                kind: Kind::Unavailable,
                text,
                doubtful: false,
            };
        }
        let refused = |remedy: &str| Self {
            kind: Kind::Refused,
            text: format!("{text}{remedy}"),
            doubtful: false,
        };
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
            | Code::DataLoss => Self {
                kind: Kind::Unavailable,
                text,
                doubtful: true,
            },
        }
    }
}

const AUTHENTICATION_REMEDY: &str = " (etcd's authentication is on: give a client certificate \
     whose common name is an etcd user, by --store-cert-file and --store-key)";
const PERMISSION_REMEDY: &str =
    " (the role of this etcd user must allow reading and writing below --store-prefix)";

fn tls_remedy(text: &str) -> &'static str {
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        " (give the authority that signed the server's certificate by --store-ca-file)"
    } else if text.contains("NotValidForName") {
        " (the server's certificate is not for this host: use a name that it contains)"
    } else if text.contains("Expired") {
        " (renew the server's certificate, or set the clocks)"
    } else if text.contains("corrupt message") || text.contains("handshake eof") {
        " (the endpoint does not speak TLS: is it http?)"
    } else if text.contains("fatal alert") {
        " (the server does not accept our certificate: give one that its authority signed, by \
         --store-cert-file and --store-key)"
    } else {
        ""
    }
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

/// The text of the deepest cause: the ones above it only say which layer passed it on.
pub(super) fn innermost(error: &dyn StdError) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
