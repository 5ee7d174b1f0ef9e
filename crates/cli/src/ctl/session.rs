//! What the commands share: the store, and changes of the cluster data that lose nobody else's.

use std::io::{BufRead as _, Read as _};
use std::sync::Arc;

use stolon_core::model::{ClusterData, ClusterSpec, wire};
use stolon_store::{Expected, Key, Revision, Store, Written};

use super::Failure;
use crate::output;

/// How often a change is tried again when somebody else was faster.
pub(super) const ATTEMPTS: usize = 3;

/// An open store.
pub(super) struct Session {
    pub(super) store: Arc<dyn Store>,
}

/// A document with the revision it was read at.
pub(super) struct Read {
    pub(super) data: Option<ClusterData>,
    pub(super) expected: Expected,
}

impl Session {
    pub(super) fn open(config: &stolon_store::Config) -> Result<Self, Failure> {
        Ok(Self {
            store: stolon_store::open(config)?,
        })
    }

    pub(super) async fn read(&self) -> Result<Read, Failure> {
        let entry = self.store.get(&Key::ClusterData).await?;
        let expected = expected(entry.as_ref().map(|entry| entry.revision));
        let data = match entry {
            None => None,
            Some(entry) => wire::read_cluster_data(&entry.value)?,
        };
        Ok(Read { data, expected })
    }

    /// The cluster data, which must be there.
    pub(super) async fn data(&self) -> Result<ClusterData, Failure> {
        let data = self.read().await?.data;
        data.ok_or_else(|| {
            Failure::Error("no cluster data available: initialize with stolonctl init".to_owned())
        })
    }

    /// Changes the cluster data, trying again when somebody else was faster.
    pub(super) async fn change(
        &self,
        mut change: impl FnMut(&mut ClusterData) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let Read { data, expected } = self.read().await?;
            let Some(mut data) = data else {
                return Err(Failure::Error(
                    "no cluster data available: initialize with stolonctl init".to_owned(),
                ));
            };
            change(&mut data)?;
            let bytes = wire::write(&data)?;
            match self
                .store
                .compare_and_swap(&Key::ClusterData, expected, &bytes)
                .await
            {
                Written::Yes(_) => return Ok(()),
                Written::Conflict => {}
                Written::No(error) => return Err(error.into()),
                Written::Unknown(error) => {
                    return Err(Failure::Error(format!(
                        "no answer to the write, which may have been stored: {error}; look at \
                         stolonctl status before trying again"
                    )));
                }
            }
        }
        Err(Failure::Error(format!(
            "the cluster data changed during each of {ATTEMPTS} attempts: try again"
        )))
    }
}

fn expected(revision: Option<Revision>) -> Expected {
    revision.map_or(Expected::Absent, Expected::At)
}

/// The spec of a cluster, which a stored cluster always has.
pub(super) fn spec_of(data: &ClusterData) -> Result<&ClusterSpec, Failure> {
    let spec = data
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.as_ref());
    spec.ok_or_else(|| Failure::Error("the cluster data hold no cluster spec".to_owned()))
}

/// The text given as an argument, in a file, or on stdin.
pub(super) fn input(own: &clap::ArgMatches, argument: &str) -> Result<Option<Vec<u8>>, Failure> {
    let typed = own.try_get_one::<String>(argument).ok().flatten();
    let file = own.get_one::<String>("file");
    match (typed, file.map(String::as_str)) {
        (Some(_), Some(_)) => Err(Failure::Error(
            "give the text as an argument or with --file, not both".to_owned(),
        )),
        (Some(text), None) => Ok(Some(text.clone().into_bytes())),
        (None, Some("-")) => Ok(Some(stdin()?)),
        (None, Some(path)) => {
            let bytes = std::fs::read(path);
            Ok(Some(
                bytes.map_err(|error| format!("cannot read {path}: {error}"))?,
            ))
        }
        (None, None) => Ok(None),
    }
}

pub(super) fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Asks for a yes; false: no.
pub(super) fn confirm() -> Result<bool, Failure> {
    let mut lines = std::io::stdin().lock().lines();
    loop {
        output::data("Are you sure you want to continue? [yes/no] ")?;
        match lines.next() {
            None => return Err(Failure::Error("no answer: nothing was changed".to_owned())),
            Some(line) => match line?.trim() {
                "yes" => return Ok(true),
                "no" => {
                    output::line("exiting")?;
                    return Ok(false);
                }
                _ => output::line("Please enter 'yes' or 'no'")?,
            },
        }
    }
}

/// Prints hints at fields that were not understood, and at what is surely not meant.
pub(super) fn warn(spec: &ClusterSpec, warnings: &[wire::SpecWarning]) {
    for warning in warnings {
        output::talk(&format!("warning: {warning}"));
    }
    for doubt in spec.doubts() {
        output::talk(&format!("warning: {doubt}"));
    }
}

/// Indented by tabs, as the Go program prints.
pub(super) fn indented(value: &serde_json::Value) -> Result<String, Failure> {
    use serde::Serialize as _;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ))?;
    Ok(String::from_utf8(bytes)?)
}
