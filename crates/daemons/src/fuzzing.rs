//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes: one function a
//! parser. `make fuzz` searches for bytes that break one (docs/testing.md); the test below runs them
//! over what it has kept.

use std::fmt::Debug;
use std::path::Path;

use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keeper::local::{KeeperState, StoredDbState, understood};
use crate::proxy::greeting::{LONGEST_PACKET, MOST_UNREAD, Refusal, answer};
use crate::proxy::introduction::{LONGEST, named};

/// What a client sends to a proxy that refuses it: the answer is at most three times "no" to
/// encryption and one error, whole, and little is read for it.
pub fn start_up_packet(bytes: &[u8]) {
    let why = Refusal::NoPrimary("fuzzing \0 \"it\"".to_owned());
    let mut unread = bytes;
    let mut client = tokio::io::join(&mut unread, Vec::new());
    // Reading from memory never waits.
    let outcome = answer(&mut client, &why).now_or_never();
    assert!(outcome.is_some(), "it waits for more than there is");
    let (_, said) = client.into_inner();
    let most = 3 * usize::try_from(LONGEST_PACKET).unwrap_or(usize::MAX) + MOST_UNREAD;
    assert!(bytes.len() - unread.len() <= most, "too much is read");

    let refusals = said.iter().take_while(|byte| **byte == b'N').count();
    assert!(refusals <= 3, "{said:?}");
    let message = said.get(refusals..).unwrap_or_default();
    if !message.is_empty() {
        assert!(refusals <= 2, "{said:?}");
        is_error_response(message);
    }
}

/// PostgreSQL manual, "Message Formats": a kind, a length that counts itself, fields of a kind and a
/// text each, and a zero byte.
fn is_error_response(message: &[u8]) {
    let (kind, rest) = message.split_first().expect("a kind");
    let (length, fields) = rest.split_first_chunk().expect("a length");
    assert_eq!(*kind, b'E');
    let length = usize::try_from(u32::from_be_bytes(*length)).expect("a size");
    assert_eq!(length, rest.len());
    let (end, fields) = fields.split_last().expect("an end");
    assert_eq!(*end, 0);
    let (last, fields) = fields.split_last().expect("a field");
    assert_eq!(*last, 0);
    let kinds: Vec<u8> = fields
        .split(|byte| *byte == 0)
        .map(|field| *field.first().expect("a kind of field"))
        .collect();
    assert_eq!(kinds, b"SVCM");
}

/// What a load balancer says of a client: never more is read than a header may have, and of what is
/// understood nothing that comes after it.
pub fn proxy_header(bytes: &[u8]) {
    let mut unread = bytes;
    // Reading from memory never waits.
    let outcome = named(&mut unread).now_or_never();
    let named = outcome.expect("it waits for more than there is");
    let taken = bytes.get(..bytes.len() - unread.len()).unwrap_or_default();
    assert!(taken.len() <= LONGEST, "too much is read");
    if let Ok(client) = named {
        let mut header = taken;
        let again = named_again(&mut header);
        assert_eq!(again, client, "it hangs on what follows");
        assert_eq!(header, b"", "another end");
    }
}

fn named_again(header: &mut &[u8]) -> Option<std::net::SocketAddr> {
    let outcome = named(header).now_or_never();
    outcome.expect("it is whole").expect("it was understood")
}

/// `dbstate` and `keeperstate`, perhaps of the Go program: what is read, written, reads as the same.
pub fn keeper_files(bytes: &[u8]) {
    comes_back::<KeeperState>(bytes);
    if let Some(state) = comes_back::<StoredDbState>(bytes).and_then(StoredDbState::meant) {
        let again = StoredDbState::of(&state).meant();
        assert_eq!(again, Some(state));
    }
}

fn comes_back<T>(bytes: &[u8]) -> Option<T>
where
    T: DeserializeOwned + Serialize + PartialEq + Debug,
{
    let path = Path::new("/data/dbstate");
    match understood::<T>(path, bytes) {
        Ok(state) => {
            let written = serde_json::to_vec(&state).expect("written");
            let again: T = understood(path, &written).expect("read again");
            assert_eq!(again, state);
            Some(state)
        }
        Err(error) => {
            assert!(error.to_string().contains("/data/dbstate"), "{error}");
            None
        }
    }
}

#[cfg(test)]
#[macro_use]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
every_target_holds!(None;
    keeper_files,
    proxy_header,
    start_up_packet,
);
