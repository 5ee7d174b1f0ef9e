//! Documents as they come: whatever parses is decided about without a panic and within the
//! invariants, and comes back from the wire as it was.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use stolon_core::invariants::{Step, check};
use stolon_core::model::{ClusterData, KeeperInfo, ProxyInfo, SentinelUid, wire};
use stolon_core::sentinel::observe::Memory;
use stolon_core::sentinel::{Effect, Event, Look, Sentinel, Settings, WriteOutcome};
use stolon_core::time::{Instant, Timestamp};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("a golden document");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// What a field may hold: what fields do hold, and what they had better not.
fn values() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "none",
        "new",
        "resync",
        "pitr",
        "existing",
        "master",
        "standby",
        "internal",
        "external",
        "initializing",
        "normal",
        "witness",
        "0s",
        "5s",
        "-5s",
        "1000000h",
        "2562047h47m16.854775807s",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "keeper0",
        "db0",
        "streaming",
        "age-from-send",
        "stolonfakestandby",
    ];
    let numbers = [
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(65_535),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.5),
    ];
    prop_oneof![
        4 => prop::sample::select(texts.to_vec()).prop_map(|text| json!(text)),
        3 => prop::sample::select(numbers.to_vec()),
        2 => any::<bool>().prop_map(|yes| json!(yes)),
        1 => Just(Value::Null),
        1 => Just(json!([])),
        1 => Just(json!({})),
    ]
}

/// Which node to change, counted from the root, and to what; none: it is left out.
type Change = (prop::sample::Index, Option<Value>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (
        any::<prop::sample::Index>(),
        prop::option::weighted(0.9, values()),
    );
    prop::collection::vec(change, 0..8)
}

/// Pointers to every node, or to every leaf.
fn nodes(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                nodes(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                nodes(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn changed(mut document: Value, changes: &[Change]) -> Vec<u8> {
    for (index, value) in changes {
        let mut all = Vec::new();
        nodes(&document, "", &mut all);
        let at = index.get(&all);
        if let Some(value) = value {
            if let Some(node) = document.pointer_mut(at) {
                node.clone_from(value);
            }
            continue;
        }
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", ""));
        if let Some(Value::Object(fields)) = document.pointer_mut(parent) {
            fields.remove(name);
        }
    }
    serde_json::to_vec(&document).expect("JSON")
}

fn documents() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        golden("clusterdata-1-just-initialised.json"),
        golden("clusterdata-2-initialising.json"),
        golden("clusterdata-3-normal-synchronous.json"),
        golden("clusterdata-4-failing-over.json"),
        golden("clusterdata-5-standby-cluster.json"),
    ])
}

/// Publications of the members that the documents know, one change at a time.
fn publications(
    data: &ClusterData,
    number: u64,
    changes: &[Change],
) -> (Vec<KeeperInfo>, Vec<ProxyInfo>) {
    let cluster = data.cluster.as_ref().map(|cluster| cluster.uid.to_string());
    let fresh = |mut info: Value, uid: &str| {
        info["infoUID"] = json!(format!("{uid}-{number}"));
        info["clusterUID"] = json!(cluster);
        info
    };
    let mut keepers = Vec::new();
    for keeper in data.keepers.keys() {
        let mut info = fresh(golden("keeperinfo-running.json"), keeper.as_str());
        info["uid"] = json!(keeper);
        if let Some(db) = data.db_of(keeper) {
            info["postgresState"]["uid"] = json!(db.uid);
            info["postgresState"]["generation"] = json!(db.generation);
        }
        keepers.extend(wire::read::<KeeperInfo>(&changed(info, changes)).ok());
    }
    let proxy = fresh(golden("proxyinfo.json"), "proxy");
    let proxies = wire::read::<ProxyInfo>(&changed(proxy, changes)).ok();
    (keepers, proxies.into_iter().collect())
}

/// A sentinel reads the document, and those it writes, for a while. Returns what its decisions break.
fn lead(mut data: ClusterData, changes: &[Change]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut sentinel = Sentinel::new(Settings {
        uid: SentinelUid::from("5e471e10"),
        version: "test".to_owned(),
        initial_spec: None,
        most_failovers: 3,
    });
    let mut revision = 1;
    let mut memory = Memory::new(3);
    let mut effects = sentinel.handle(Instant::default(), Event::Leading(true));
    for number in 0..6_u64 {
        let now = Instant::from_boot(Duration::from_secs(number * 7));
        let (keepers, proxies) = publications(&data, number, changes);
        let look = Look {
            sentinels: Vec::new(),
            requests: Vec::new(),
            sent_at: now,
            wall: Timestamp::from_utc(jiff::Timestamp::from_second(1_700_000_000).expect("a time")),
            entropy: number,
            revision: Some(revision),
            data: Some(Arc::new(data.clone())),
            keepers,
            proxies,
        };
        let view = memory.observe(&look, &data, revision);
        effects.extend(sentinel.handle(now, Event::Looked(Box::new(look))));
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Write { data: after, .. } => {
                    let (before, view) = (&data, &view);
                    let after = *after;
                    let step = Step {
                        before,
                        view,
                        after: &after,
                    };
                    broken.extend(check(step).iter().map(ToString::to_string));
                    data = after;
                    revision += 1;
                    let _ = sentinel.handle(now, Event::Wrote(WriteOutcome::Stored));
                }
                Effect::Log(reason) if reason.code == "invariant" => {
                    broken.push(reason.to_string());
                }
                _ => {}
            }
        }
    }
    broken
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_parses_is_decided_about_and_comes_back(
        document in documents(),
        in_document in changes(),
        in_publications in changes(),
    ) {
        let bytes = changed(document, &in_document);
        if let Ok(Some(data)) = wire::read_cluster_data(&bytes) {
            let written = wire::write(&data).expect("written");
            let again = wire::read_cluster_data(&written).expect("read again").expect("there");
            prop_assert_eq!(&again, &data);
            prop_assert_eq!(wire::write(&again).expect("written"), written);
            let broken = lead(data, &in_publications);
            prop_assert!(broken.is_empty(), "{broken:#?}");
        }
    }
}
