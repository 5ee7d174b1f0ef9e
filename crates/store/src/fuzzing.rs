//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes: one function a
//! parser. `make fuzz` searches for bytes that break one (docs/testing.md); the test below runs them
//! over what it has kept.

use tonic::transport::Endpoint;

use crate::addresses::{ETCD_PORT, addresses};
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

#[path = "../../../fuzz/pieces.rs"]
mod pieces;
#[cfg(test)]
#[macro_use]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
every_target_holds!(None;
    endpoints,
    store_paths,
);
