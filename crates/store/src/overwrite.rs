//! Writes that overwrite whatever is there, by writes that say what they expect.
//!
//! Only so can a write be tried again at another endpoint after one gave no answer: the first try
//! may still be carried out when a frozen server wakes up, and must not undo what came after it.

use tokio::time::Instant;

use crate::{Error, Expected, Key, Revision, Written};

/// How often such a write starts again because another writer was faster. The time allowed for the
/// call ends it sooner.
const ROUNDS: u32 = 100;

/// What a store offers for it.
#[async_trait::async_trait]
pub(crate) trait Guarded: Sync {
    /// When a key was last written, if it is there, and the present revision of the store.
    async fn written_at(
        &self,
        key: &Key,
        end: Instant,
    ) -> Result<(Option<Revision>, Revision), Error>;

    /// Writes, or with no value removes, a key if it is as expected.
    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Option<&[u8]>,
        end: Instant,
    ) -> Written;
}

/// Writes, or with no value removes, a key, whatever it holds. `store`: its name in messages.
pub(crate) async fn overwrite(
    guarded: &impl Guarded,
    store: String,
    key: &Key,
    value: Option<&[u8]>,
    end: Instant,
) -> Written {
    for _ in 0..ROUNDS {
        let (present, now) = match guarded.written_at(key, end).await {
            Ok(found) => found,
            Err(error) => return Written::No(error),
        };
        if present.is_none() && value.is_none() {
            return Written::Yes(now);
        }
        let expected = present.map_or(Expected::Absent, Expected::At);
        match guarded.swap(key, expected, value, end).await {
            Written::Conflict => {}
            outcome => return outcome,
        }
    }
    Written::No(Error::Unavailable {
        store,
        cause: format!("{key} was changed by another writer {ROUNDS} times"),
    })
}
