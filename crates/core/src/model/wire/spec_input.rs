//! A specification as an operator types it: read, checked, and with hints at what was not understood.

use serde_json::Value;

use super::shapes::{CLUSTER_SPEC, Shape, canonical};
use crate::model::ClusterSpec;
use crate::model::spec::SpecProblem;

/// Why a specification is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not an object.
    #[error("a cluster specification is a JSON object, as {{\"initMode\": \"new\"}}")]
    NotAnObject,
    /// A field is of another type.
    #[error("field {field}: {cause}")]
    Type {
        /// The field.
        field: String,
        /// What is wrong with it.
        cause: String,
    },
    /// It says what cannot be.
    #[error("{}", join(.0))]
    Invalid(Vec<SpecProblem>),
}

fn join(problems: &[SpecProblem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A field that nobody knows, with what was perhaps meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecWarning {
    /// The path of the field.
    pub field: String,
    /// The path that was perhaps meant.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for SpecWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown field {} has no effect", self.field)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; is {suggestion} meant?"),
            None => Ok(()),
        }
    }
}

/// Reads and validates a specification.
pub fn read_spec(bytes: &[u8]) -> Result<(ClusterSpec, Vec<SpecWarning>), SpecError> {
    spec_of(serde_json::from_slice(bytes)?)
}

/// Applies a JSON merge patch (RFC 7396: lists are replaced, null removes) and validates the result.
pub fn patch_spec(
    spec: &ClusterSpec,
    patch: &[u8],
) -> Result<(ClusterSpec, Vec<SpecWarning>), SpecError> {
    let mut patch: Value = serde_json::from_slice(patch)?;
    if !patch.is_object() {
        return Err(SpecError::NotAnObject);
    }
    spell(&mut patch, &CLUSTER_SPEC);
    let mut value = serde_json::to_value(spec)?;
    json_patch::merge(&mut value, &patch);
    spec_of(value)
}

/// Brings keys to their spelling and keeps nulls, which in a patch mean "remove".
fn spell(value: &mut Value, shape: &Shape) {
    if let (Shape::Object(fields), Value::Object(object)) = (shape, value) {
        for (name, mut value) in std::mem::take(object) {
            let known = fields
                .iter()
                .find(|(field, _)| field.eq_ignore_ascii_case(&name));
            let name = known.map_or(name, |(field, _)| (*field).to_owned());
            if let Some((_, shape)) = known {
                spell(&mut value, shape);
            }
            object.insert(name, value);
        }
    }
}

fn spec_of(mut value: Value) -> Result<(ClusterSpec, Vec<SpecWarning>), SpecError> {
    if !value.is_object() {
        return Err(SpecError::NotAnObject);
    }
    let mut unknown = Some(Vec::new());
    canonical(&mut value, &CLUSTER_SPEC, "", &mut unknown);
    let spec: ClusterSpec = match serde_json::from_value(value.clone()) {
        Ok(spec) => spec,
        Err(error) => return Err(blame(&value, &error)),
    };
    spec.validate().map_err(SpecError::Invalid)?;
    let warning = |field: String| SpecWarning {
        suggestion: suggest(&field),
        field,
    };
    // In an order that does not depend on how the known fields around them are spelled.
    let mut unknown = unknown.unwrap_or_default();
    unknown.sort();
    Ok((spec, unknown.into_iter().map(warning).collect()))
}

/// Finds the field that cannot be read, by reading each alone.
fn blame(value: &Value, error: &serde_json::Error) -> SpecError {
    let alone = |(name, value): (&String, &Value)| {
        let mut object = serde_json::Map::new();
        object.insert(name.clone(), value.clone());
        let error = serde_json::from_value::<ClusterSpec>(Value::Object(object)).err()?;
        Some(SpecError::Type {
            field: name.clone(),
            cause: error.to_string(),
        })
    };
    let found = value
        .as_object()
        .and_then(|object| object.iter().find_map(alone));
    found.unwrap_or_else(|| SpecError::Type {
        field: "?".to_owned(),
        cause: error.to_string(),
    })
}

