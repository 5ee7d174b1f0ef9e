//! What can go wrong with an instance.

use std::path::{Path, PathBuf};

/// A failed effect or observation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL's programs are not there, or of a version that is not supported.
    #[error("{0}")]
    Installation(String),
    /// A file or folder could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// The instance does not answer in time.
    #[error("no answer from the instance within {limit:?} ({what})")]
    NoAnswer {
        /// What was asked.
        what: &'static str,
        /// The time allowed.
        limit: std::time::Duration,
    },
    /// The instance lives and has no connection left (SQLSTATE 53300).
    #[error("the instance has no connection left: {0}")]
    Saturated(String),
    /// The instance lives and does not accept connections yet, or any more (SQLSTATE 57P03).
    #[error("the instance does not accept connections now: {0}")]
    NotAccepting(String),
    /// The instance's access rules do not let the connection in (SQLSTATE 28000).
    #[error("the instance lets this connection not in: {0}")]
    Refused(String),
    /// The instance refused or failed a query or connection.
    #[error("the instance refused ({what}): {cause}")]
    Query {
        /// What was asked.
        what: &'static str,
        /// In its words.
        cause: String,
        /// Whether it was the server that said so: then it is alive.
        answered: bool,
    },
    /// Data cannot be rewound, or were and are not what they should be.
    #[error("cannot rewind the data: {0}")]
    Rewound(String),
    /// A certificate or key cannot be used.
    #[error("cannot use certificates: {0}")]
    Tls(String),
    /// What was read is not what it should be.
    #[error("cannot understand {what}: {text:?}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What it was.
        text: String,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
