//! What components publish of themselves: it disappears with them, and comes again.

use std::sync::Arc;
use std::time::Duration;

use super::{Open, ensure, eventually, text};
use crate::{Everything, Folder, Key, Store, Written};

/// What a component publishes: a store may want to know from it whose it is.
fn info(key: &Key, word: &str) -> Vec<u8> {
    let path = key.to_string();
    let uid = path.rsplit('/').next().unwrap_or_default();
    format!(r#"{{"UID":"{uid}","infoUID":"{word}"}}"#).into_bytes()
}

pub(super) async fn expiry(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let (short, renewed) = (
        Key::ProxyInfo("short".into()),
        Key::ProxyInfo("renewed".into()),
    );
    let ttl = Duration::from_secs(3);
    store
        .publish(&short, &info(&short, "s"), ttl)
        .await
        .map_err(text)?;
    let value = info(&renewed, "r");
    store.publish(&renewed, &value, ttl).await.map_err(text)?;
    ensure(
        other.get(&short).await.map_err(text)?.is_some(),
        "not published",
    )?;
    eventually("the publication expires", || async {
        store.publish(&renewed, &value, ttl).await.map_err(text)?;
        let there = other.get(&renewed).await.map_err(text)?.is_some();
        ensure(there, "a renewed publication expired")?;
        Ok(other.get(&short).await.map_err(text)?.is_none())
    })
    .await?;
    let listed = other.list(Folder::Proxies).await.map_err(text)?;
    ensure(listed.len() == 1, format!("listed {listed:?}"))?;
    // Who was silent for so long is back by its next word, whatever a store holds back after that.
    let value = info(&short, "again");
    store.publish(&short, &value, ttl).await.map_err(text)?;
    let found = other.get(&short).await.map_err(text)?;
    ensure(
        found.is_some_and(|entry| entry.value == value),
        "what expired does not come again",
    )
}

/// A component that was killed comes back under its name; so may an operator's remove it.
pub(super) async fn taken_over(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let key = Key::SentinelInfo("s".into());
    let ttl = Duration::from_mins(1);
    let is = async |word: &str| {
        let found = store.get(&key).await.map_err(text)?;
        let value = info(&key, word);
        ensure(
            found.as_ref().is_some_and(|entry| entry.value == value),
            format!("not {word}: {found:?}"),
        )
    };
    let publish = async |by: &Arc<dyn Store>, word: &str| {
        let value = info(&key, word);
        by.publish(&key, &value, ttl).await.map_err(text)?;
        is(word).await
    };
    publish(&store, "before").await?;
    publish(&other, "after").await?;
    // Neither knows of what the other wrote meanwhile.
    publish(&store, "both").await?;
    let deleted = other.delete(&key).await;
    ensure(
        matches!(deleted, Written::Yes(_)),
        format!("not deleted: {deleted:?}"),
    )?;
    publish(&store, "again").await?;
    publish(&other, "andon").await
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
            .publish(key, &info(key, "listed"), ttl)
            .await
            .map_err(text)?;
    }
    let found = store.list(Folder::Keepers).await.map_err(text)?;
    let names: Vec<_> = found.iter().map(|entry| entry.key.clone()).collect();
    let expected = vec![Key::KeeperInfo("a".into()), Key::KeeperInfo("b".into())];
    ensure(names == expected, format!("listed {names:?}"))?;
    let exact = found
        .iter()
        .all(|entry| entry.value == info(&entry.key, "listed"));
    ensure(exact, "a listed value is another key's")
}

/// All that there is comes as it does one by one, and an empty store has nothing.
pub(super) async fn everything(open: Open) -> Result<(), String> {
    let store = open().map_err(text)?;
    let found = store.read_all().await.map_err(text)?;
    let nothing = Everything::default();
    ensure(found == nothing, format!("an empty store has {found:?}"))?;
    let ttl = Duration::from_mins(1);
    for key in [
        Key::KeeperInfo("b".into()),
        Key::KeeperInfo("a".into()),
        Key::ProxyInfo("p".into()),
        Key::SentinelInfo("s".into()),
    ] {
        let value = info(&key, "all");
        store.publish(&key, &value, ttl).await.map_err(text)?;
    }
    for key in [Key::ClusterData, Key::Request("r".into()), Key::History] {
        let written = store.put(&key, b"{}").await;
        ensure(matches!(written, Written::Yes(_)), format!("{written:?}"))?;
    }
    let one_by_one = Everything {
        data: store.get(&Key::ClusterData).await.map_err(text)?,
        keepers: store.list(Folder::Keepers).await.map_err(text)?,
        proxies: store.list(Folder::Proxies).await.map_err(text)?,
        sentinels: store.list(Folder::Sentinels).await.map_err(text)?,
        requests: store.list(Folder::Requests).await.map_err(text)?,
    };
    let found = store.read_all().await.map_err(text)?;
    ensure(
        found == one_by_one,
        format!("{found:?}, not {one_by_one:?}"),
    )?;
    let lengths = [
        found.keepers.len(),
        found.proxies.len(),
        found.sentinels.len(),
        found.requests.len(),
    ];
    ensure(lengths == [2, 1, 1, 1], format!("{lengths:?}"))?;
    ensure(found.data.is_some(), "the cluster data are not there")
}
