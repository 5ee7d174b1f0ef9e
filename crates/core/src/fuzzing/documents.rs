//! What the store holds, and the specification as operators type it.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::history::{History, MOST_BYTES};
use crate::model::request::{Request, State};
use crate::model::wire::{self, Document, Shape, SpecError, canonical, patch_spec, read_spec};
use crate::model::{
    ClusterData, ClusterSpec, ExtSpec, GoDuration, KeeperInfo, ProxyInfo, SentinelInfo,
};
use crate::time::Timestamp;

/// The cluster data, with what decisions read of them first.
pub fn cluster_data(bytes: &[u8]) {
    document::<ClusterData>(bytes);
    if let Ok(Some(data)) = wire::read_cluster_data(bytes) {
        let _ = data.primary();
        for keeper in data.keepers.keys() {
            let _ = data.db_of(keeper);
        }
        if let Some(spec) = data
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref())
        {
            let _ = spec.validate().map(|()| spec.effective());
        }
    }
}

/// What a keeper publishes.
pub fn keeper_info(bytes: &[u8]) {
    document::<KeeperInfo>(bytes);
}

/// What a proxy publishes.
pub fn proxy_info(bytes: &[u8]) {
    document::<ProxyInfo>(bytes);
}

/// What a sentinel publishes.
pub fn sentinel_info(bytes: &[u8]) {
    document::<SentinelInfo>(bytes);
}

/// The last decisions; stored they are never too large.
pub fn history(bytes: &[u8]) {
    document::<History>(bytes);
    if let Ok(history) = wire::read::<History>(bytes) {
        let stored = history.to_bytes().expect("written");
        let bare = History {
            decisions: Vec::new(),
            ..history
        };
        let least = wire::write(&bare).expect("written").len();
        assert!(stored.len() <= MOST_BYTES.max(least), "{}", stored.len());
    }
}

/// A specification as typed: what is accepted is valid, stored, and read again as the same.
pub fn cluster_spec(bytes: &[u8]) {
    document::<ClusterSpec>(bytes);
    match read_spec(bytes) {
        Ok((spec, warnings)) => {
            assert_eq!(spec.validate(), Ok(()));
            let _ = spec.effective();
            let written = wire::write(&spec).expect("written");
            let (again, same) = read_spec(&written).expect("what is stored is valid");
            assert_eq!((again, same), (spec, warnings));
        }
        Err(error) => explains(&error),
    }
}

/// A specification and a patch of it: a patch that says nothing changes nothing, and the same patch
/// twice is the same as once.
pub fn spec_patch(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0xFF);
    let (Some(spec), Some(patch)) = (parts.next(), parts.next()) else {
        return;
    };
    let Ok((spec, _)) = read_spec(spec) else {
        return;
    };
    let (same, _) = patch_spec(&spec, b"{}").expect("nothing is patched");
    assert_eq!(same, spec);
    match patch_spec(&spec, patch) {
        Ok((patched, warnings)) => {
            assert_eq!(patched.validate(), Ok(()));
            let again = patch_spec(&patched, patch).expect("patched again");
            assert_eq!(again, (patched, warnings));
        }
        Err(error) => explains(&error),
    }
}

/// What operators ask for (`ext/requests`): read, written and read again it is the same, with the
/// fields of a later version. It is one keeper's turn at most, and nobody's once all is done.
pub fn request(bytes: &[u8]) {
    let Ok(request) = wire::read::<Request>(bytes) else {
        return;
    };
    let written = wire::write(&request).expect("written");
    let again: Request = wire::read(&written).expect("what is written is read");
    assert_eq!(again, request);
    assert_eq!(wire::write(&again).expect("written"), written);
    let after: Value = serde_json::from_slice(&written).expect("it is JSON");
    for (name, value) in &request.unknown {
        assert_eq!(after.get(name), Some(value), "{name}");
    }

    let turns: BTreeSet<_> = request.keepers.iter().collect();
    let turns = turns.iter().filter(|keeper| request.is_turn_of(keeper));
    let turns = turns.count();
    assert!(turns <= 1, "{turns}");
    for wall in [Timestamp::ZERO, request.asked_at, request.ended_at] {
        let state = request.state(wall);
        let is_over = matches!(state, State::Done | State::Ended | State::Expired)
            || matches!(state, State::Failed(_, _));
        assert_eq!(request.is_live(wall), !is_over, "{state:?}");
        assert!(state != State::Done || turns == 0, "{turns}");
    }
}

