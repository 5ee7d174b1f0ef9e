//! The last decisions that changed something, kept for people under the key `history` (contract,
//! section 8). No decision reads it.

use serde::{Deserialize, Serialize};

use super::wire::WireError;
use super::{SentinelUid, Unknown};
use crate::reason::Reason;
use crate::time::Timestamp;

/// The most that is stored, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;

/// The last decisions, oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    /// The decisions.
    pub decisions: Vec<Decision>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub sentinel: SentinelUid,
    /// Why.
    pub reasons: Vec<Reason>,
}

impl History {
    /// Adds the newest decision.
    pub fn append(&mut self, decision: Decision) {
        self.decisions.push(decision);
    }

    /// As it is stored: the oldest decisions are left out until it is small enough.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        let mut kept = self.clone();
        loop {
            let bytes = super::wire::write(&kept)?;
            if bytes.len() <= MOST_BYTES || kept.decisions.is_empty() {
                return Ok(bytes);
            }
            let excess = (kept.decisions.len() / 8).max(1);
            kept.decisions.drain(..excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decision, History, MOST_BYTES};
    use crate::model::SentinelUid;
    use crate::reason::Reason;
    use crate::time::Timestamp;

    #[test]
    fn the_oldest_decisions_give_way() {
        let mut history = History::default();
        for number in 0..2000 {
            let reasons = vec![Reason::info(
                "n",
                format!("decision {number} {}", "x".repeat(50)),
            )];
            let sentinel = SentinelUid::from("s");
            history.append(Decision {
                at: Timestamp::ZERO,
                sentinel,
                reasons,
            });
        }
        let bytes = history.to_bytes().expect("written");
        assert!(
            bytes.len() <= MOST_BYTES && bytes.len() > MOST_BYTES / 2,
            "{}",
            bytes.len()
        );
        let kept: History = serde_json::from_slice(&bytes).expect("read");
        assert_eq!(kept.decisions.last(), history.decisions.last());
    }
}
