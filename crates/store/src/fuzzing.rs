//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes: one function a
//! parser. `make fuzz` searches for bytes that break one (docs/testing.md); the test below runs them
//! over what it has kept.

use tonic::transport::Endpoint;

use crate::addresses::{ETCD_PORT, addresses};
use crate::consul::answer::{encode, failure, pairs as read_pairs, transaction};
use crate::consul::{services, session};
use crate::etcd2::answer::{Said, read, refusal};
use crate::etcd2::watching::heard;
use crate::failure::{Failure, Kind};
use crate::http::Answer;
use crate::http::following::Heard;
use crate::keys::{Folder, Key, Keys};
use pieces::pieces;

/// `--store-endpoints`: what is accepted is complete, is an address to the library that connects,
/// and stays as it is when it is given again; what is not says which it is.
pub fn endpoints(bytes: &[u8]) {
    let given: Vec<String> = pieces(bytes).collect();
    match addresses(&given, ETCD_PORT) {
        Ok(found) => {
            assert_eq!(found.len(), given.len().max(1));
            for address in &found {
                let endpoint = Endpoint::from_shared(address.clone());
                let uri = endpoint.expect("an address").uri().clone();
                let port = uri.port_u16().filter(|port| *port > 0);
                assert!(port.is_some(), "{given:?}: {address} has no port");
                assert!(uri.host().is_some_and(|host| !host.is_empty()), "{uri}");
                assert!(matches!(uri.path(), "" | "/"), "{uri}");
            }
            let again = addresses(&found, ETCD_PORT).expect("addresses");
            assert_eq!(again, found);
        }
        Err(error) => {
            let told = error.to_string();
            let joined = format!("{:?}", given.join(","));
            let named = given.iter().any(|text| told.contains(&format!("{text:?}")));
            assert!(named || told.contains(&joined), "{given:?}: {told}");
        }
    }
}

/// Paths below any prefix and cluster name: a key's path is read as that key, and whatever other
/// path is found is a key only under its own path.
pub fn store_paths(bytes: &[u8]) {
    let mut texts = pieces(bytes);
    let mut text = || texts.next().unwrap_or_default();
    let (prefix, cluster, name, path) = (text(), text(), text(), text());
    let keys = Keys::new(&prefix, &cluster);
    let base = keys.base();
    assert!(!base.contains("//"), "{base:?}");
    assert!(base.is_empty() || base.ends_with('/'), "{base:?}");
    let is_name = !name.is_empty() && !name.contains('/');
    for (folder, key) in [
        (Folder::Keepers, Key::KeeperInfo(name.clone())),
        (Folder::Sentinels, Key::SentinelInfo(name.clone())),
        (Folder::Proxies, Key::ProxyInfo(name.clone())),
        (Folder::Requests, Key::Request(name.clone())),
    ] {
        let read = keys.parse(folder, &keys.path(&key));
        assert_eq!(read, is_name.then_some(key), "{prefix:?} {cluster:?}");
        for path in [path.clone(), format!("{}{path}", keys.folder(folder))] {
            if let Some(key) = keys.parse(folder, &path) {
                assert_eq!(keys.path(&key), path);
            }
        }
    }
}

/// What an answer may be: the first byte of an input says which.
const STATUSES: [u16; 12] = [200, 201, 400, 401, 403, 404, 409, 412, 413, 429, 500, 503];
/// The longest text of a failure: a line of the server's, and what is to be done.
const LONGEST_TEXT: usize = 2000;

fn answer(bytes: &[u8]) -> Answer {
    let (first, body) = bytes.split_first().unwrap_or((&0, &[]));
    let status = STATUSES[usize::from(*first) % STATUSES.len()];
    Answer::new(status, body.to_vec())
}

/// A failure says something, in one line, and what was refused is not in doubt.
fn explains(failure: &Failure) {
    let text = &failure.text;
    assert!(!text.is_empty() && text.len() <= LONGEST_TEXT, "{text:?}");
    assert!(!text.contains('\n'), "{text:?}");
    assert!(
        failure.kind != Kind::Refused || !failure.doubtful,
        "{text:?}"
    );
}

/// What Consul answers: keys, what came of a transaction, a session, services; or why not. A status
/// that is no success is never taken for one.
pub fn consul_answer(bytes: &[u8]) {
    let answer = answer(bytes);
    let is_ok = answer.status == 200;
    explains(&failure(&answer));
    match read_pairs(&answer) {
        Ok(pairs) => {
            assert!(is_ok || pairs.is_empty());
            for pair in pairs {
                let (value, at) = (pair.value.clone(), pair.modify_index);
                let entry = pair.entry(Key::ClusterData);
                assert_eq!((&entry.value, entry.revision.0), (&value, at));
                let one = serde_json::json!([
                    {"Key": "k", "Value": encode(&value), "ModifyIndex": at}
                ]);
                let one = Answer::new(200, one.to_string().into_bytes());
                let again = read_pairs(&one).expect("a key");
                assert!(again.iter().all(|pair| pair.value == value));
            }
        }
        Err(error) => explains(&error),
    }
    match transaction(&answer) {
        Ok(stored) => assert!(is_ok || (stored.is_none() && answer.status == 409)),
        Err(error) => explains(&error),
    }
    if let Err(error) = session::created(&answer) {
        explains(&error);
    }
    match services::named(&answer, "main") {
        Ok(found) => {
            let sorted = |service: &services::Service| service.tags.is_sorted();
            assert!(
                found
                    .iter()
                    .all(|service| service.name == "main" && sorted(service))
            );
        }
        Err(error) => explains(&error),
    }
}

/// What etcd's version 2 API answers: a key, a folder, that there is none, a conflict; or why not. The
/// next question never goes back to before the answer.
pub fn etcd2_answer(bytes: &[u8]) {
    let answer = answer(bytes);
    let is_ok = matches!(answer.status, 200 | 201);
    match read(&answer) {
        Ok(Said::Done { node, .. }) => {
            assert!(is_ok);
            let (value, at) = (node.value.clone(), node.modified_index);
            let entry = node.entry(Key::ClusterData);
            assert_eq!((entry.value, entry.revision.0), (value.into_bytes(), at));
        }
        Ok(Said::Absent { .. } | Said::Conflict) => assert!(!is_ok),
        Err(error) => explains(&error),
    }
    match refusal(&answer) {
        Ok(refusal) => explains(&refusal.failure()),
        Err(error) => explains(&error),
    }
    match heard(&answer) {
        Ok(heard) => assert!(!matches!(heard, Heard::Silence(_) | Heard::Change(Some(0)))),
        Err(error) => explains(&error),
    }
}

#[path = "../../../fuzz/pieces.rs"]
mod pieces;
#[cfg(test)]
#[macro_use]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
every_target_holds!(None;
    consul_answer,
    endpoints,
    etcd2_answer,
    store_paths,
);