/// Settings that the Go program does not have (`ext/spec`), as stored and, after 0xFF, as typed: what
/// is stored stays, what is typed is taken apart and loses nothing, and a patch twice is a patch once.
pub fn ext_spec(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0xFF);
    let stored = parts.next().unwrap_or_default();
    let Ok(stored) = wire::read::<ExtSpec>(stored) else {
        return;
    };
    let written = wire::write(&stored).expect("written");
    let again: ExtSpec = wire::read(&written).expect("what is written is read");
    assert_eq!(again, stored);
    // Every setting counts, or something is told to be wrong with it.
    let said = |name: &str| stored.fields().any(|(ours, _)| ours == name);
    let settings = ExtSpec::defaults().filter(|(name, _)| said(name)).count();
    assert_eq!(settings + stored.unknown().len(), stored.fields().count());
    let counts = stored.settings();
    let counting = usize::from(counts.max_slot_wal_keep_megabytes.is_some())
        + usize::from(counts.max_slot_wal_keep_time.is_some());
    assert!(counting + stored.problems().len() <= settings);

    let typed = parts.next().map(serde_json::from_slice);
    let Some(Ok(Value::Object(typed))) = typed else {
        return;
    };
    let mut rest = typed.clone();
    let ours = ExtSpec::take(&mut rest, &stored);
    for (name, value) in &typed {
        let spelled = ExtSpec::setting(name).unwrap_or(name);
        let taken = ours.fields().any(|(ours, _)| ours == spelled);
        assert_ne!(taken, rest.get(name) == Some(value), "{name}");
    }
    assert!(rest.keys().all(|name| ExtSpec::setting(name).is_none()));
    let patched = stored.patched(&ours);
    assert_eq!(patched.patched(&ours), patched);
    assert!(patched.fields().all(|(_, value)| !value.is_null()));
}

/// An error tells where the fault is.
fn explains(error: &SpecError) {
    let told = error.to_string();
    assert!(!told.is_empty() && !told.contains("field ?"), "{told}");
}

/// What is read is written as something that reads as the same, and that says all that was said.
fn document<T>(bytes: &[u8])
where
    T: Document + DeserializeOwned + Serialize + PartialEq + Debug,
{
    let Ok(document) = wire::read::<T>(bytes) else {
        return;
    };
    let written = wire::write(&document).expect("written");
    let again: T = wire::read(&written).expect("what is written is read");
    assert_eq!(again, document);
    assert_eq!(wire::write(&again).expect("written"), written);

    let mut before: Value = serde_json::from_slice(bytes).expect("it was read");
    let after: Value = serde_json::from_slice(&written).expect("it is JSON");
    canonical(&mut before, T::SHAPE, "", &mut None);
    kept(&before, Some(&after), T::SHAPE, "document");
}

/// Values that are replaced as a whole and never changed in part: nothing of a later version is kept
/// in them.
const WHOLE: [&str; 2] = ["postgresBinaryVersion", "reasons"];

/// What was said is still said: unknown fields word for word, known ones but for what stands for
/// "not said", and for durations and moments, which are printed in one way.
fn kept(before: &Value, after: Option<&Value>, shape: &Shape, place: &str) {
    if WHOLE.contains(&place) {
        return;
    }
    let Some(after) = after else {
        assert!(is_nothing(before), "{place} is lost: {before}");
        return;
    };
    match (shape, before, after) {
        (Shape::Object(fields), Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let shape = fields.iter().find(|(field, _)| field == name);
                match shape {
                    Some((_, shape)) => kept(value, after.get(name), shape, name),
                    None => assert_eq!(after.get(name), Some(value), "{name} in {place}"),
                }
            }
        }
        (Shape::Map(shape), Value::Object(before), Value::Object(after)) => {
            assert_eq!(before.len(), after.len(), "{place}");
            for (name, value) in before {
                kept(value, after.get(name), shape, name);
            }
        }
        (Shape::List(shape), Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{place}");
            for (value, after) in before.iter().zip(after) {
                kept(value, Some(after), shape, place);
            }
        }
        (Shape::Leaf, Value::String(text), Value::String(printed)) if text != printed => {
            let (duration, moment) = (
                text.parse::<GoDuration>(),
                Timestamp::try_from(text.clone()),
            );
            let same_duration = duration.is_ok() && duration == printed.parse();
            let same_moment = moment.is_ok() && moment == Timestamp::try_from(printed.clone());
            assert!(
                same_duration || same_moment,
                "{place}: {text:?} as {printed:?}"
            );
        }
        (Shape::Leaf | Shape::Object(_) | Shape::Map(_) | Shape::List(_), _, _) => {
            assert_eq!(after, before, "{place}");
        }
    }
}

/// What Go leaves out: false, 0, the empty text, and what holds only such.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
