//! What every backend must satisfy: one list of checks, run by `tests/` against each.
//!
//! A check takes a way to open the store (as another process would) and returns what is wrong.

mod publications;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Expected, Folder, Key, Store, Written};

/// How long a check waits for what must come about.
const PATIENCE: Duration = Duration::from_mins(1);

/// Opens the store once more, as another process would.
pub type Open = Arc<dyn Fn() -> Result<Arc<dyn Store>, Error> + Send + Sync>;

type Check = fn(Open) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The list: a name and a check. Each wants a store that holds nothing of its cluster yet.
pub const CHECKS: &[(&str, Check)] = &[
    ("an absent key reads as none", |open| Box::pin(absent(open))),
    ("values come back byte for byte", |open| {
        Box::pin(exact_bytes(open))
    }),
    ("compare-and-swap writes only what it expects", |open| {
        Box::pin(swap(open))
    }),
    ("concurrent compare-and-swaps lose nothing", |open| {
        Box::pin(concurrent_swaps(open))
    }),
    ("revisions grow", |open| Box::pin(revisions(open))),
    ("a publication expires, and lives on when renewed", |open| {
        Box::pin(publications::expiry(open))
    }),
    (
        "a publication is taken over by who comes after, and comes again at once",
        |open| Box::pin(publications::taken_over(open)),
    ),
    ("a folder lists its keys and no others", |open| {
        Box::pin(publications::list(open))
    }),
    ("everything comes as it does one by one", |open| {
        Box::pin(publications::everything(open))
    }),
    ("a watch wakes on another's write", |open| {
        Box::pin(watch(open))
    }),
    (
        "one candidate leads at a time, and a resigned one is followed",
        |open| Box::pin(leadership(open)),
    ),
    ("a leader that vanishes is followed", |open| {
        Box::pin(vanished_leader(open))
    }),
];

fn ensure(holds: bool, what: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Waits until `probe` says true.
async fn eventually<F, T>(what: &str, mut probe: F) -> Result<(), String>
where
    F: FnMut() -> T,
    T: Future<Output = Result<bool, String>>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < end {
        if probe().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("did not come about within {PATIENCE:?}: {what}"))
}

async fn absent(open: Open) -> Result<(), String> {
    let store = open().map_err(text)?;
    for key in [Key::ClusterData, Key::KeeperInfo("k".into()), Key::History] {
        let found = store.get(&key).await.map_err(text)?;
        ensure(found.is_none(), format!("{key} is there: {found:?}"))?;
    }
    ensure(
        store.list(Folder::Keepers).await.map_err(text)?.is_empty(),
        "keepers are there",
    )?;
    ensure(
        store.leader().await.map_err(text)?.is_none(),
        "a leader is there",
    )
}

async fn exact_bytes(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let every_byte: Vec<u8> = (0..=255).collect();
    // Kubernetes takes the least: 256 KiB with all that lies beside it.
    let large = vec![b'x'; 250_000];
    let odd = "é\u{1F418}<>&+%=\u{0}\n".as_bytes().to_vec();
    for value in [odd, large, every_byte] {
        let is_text = std::str::from_utf8(&value).is_ok();
        let written = store.put(&Key::ClusterData, &value).await;
        // Documents are text: a store that keeps nothing else refuses the rest, and changes nothing.
        if !is_text && matches!(written, Written::No(_)) {
            continue;
        }
        ensure(
            matches!(written, Written::Yes(_)),
            format!("not written: {written:?}"),
        )?;
        let found = other.get(&Key::ClusterData).await.map_err(text)?;
        ensure(
            found.is_some_and(|entry| entry.value == value),
            "another value came back",
        )?;
    }
    let deleted = store.delete(&Key::ClusterData).await;
    ensure(
        matches!(deleted, Written::Yes(_)),
        format!("not deleted: {deleted:?}"),
    )?;
    ensure(
        other.get(&Key::ClusterData).await.map_err(text)?.is_none(),
        "still there",
    )
}

async fn swap(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let key = Key::ClusterData;
    let first = match store.compare_and_swap(&key, Expected::Absent, b"1").await {
        Written::Yes(revision) => revision,
        outcome => return Err(format!("the first write: {outcome:?}")),
    };
    let again = other.compare_and_swap(&key, Expected::Absent, b"x").await;
    ensure(
        matches!(again, Written::Conflict),
        format!("a second creation: {again:?}"),
    )?;
    let found = other
        .get(&key)
        .await
        .map_err(text)?
        .ok_or("the first write is not there")?;
    ensure(
        found.revision == first,
        format!("revision {:?}, not {first:?}", found.revision),
    )?;
    let second = match other
        .compare_and_swap(&key, Expected::At(first), b"2")
        .await
    {
        Written::Yes(revision) => revision,
        outcome => return Err(format!("the second write: {outcome:?}")),
    };
    let stale = store
        .compare_and_swap(&key, Expected::At(first), b"x")
        .await;
    ensure(
        matches!(stale, Written::Conflict),
        format!("a stale write: {stale:?}"),
    )?;
    let found = store
        .get(&key)
        .await
        .map_err(text)?
        .ok_or("the second write is not there")?;
    ensure(
        found.value == b"2" && found.revision == second,
        format!("found {found:?}"),
    )
}

