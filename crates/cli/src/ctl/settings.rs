//! The settings that the Go program's specification does not have: a document of their own in the
//! store, one specification with the rest for those who type and read it.

use serde_json::Value;
use stolon_core::model::report::FEATURE_EXT_SPEC;
use stolon_core::model::{ExtSpec, wire};
use stolon_store::{Expected, Folder, Key, Written};

use super::Failure;
use super::mixed;
use super::session::Session;
use crate::output;

/// The settings as they are stored.
pub(super) struct Stored {
    pub(super) spec: ExtSpec,
    expected: Expected,
}

/// Reads them; none stored is none said.
pub(super) async fn read(session: &Session) -> Result<Stored, Failure> {
    let entry = session.store.get(&Key::ExtSpec).await?;
    let Some(entry) = entry else {
        return Ok(Stored {
            spec: ExtSpec::default(),
            expected: Expected::Absent,
        });
    };
    let spec = wire::read(&entry.value).map_err(|error| format!("{}: {error}", Key::ExtSpec))?;
    Ok(Stored {
        spec,
        expected: Expected::At(entry.revision),
    })
}

/// Parts what was typed into the settings and the Go program's specification; what is no JSON object
/// is left to whoever reads that.
pub(super) fn part(typed: Vec<u8>, present: &ExtSpec) -> Result<(Vec<u8>, ExtSpec), Failure> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&typed) else {
        return Ok((typed, ExtSpec::default()));
    };
    let ours = ExtSpec::take(&mut fields, present);
    if ours.is_empty() {
        // A duplicate of a field, or its place, would be lost for nothing.
        return Ok((typed, ours));
    }
    Ok((serde_json::to_vec(&fields)?, ours))
}

/// Refuses what cannot be, and what a live keeper would not know of.
pub(super) async fn check(
    session: &Session,
    present: &ExtSpec,
    typed: &ExtSpec,
    wanted: &ExtSpec,
) -> Result<(), Failure> {
    // What another version stored stops nobody who types something else.
    let problems = typed.clone().said().problems();
    if !problems.is_empty() {
        let problems = problems.join("; ");
        return Err(Failure::Error(format!("invalid cluster spec: {problems}")));
    }
    if wanted == present || wanted.is_empty() {
        return Ok(());
    }
    let lacking = mixed::lacking(session, Folder::Keepers, FEATURE_EXT_SPEC).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    let fields: Vec<&str> = wanted.fields().map(|(name, _)| name.as_str()).collect();
    Err(Failure::Error(format!(
        "{} refused while processes run that do not know of it: {}",
        fields.join(", "),
        lacking.join(", ")
    )))
}

/// Stores other settings; the rest of the specification is stored already.
pub(super) async fn write(
    session: &Session,
    present: &Stored,
    wanted: &ExtSpec,
) -> Result<(), Failure> {
    for name in wanted.unknown() {
        output::talk(&format!("warning: unknown field {name} has no effect"));
    }
    if present.spec == *wanted {
        return Ok(());
    }
    let bytes = wire::write(wanted)?;
    let key = Key::ExtSpec;
    let written = session
        .store
        .compare_and_swap(&key, present.expected, &bytes);
    let failed = |why: String| {
        let names: Vec<&str> = wanted.fields().map(|(name, _)| name.as_str()).collect();
        Err(Failure::Error(format!(
            "the specification is stored but for its settings [{}]: {why}; look at stolonctl spec \
             and try again",
            names.join(" ")
        )))
    };
    match written.await {
        Written::Yes(_) => Ok(()),
        Written::Conflict => failed("somebody else changed them meanwhile".to_owned()),
        Written::No(error) => failed(error.to_string()),
        Written::Unknown(error) => failed(format!("no answer to the write: {error}")),
    }
}
