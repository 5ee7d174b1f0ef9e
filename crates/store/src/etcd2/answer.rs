//! What etcd's version 2 API answers.

use serde::Deserialize;

use crate::failure::Failure;
use crate::http::{Answer, first_line};
use crate::{Entry, Key, Revision};

/// The header with the index of the whole store.
pub(crate) const INDEX: &str = "X-Etcd-Index";

/// A key with its value, or a folder.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct Node {
    /// Its whole path, with a leading slash.
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) dir: bool,
    /// What lies in a folder.
    pub(crate) nodes: Vec<Node>,
    pub(crate) modified_index: u64,
}

impl Node {
    pub(crate) fn entry(self, key: Key) -> Entry {
        Entry {
            key,
            value: self.value.into_bytes(),
            revision: Revision(self.modified_index),
        }
    }
}

/// A definite answer.
#[derive(Debug)]
pub(crate) enum Said {
    /// Read or written; a removed node bears the index of its removal.
    Done {
        node: Node,
        /// Of the whole store.
        index: u64,
    },
    /// No such key.
    Absent {
        /// Of the whole store.
        index: u64,
    },
    /// The key was not as expected.
    Conflict,
}

#[derive(Deserialize)]
struct Action {
    node: Node,
}

/// A refusal (etcd's manual, "Error codes").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refusal {
    pub(crate) error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    pub(crate) index: u64,
}

/// What was asked for is older than the events that are kept.
pub(crate) const CLEARED: u32 = 401;
const KEY_NOT_FOUND: u32 = 100;
const COMPARE_FAILED: u32 = 101;
const NODE_EXISTS: u32 = 105;
const UNAUTHORIZED: u32 = 110;
const RAFT: u32 = 300;
const LEADER_ELECTION: u32 = 301;

/// Reads an answer; a failure when it says nothing of the key.
pub(crate) fn read(answer: &Answer) -> Result<Said, Failure> {
    if matches!(answer.status, 200 | 201) {
        let action: Action = answer.json()?;
        let index = answer.number(INDEX).unwrap_or(action.node.modified_index);
        let node = action.node;
        return Ok(Said::Done { node, index });
    }
    let refusal = refusal(answer)?;
    match refusal.error_code {
        KEY_NOT_FOUND => Ok(Said::Absent {
            index: refusal.index,
        }),
        COMPARE_FAILED | NODE_EXISTS => Ok(Said::Conflict),
        _ => Err(refusal.failure()),
    }
}

/// Reads what is no answer to the question.
pub(crate) fn refusal(answer: &Answer) -> Result<Refusal, Failure> {
    if answer.status == 404 && !answer.body.starts_with(b"{") {
        return Err(Failure::refused(format!(
            "{} (its version 2 API is off: start etcd with --enable-v2=true, or use \
             --store-backend=etcdv3)",
            answer.text()
        )));
    }
    match serde_json::from_slice(&answer.body) {
        Ok(refusal) => Ok(refusal),
        Err(_) if matches!(answer.status, 401 | 403) => {
            Err(Failure::refused(format!("{}{USER_REMEDY}", answer.text())))
        }
        Err(_) => Err(Failure::unavailable(answer.text())),
    }
}

const USER_REMEDY: &str = " (its authentication is on: give a user that may read and write below \
     --store-prefix, by --store-username and --store-password-file)";

impl Refusal {
    /// What it means for the call.
    pub(crate) fn failure(self) -> Failure {
        let mut text = first_line(&self.message);
        let cause = first_line(&self.cause);
        if !cause.is_empty() {
            text = format!("{text}: {cause}");
        }
        if text.is_empty() {
            text = format!("etcd's error {}", self.error_code);
        }
        match self.error_code {
            UNAUTHORIZED => Failure::refused(format!("{text}{USER_REMEDY}")),
            RAFT | LEADER_ELECTION | CLEARED => Failure::unavailable(text),
            _ => Failure::refused(text),
        }
    }
}
