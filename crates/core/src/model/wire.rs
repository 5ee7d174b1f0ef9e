//! The door between stored bytes and the model.
//!
//! Go matches field names without regard to case, and takes null for "not said"; documents in the
//! wild use both. So what comes in is first brought to the spelling the model has, by the `shapes`
//! of the documents; fields nobody knows stay as they are.

mod shapes;
mod spec_input;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ClusterData, cluster::FORMAT_VERSION};
pub use shapes::Document;
#[cfg(any(test, fuzzing))]
pub(crate) use shapes::Shape;
pub(crate) use shapes::canonical;
pub use spec_input::{SpecError, SpecWarning, patch_spec, read_spec};

/// Why stored bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not JSON, or not of the document's shape.
    #[error("cannot read the document: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a format that this version does not know.
    #[error(
        "cannot read cluster data of format version {found}: this program knows version \
         {FORMAT_VERSION}"
    )]
    FormatVersion {
        /// The version found.
        found: u64,
    },
}

/// Reads the cluster data; `null`, as `clusterdata` may hold, is none.
pub fn read_cluster_data(bytes: &[u8]) -> Result<Option<ClusterData>, WireError> {
    if serde_json::from_slice::<Value>(bytes)?.is_null() {
        return Ok(None);
    }
    let data: ClusterData = read(bytes)?;
    if data.format_version == FORMAT_VERSION {
        Ok(Some(data))
    } else {
        Err(WireError::FormatVersion {
            found: data.format_version,
        })
    }
}

/// Reads a document.
pub fn read<T: DeserializeOwned + Document>(bytes: &[u8]) -> Result<T, WireError> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    canonical(&mut value, T::SHAPE, "", &mut None);
    Ok(serde_json::from_value(value)?)
}

/// Writes a document.
pub fn write<T: Serialize>(document: &T) -> Result<Vec<u8>, WireError> {
    Ok(serde_json::to_vec(document)?)
}

#[cfg(test)]
mod tests {
    use super::{Document, read, read_cluster_data, write};
    use crate::model::{ClusterData, ClusterSpec, KeeperInfo, ProxyInfo, SentinelInfo};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn golden(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a golden document")
    }

    fn comes_back<T: DeserializeOwned + Document + serde::Serialize>(name: &str) {
        let bytes = golden(name);
        let document: T = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let written: Value =
            serde_json::from_slice(&write(&document).expect("written")).expect("JSON");
        let expected: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(written, expected, "{name}");
    }

    #[test]
    fn every_golden_document_comes_back_as_it_was() {
        for name in [
            "clusterdata-1-just-initialised.json",
            "clusterdata-2-initialising.json",
            "clusterdata-3-normal-synchronous.json",
            "clusterdata-4-failing-over.json",
            "clusterdata-5-standby-cluster.json",
        ] {
            comes_back::<ClusterData>(name);
        }
        for name in [
            "keeperinfo-fresh.json",
            "keeperinfo-running.json",
            "keeperinfo-stopped.json",
        ] {
            comes_back::<KeeperInfo>(name);
        }
        comes_back::<ProxyInfo>("proxyinfo.json");
        comes_back::<SentinelInfo>("sentinelinfo.json");
        for name in ["spec-full.json", "spec-falsy.json", "spec-minimal.json"] {
            comes_back::<ClusterSpec>(name);
        }
    }

    #[test]
    fn fields_of_a_later_version_are_kept_at_every_level() {
        let mut value: Value =
            serde_json::from_slice(&golden("clusterdata-3-normal-synchronous.json")).expect("JSON");
        for path in [
            "/cluster",
            "/cluster/spec",
            "/cluster/status",
            "/proxy",
            "/proxy/spec",
        ] {
            let object = value
                .pointer_mut(path)
                .and_then(Value::as_object_mut)
                .expect("an object");
            object.insert("later".to_owned(), json!({"Nested": [1, null]}));
        }
        for map in ["/keepers", "/dbs"] {
            for entry in value
                .pointer_mut(map)
                .and_then(Value::as_object_mut)
                .expect("a map")
                .values_mut()
            {
                for field in ["spec", "status"] {
                    let object = entry
                        .get_mut(field)
                        .and_then(Value::as_object_mut)
                        .expect("an object");
                    object.insert("later".to_owned(), json!(18_446_744_073_709_551_615_u64));
                }
            }
        }
        let bytes = serde_json::to_vec(&value).expect("JSON");
        let data = read_cluster_data(&bytes).expect("read").expect("there");
        let written: Value = serde_json::from_slice(&write(&data).expect("written")).expect("JSON");
        assert_eq!(written, value);
    }

