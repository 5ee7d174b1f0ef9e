//! What components publish of themselves: it disappears with them, and comes again.

use std::time::Duration;

use super::{Open, ensure, eventually, text};
use crate::{Folder, Key, Written};

pub(super) async fn expiry(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let (short, renewed) = (
        Key::ProxyInfo("short".into()),
        Key::ProxyInfo("renewed".into()),
    );
    let ttl = Duration::from_secs(3);
    store.publish(&short, b"s", ttl).await.map_err(text)?;
    store.publish(&renewed, b"r", ttl).await.map_err(text)?;
    ensure(
        other.get(&short).await.map_err(text)?.is_some(),
        "not published",
    )?;
    eventually("the publication expires", || async {
        store.publish(&renewed, b"r", ttl).await.map_err(text)?;
        let there = other.get(&renewed).await.map_err(text)?.is_some();
        ensure(there, "a renewed publication expired")?;
        Ok(other.get(&short).await.map_err(text)?.is_none())
    })
    .await?;
    let listed = other.list(Folder::Proxies).await.map_err(text)?;
    ensure(listed.len() == 1, format!("listed {listed:?}"))?;
    // Who was silent for so long is back by its next word, whatever a store holds back after that.
    store.publish(&short, b"again", ttl).await.map_err(text)?;
    let found = other.get(&short).await.map_err(text)?;
    ensure(
        found.is_some_and(|entry| entry.value == b"again"),
        "what expired does not come again",
    )
}

/// A component that was killed comes back under its name; so may an operator's remove it.
pub(super) async fn taken_over(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let key = Key::SentinelInfo("s".into());
    let ttl = Duration::from_mins(1);
    let is = async |value: &[u8]| {
        let found = store.get(&key).await.map_err(text)?;
        let value = String::from_utf8_lossy(value).into_owned();
        ensure(
            found
                .as_ref()
                .is_some_and(|entry| entry.value == value.as_bytes()),
            format!("not {value}: {found:?}"),
        )
    };
    store.publish(&key, b"before", ttl).await.map_err(text)?;
    other.publish(&key, b"after", ttl).await.map_err(text)?;
    is(b"after").await?;
    // Neither knows of what the other wrote meanwhile.
    store.publish(&key, b"both", ttl).await.map_err(text)?;
    is(b"both").await?;
    let deleted = other.delete(&key).await;
    ensure(
        matches!(deleted, Written::Yes(_)),
        format!("not deleted: {deleted:?}"),
    )?;
    for (publisher, value) in [(&store, b"again"), (&other, b"andon")] {
        publisher.publish(&key, value, ttl).await.map_err(text)?;
        is(value).await?;
    }
    Ok(())
}

pub(super) async fn list(open: Open) -> Result<(), String> {
    let store = open().map_err(text)?;
    let ttl = Duration::from_mins(1);
    let keys = [
        Key::KeeperInfo("b".into()),
        Key::KeeperInfo("a".into()),
        Key::ProxyInfo("p".into()),
        Key::SentinelInfo("s".into()),
    ];
    for key in &keys {
        store
            .publish(key, key.to_string().as_bytes(), ttl)
            .await
            .map_err(text)?;
    }
    let found = store.list(Folder::Keepers).await.map_err(text)?;
    let names: Vec<_> = found.iter().map(|entry| entry.key.clone()).collect();
    let expected = vec![Key::KeeperInfo("a".into()), Key::KeeperInfo("b".into())];
    ensure(names == expected, format!("listed {names:?}"))?;
    let exact = found
        .iter()
        .all(|entry| entry.value == entry.key.to_string().as_bytes());
    ensure(exact, "a listed value is another key's")
}
