//! `stolonctl clusterdata read` and `write`: the whole document, for backups and moves.

use serde_json::Value;
use stolon_core::model::{ExtSpec, wire};
use stolon_store::{Expected, Key, Written};

use super::Failure;
use super::session::{Session, indented, input, spec_of, stdin};
use super::settings;
use crate::output;

/// The field that holds what lies beside the cluster data in the store, the settings of ours. It is
/// there only between a read and a write: the Go program, which does not know it, passes over it.
const SETTINGS: &str = "extSpec";

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    match own.subcommand() {
        Some(("read", own)) => read(session, own.get_flag("pretty")).await,
        Some(("write", own)) => write(session, own).await,
        _ => Err(Failure::Error("say read or write".to_owned())),
    }
}

async fn read(session: &Session, pretty: bool) -> Result<(), Failure> {
    let mut value = serde_json::to_value(session.data().await?)?;
    let settings = settings::read(session).await?.spec;
    if let Value::Object(fields) = &mut value
        && !settings.is_empty()
    {
        fields.insert(SETTINGS.to_owned(), serde_json::to_value(settings)?);
    }
    let text = if pretty {
        indented(&value)?
    } else {
        value.to_string()
    };
    Ok(output::line(&text)?)
}

async fn write(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let bytes = match input(own, "-")? {
        Some(bytes) => bytes,
        None => stdin()?,
    };
    let (bytes, settings) = part(bytes)?;
    let data = wire::read_cluster_data(&bytes)
        .map_err(|error| format!("invalid cluster data: {error}"))?
        .ok_or("invalid cluster data: it is null")?;
    // Anything that is an object could be read so; in a store it would be the end of a cluster.
    spec_of(&data).map_err(|_| {
        "invalid cluster data: there is no cluster with a spec in it; give what stolonctl \
         clusterdata read printed"
    })?;
    let read = session.read().await?;
    if read.expected != Expected::Absent && !own.get_flag("yes") {
        return Err(Failure::Error(
            "WARNING: cluster data already available use --yes to override".to_owned(),
        ));
    }
    // Settings that the document does not have stay as they are.
    let stored = settings::read(session).await?;
    let settings = settings.unwrap_or_else(|| stored.spec.clone());
    settings::check(session, &stored.spec, &settings, &settings).await?;
    let bytes = wire::write(&data)?;
    match session
        .store
        .compare_and_swap(&Key::ClusterData, read.expected, &bytes)
        .await
    {
        Written::Yes(_) => {
            settings::write(session, &stored, &settings).await?;
            output::line("successfully wrote cluster data into the new store")?;
            Ok(())
        }
        Written::Conflict => Err(Failure::Error(
            "the cluster data changed meanwhile: try again".to_owned(),
        )),
        Written::No(error) | Written::Unknown(error) => Err(error.into()),
    }
}

/// Parts what was read into the document and the settings; what is no JSON object is left to whoever
/// reads the document.
fn part(read: Vec<u8>) -> Result<(Vec<u8>, Option<ExtSpec>), Failure> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&read) else {
        return Ok((read, None));
    };
    let Some(settings) = fields.remove(SETTINGS) else {
        return Ok((read, None));
    };
    let settings = serde_json::from_value(settings)
        .map_err(|error| format!("invalid cluster data: {SETTINGS}: {error}"))?;
    Ok((serde_json::to_vec(&fields)?, Some(settings)))
}