    #[test]
    fn case_does_not_matter_and_null_is_not_said() {
        let bytes = br#"{"FORMATVERSION":1,"Cluster":{"UID":"c","spec":{"InitMode":"new",
            "sleepinterval":null,"standbyConfig":{"standbySettings":{"primaryConnInfo":"host=x"}}}},
            "keepers":null,"dbs":{"Db1":{"Spec":{"KEEPERUID":"k"}}},"proxy":null}"#;
        let data = read_cluster_data(bytes).expect("read").expect("there");
        let spec = data
            .cluster
            .clone()
            .and_then(|cluster| cluster.spec)
            .expect("a spec");
        let settings = spec
            .standby_config
            .and_then(|config| config.standby_settings);
        assert_eq!(
            settings.map(|settings| settings.primary_conninfo),
            Some("host=x".into())
        );
        assert_eq!(data.dbs["Db1"].spec.keeper_uid.as_str(), "k");
        assert!(read_cluster_data(b"null").expect("read").is_none());
    }

    /// The path of each unknown field would be the length of the name above it: gigabytes.
    #[test]
    fn a_long_name_over_many_unknown_fields_is_read_in_proportion() {
        let fields: Vec<String> = (0..20_000).map(|n| format!("\"f{n}\":0")).collect();
        let name = "n".repeat(500_000);
        let text = format!(
            "{{\"formatVersion\":1,\"dbs\":{{\"{name}\":{{{}}}}}}}",
            fields.join(",")
        );
        let data = read_cluster_data(text.as_bytes()).expect("read");
        let db = data.and_then(|data| data.dbs.into_values().next());
        assert_eq!(db.map(|db| db.unknown.len()), Some(20_000));
    }

    #[test]
    fn another_format_version_is_refused() {
        let error = read_cluster_data(br#"{"formatVersion":2}"#).expect_err("refused");
        assert!(error.to_string().contains("format version 2"), "{error}");
    }

    #[test]
    fn an_unknown_value_of_an_enumeration_is_kept() {
        let bytes = br#"{"formatVersion":1,"dbs":{"a":{"spec":{"role":"witness"}}}}"#;
        let data = read_cluster_data(bytes).expect("read").expect("there");
        let written: Value = serde_json::from_slice(&write(&data).expect("written")).expect("JSON");
        assert_eq!(written.pointer("/dbs/a/spec/role"), Some(&json!("witness")));
    }

    #[test]
    fn durations_are_those_of_go() {
        let vectors: Vec<Value> = serde_json::from_slice(&golden("durations.json")).expect("JSON");
        for vector in &vectors {
            let text = vector["in"].as_str().expect("a text");
            let parsed = text.parse::<crate::model::GoDuration>();
            match vector["out"].as_str() {
                Some(out) => {
                    let duration = parsed.unwrap_or_else(|error| panic!("{text}: {error}"));
                    assert_eq!(duration.to_string(), out, "{text}");
                    assert_eq!(Some(duration.as_nanos()), vector["ns"].as_i64(), "{text}");
                }
                None => assert!(parsed.is_err(), "{text} is to be refused"),
            }
        }
    }

    #[test]
    fn every_cut_or_changed_document_is_read_or_refused_without_a_panic() {
        let bytes = golden("clusterdata-3-normal-synchronous.json");
        for at in (0..bytes.len()).step_by(7) {
            let _ = read_cluster_data(&bytes[..at]);
            for with in [b'"', b'0', b'}', b'[', 0xFF] {
                let mut changed = bytes.clone();
                changed[at] = with;
                let _ = read_cluster_data(&changed);
            }
        }
    }
}
