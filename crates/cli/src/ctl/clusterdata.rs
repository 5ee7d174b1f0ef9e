//! `stolonctl clusterdata read` and `write`: the whole document, for backups and moves.

use stolon_core::model::wire;
use stolon_store::{Expected, Key, Written};

use super::Failure;
use super::session::{Session, indented, input, spec_of, stdin};
use crate::output;

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    match own.subcommand() {
        Some(("read", own)) => read(session, own.get_flag("pretty")).await,
        Some(("write", own)) => write(session, own).await,
        _ => Err(Failure::Error("say read or write".to_owned())),
    }
}

async fn read(session: &Session, pretty: bool) -> Result<(), Failure> {
    let value = serde_json::to_value(session.data().await?)?;
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
    let bytes = wire::write(&data)?;
    match session
        .store
        .compare_and_swap(&Key::ClusterData, read.expected, &bytes)
        .await
    {
        Written::Yes(_) => {
            output::line("successfully wrote cluster data into the new store")?;
            Ok(())
        }
        Written::Conflict => Err(Failure::Error(
            "the cluster data changed meanwhile: try again".to_owned(),
        )),
        Written::No(error) | Written::Unknown(error) => Err(error.into()),
    }
}