/// The known path that an unknown one is most like.
fn suggest(path: &str) -> Option<String> {
    let name = path.rsplit('.').next().unwrap_or(path);
    let mut known = Vec::new();
    collect(&CLUSTER_SPEC, "", &mut known);
    let distance = |candidate: &String| {
        let candidate = candidate.rsplit('.').next().unwrap_or(candidate);
        edit_distance(&name.to_ascii_lowercase(), &candidate.to_ascii_lowercase())
    };
    known
        .into_iter()
        .filter(|candidate| distance(candidate) <= 2)
        .min_by_key(distance)
}

fn collect(shape: &Shape, path: &str, found: &mut Vec<String>) {
    if let Shape::Object(fields) = shape {
        for (name, shape) in *fields {
            let path = if path.is_empty() {
                (*name).to_owned()
            } else {
                format!("{path}.{name}")
            };
            collect(shape, &path, found);
            found.push(path);
        }
    }
}

/// How many letters must be added, removed or changed (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        for (j, right) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
            let change = at(&row, j).saturating_add(usize::from(left != *right));
            let drop = at(&row, j.saturating_add(1)).saturating_add(1);
            let add = at(&next, j).saturating_add(1);
            next.push(change.min(drop).min(add));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{patch_spec, read_spec};
    use serde_json::Value;

    #[test]
    fn what_go_accepts_is_accepted_and_what_it_refuses_is_refused() {
        let path = format!("{}/tests/golden/specs.json", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).expect("golden specs");
        let cases: Vec<Value> = serde_json::from_slice(&bytes).expect("JSON");
        for case in &cases {
            let text = case["in"].as_str().expect("a text");
            let read = read_spec(text.as_bytes());
            if case["out"].is_null() {
                assert!(read.is_err(), "{text} is to be refused: {}", case["error"]);
                continue;
            }
            let (spec, _) = read.unwrap_or_else(|error| panic!("{text}: {error}"));
            let mut written = serde_json::to_value(&spec).expect("written");
            // What Go drops, ours keeps.
            written
                .as_object_mut()
                .expect("an object")
                .remove("unknownField");
            assert_eq!(written, case["out"], "{text}");
        }
    }

    #[test]
    fn misplaced_and_misspelt_fields_draw_a_hint() {
        let cases = [
            (
                "primaryConninfo",
                Some("standbyConfig.standbySettings.primaryConninfo"),
            ),
            ("sleepIntervall", Some("sleepInterval")),
            ("usePgRewinds", Some("usePgrewind")),
            ("somethingElse", None),
        ];
        for (field, expected) in cases {
            let text = format!("{{\"initMode\":\"new\",\"{field}\":\"x\"}}");
            let (_, warnings) = read_spec(text.as_bytes()).expect("accepted");
            let found: Vec<_> = warnings
                .iter()
                .map(|w| (w.field.as_str(), w.suggestion.as_deref()))
                .collect();
            assert_eq!(found, [(field, expected)]);
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_is_expected() {
        let cases = [
            (
                r#"{"initMode":"new","usePgrewind":"true"}"#,
                "field usePgrewind: invalid type: string \"true\", expected a boolean",
            ),
            (
                r#"{"initMode":"new","sleepInterval":"5"}"#,
                "field sleepInterval: invalid duration \"5\"",
            ),
            (
                r#"{"initMode":"new","maxStandbys":0}"#,
                "maxStandbys is 0: it must be at least 1",
            ),
        ];
        for (text, expected) in cases {
            let error = read_spec(text.as_bytes()).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_patch_merges_maps_replaces_lists_and_removes_by_null() {
        let text = r#"{"initMode":"new","pgParameters":{"a":"1","b":"2"},"pgHBA":["x","y"],"failInterval":"9s"}"#;
        let (spec, _) = read_spec(text.as_bytes()).expect("a spec");
        let patch = br#"{"PGPARAMETERS":{"a":null,"c":"3"},"pgHBA":["z"],"failInterval":null}"#;
        let (patched, _) = patch_spec(&spec, patch).expect("patched");
        let written = serde_json::to_value(&patched).expect("written");
        assert_eq!(
            written["pgParameters"],
            serde_json::json!({"b":"2","c":"3"})
        );
        assert_eq!(written["pgHBA"], serde_json::json!(["z"]));
        assert_eq!(patched.fail_interval, None);
        assert!(patch_spec(&spec, b"[]").is_err());
        assert!(patch_spec(&spec, br#"{"initMode":null}"#).is_err());
    }
}
