//! Why a try at one endpoint failed, and whether it may have been carried out all the same.

use std::error::Error as StdError;
use std::time::Duration;

/// What kind of failure it is: each is told, and gone on from, in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No answer in time.
    Timeout,
    /// No connection.
    Unreachable,
    /// A broken connection, or a server that cannot serve now.
    Unavailable,
    /// No TLS connection: the two do not accept each other.
    Tls,
    /// A server that is well, did nothing, and wants to be asked again later.
    #[cfg_attr(
        not(feature = "kubernetes"),
        expect(dead_code, reason = "only API servers say so")
    )]
    Busy,
    /// A definite refusal: another endpoint would say the same.
    Refused,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// In the words of who refused, with a remedy where there is one.
    pub(crate) text: String,
    /// Whether what was asked may have been done, or be done later.
    pub(crate) doubtful: bool,
    /// How long the server wants not to be asked again.
    pub(crate) wait: Duration,
}

/// No server is left alone for longer, whatever it says.
#[cfg(feature = "kubernetes")]
const LONGEST_WAIT: Duration = Duration::from_mins(1);

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
    pub(crate) fn timeout(limit: Duration) -> Self {
        Self {
            kind: Kind::Timeout,
            text: format!("no answer within {limit:.1?}"),
            doubtful: true,
            wait: Duration::ZERO,
        }
    }

    /// A server's definite no, after which nothing was done.
    pub(crate) fn refused(text: String) -> Self {
        Self {
            kind: Kind::Refused,
            text,
            doubtful: false,
            wait: Duration::ZERO,
        }
    }

    /// A broken connection, or an answer that leaves open what was done.
    pub(crate) fn unavailable(text: String) -> Self {
        Self {
            kind: Kind::Unavailable,
            text,
            doubtful: true,
            wait: Duration::ZERO,
        }
    }

    /// A server that did nothing, and is to be asked again after `wait`.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn busy(text: String, wait: Duration) -> Self {
        Self {
            kind: Kind::Busy,
            text,
            doubtful: false,
            wait: wait.min(LONGEST_WAIT),
        }
    }

    /// A server that cannot serve, and did nothing.
    pub(crate) fn did_nothing(text: String) -> Self {
        Self {
            doubtful: false,
            ..Self::unavailable(text)
        }
    }

    /// What ended a connection, in the words of its innermost cause; `unused`: the request was
    /// never sent.
    pub(crate) fn connection(text: String, unused: bool) -> Self {
        if let Some(word) = TLS_WORDS.iter().find(|word| text.contains(**word)) {
            return Self {
                kind: Kind::Tls,
                text: format!("{text}{}", tls_remedy(&text)),
                // An alert after the handshake cannot be told from a break of the connection.
                doubtful: *word == "received fatal alert" && !unused,
                wait: Duration::ZERO,
            };
        }
        if unused {
            return Self {
                kind: Kind::Unreachable,
                text,
                doubtful: false,
                wait: Duration::ZERO,
            };
        }
        Self::unavailable(text)
    }
}

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

/// The text of the deepest cause: the ones above it only say which layer passed it on.
pub(crate) fn innermost(error: &dyn StdError) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