async fn concurrent_swaps(open: Open) -> Result<(), String> {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let mut tasks = tokio::task::JoinSet::new();
    // All set out from the same value, however fast the store is.
    let line = Arc::new(tokio::sync::Barrier::new(WRITERS));
    for _ in 0..WRITERS {
        let (store, line) = (open().map_err(text)?, line.clone());
        tasks.spawn(async move {
            for _ in 0..EACH {
                increment(store.as_ref(), &line).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(text)??;
    }
    let store = open().map_err(text)?;
    let found = store
        .get(&Key::ClusterData)
        .await
        .map_err(text)?
        .ok_or("no counter")?;
    let count = String::from_utf8_lossy(&found.value).into_owned();
    ensure(
        count == (WRITERS * EACH).to_string(),
        format!("{count} of {}", WRITERS * EACH),
    )
}

async fn increment(store: &dyn Store, line: &tokio::sync::Barrier) -> Result<(), String> {
    for attempt in 0..10_000 {
        let entry = store.get(&Key::ClusterData).await.map_err(text)?;
        let (expected, count) = match &entry {
            None => (Expected::Absent, 0),
            Some(entry) => {
                let count = String::from_utf8_lossy(&entry.value).parse::<usize>();
                (Expected::At(entry.revision), count.map_err(text)?)
            }
        };
        let next = (count + 1).to_string();
        if attempt == 0 {
            line.wait().await;
        }
        match store
            .compare_and_swap(&Key::ClusterData, expected, next.as_bytes())
            .await
        {
            Written::Yes(_) => return Ok(()),
            Written::Conflict => {}
            Written::No(error) | Written::Unknown(error) => return Err(text(error)),
        }
    }
    Err("never succeeded against the others".to_owned())
}

async fn revisions(open: Open) -> Result<(), String> {
    let store = open().map_err(text)?;
    let mut last = None;
    for round in 0..5 {
        for key in [Key::ClusterData, Key::History] {
            match store.put(&key, format!("{round}").as_bytes()).await {
                Written::Yes(revision) => {
                    ensure(
                        Some(revision) > last,
                        format!("{revision:?} after {last:?}"),
                    )?;
                    last = Some(revision);
                }
                outcome => return Err(format!("not written: {outcome:?}")),
            }
        }
    }
    Ok(())
}

async fn watch(open: Open) -> Result<(), String> {
    let (store, other) = (open().map_err(text)?, open().map_err(text)?);
    let mut watch = store.watch();
    for round in 0..3 {
        // A watch may wake for no reason; what must not happen is that it sleeps through a write.
        let written = other
            .put(&Key::ClusterData, format!("{round}").as_bytes())
            .await;
        ensure(
            matches!(written, Written::Yes(_)),
            format!("not written: {written:?}"),
        )?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let woken = tokio::time::timeout_at(end, watch.changed()).await;
            ensure(woken.is_ok(), format!("slept through write {round}"))?;
            let found = store.get(&Key::ClusterData).await.map_err(text)?;
            if found.is_some_and(|entry| entry.value == format!("{round}").as_bytes()) {
                break;
            }
        }
    }
    Ok(())
}

async fn leadership(open: Open) -> Result<(), String> {
    let stores = [
        open().map_err(text)?,
        open().map_err(text)?,
        open().map_err(text)?,
    ];
    let mut candidates: Vec<_> = stores
        .iter()
        .enumerate()
        .map(|(i, store)| store.lead(&format!("s{i}")))
        .collect();
    for _ in 0..stores.len() {
        eventually("somebody leads", || async {
            Ok(candidates.iter().any(crate::Leadership::is_leader))
        })
        .await?;
        let leading: Vec<usize> = (0..candidates.len())
            .filter(|index| candidates[*index].is_leader())
            .collect();
        ensure(
            leading.len() == 1,
            format!("{} lead at once", leading.len()),
        )?;
        let known = stores[0].leader().await.map_err(text)?;
        ensure(known.is_some(), "the leader is not known")?;
        candidates.remove(leading[0]).resign().await;
    }
    Ok(())
}

async fn vanished_leader(open: Open) -> Result<(), String> {
    let other = open().map_err(text)?;
    tokio::task::spawn_blocking(move || lead_and_vanish(&open))
        .await
        .map_err(text)??;
    let known = other.leader().await.map_err(text)?;
    ensure(
        known.is_none_or(|leader| leader == "first"),
        "somebody else leads",
    )?;
    let second = other.lead("second");
    eventually("the second leads", || async { Ok(second.is_leader()) }).await?;
    let known = other.leader().await.map_err(text)?;
    ensure(
        known.as_deref() == Some("second"),
        format!("the leader is {known:?}"),
    )
}

/// Leads, and is gone like a process that was killed: its tasks never run again.
fn lead_and_vanish(open: &Open) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(text)?;
    let leadership = runtime.block_on(async {
        let leadership = open().map_err(text)?.lead("first");
        eventually("the first leads", || async { Ok(leadership.is_leader()) }).await?;
        Ok::<_, String>(leadership)
    })?;
    drop(runtime);
    drop(leadership);
    Ok(())
}
