//! What Consul answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use super::Published;
use crate::failure::Failure;
use crate::http::{Answer, first_line};
use crate::{Entry, Key, Revision};

/// The header with the index of what was read.
pub(crate) const INDEX: &str = "X-Consul-Index";
/// What the Go program's keys bear: its library takes a key without them for no lock of its own
/// (contract, section 3).
pub(crate) const FLAGS: u64 = 3_304_740_253_564_472_344;

/// A key with its value.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pair {
    pub(crate) key: String,
    #[serde(default, deserialize_with = "decode")]
    pub(crate) value: Vec<u8>,
    pub(crate) modify_index: u64,
    /// The session that holds it.
    #[serde(default)]
    pub(super) session: Option<String>,
}

impl Pair {
    pub(crate) fn entry(self, key: Key) -> Entry {
        Entry {
            key,
            value: self.value,
            revision: Revision(self.modify_index),
        }
    }

    pub(super) fn published(self) -> Published {
        Published {
            at: Some(Revision(self.modify_index)),
            session: self.session,
        }
    }
}

/// Bytes as Consul's JSON has them.
pub(crate) fn encode(value: &[u8]) -> String {
    STANDARD.encode(value)
}

/// No bytes are written as null.
fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    STANDARD
        .decode(text.unwrap_or_default())
        .map_err(serde::de::Error::custom)
}

/// The keys of a read; none is answered by 404.
pub(crate) fn pairs(answer: &Answer) -> Result<Vec<Pair>, Failure> {
    match answer.status {
        200 => answer.json(),
        404 => Ok(Vec::new()),
        _ => Err(failure(answer)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transaction {
    #[serde(default)]
    results: Option<Vec<Done>>,
    #[serde(default)]
    errors: Option<Vec<Refusal>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Done {
    kv: Changed,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Changed {
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    what: String,
}

/// The index that a transaction was stored at, zero when it stored nothing; none: something was
/// not as it expects.
pub(crate) fn transaction(answer: &Answer) -> Result<Option<Revision>, Failure> {
    match answer.status {
        200 => {
            let done: Transaction = answer.json()?;
            let last = done.results.unwrap_or_default().pop();
            Ok(Some(Revision(last.map_or(0, |done| done.kv.modify_index))))
        }
        409 => {
            let refused: Transaction = answer.json()?;
            let reasons = refused.errors.unwrap_or_default();
            let denied = reasons.iter().find(|reason| is_denied(&reason.what));
            match denied {
                Some(reason) => {
                    let text = first_line(&reason.what);
                    Err(Failure::refused(format!("{text}{ACL_REMEDY}")))
                }
                None => Ok(None),
            }
        }
        _ => Err(failure(answer)),
    }
}

const ACL_REMEDY: &str = " (the ACL token must allow key:write below --store-prefix and \
     session:write: --store-token-file, or CONSUL_HTTP_TOKEN)";

fn is_denied(text: &str) -> bool {
    text.contains("Permission denied") || text.contains("ACL not found")
}

/// Answers of a server that did nothing, because it had nobody to ask.
const NO_LEADER: [&str; 2] = ["No cluster leader", "No known Consul servers"];

/// What an answer that says nothing of the question means for the call.
pub(crate) fn failure(answer: &Answer) -> Failure {
    let text = answer.text();
    if answer.status == 403 || is_denied(&text) {
        return Failure::refused(format!("{text}{ACL_REMEDY}"));
    }
    if NO_LEADER.iter().any(|words| text.contains(words)) || answer.status == 429 {
        return Failure::did_nothing(text);
    }
    match answer.status {
        413 => Failure::refused(format!(
            "{text} (see kv_max_value_size and txn_max_req_len of the agent)"
        )),
        400..=499 => Failure::refused(text),
        // "No path to datacenter": another agent may know one, but none will by waiting.
        _ if text.contains("No path to datacenter") => {
            Failure::refused(format!("{text} (--store-datacenter)"))
        }
        _ => Failure::unavailable(text),
    }
}
