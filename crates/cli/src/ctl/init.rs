//! `stolonctl init`: a new cluster.

use stolon_core::model::{ClusterData, ClusterUid, Generation, wire};
use stolon_daemons::runtime::{clock, names};
use stolon_store::{Expected, Key, Written};

use super::Failure;
use super::mixed;
use super::session::{Session, confirm, input, warn};
use super::settings;
use crate::output;

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let typed = input(own, "spec")?.unwrap_or_else(|| br#"{"initMode":"new"}"#.to_vec());
    let stored = settings::read(session).await?;
    let (typed, settings) = settings::part(typed, &stored.spec)?;
    let settings = settings.said();
    settings::check(session, &stored.spec, &settings, &settings).await?;
    let (spec, warnings) =
        wire::read_spec(&typed).map_err(|error| format!("invalid cluster spec: {error}"))?;
    warn(&spec, &warnings);
    mixed::check(&spec, &mixed::go_processes(session).await?)?;
    let read = session.read().await?;
    let present = read.expected != Expected::Absent;
    if let Some(data) = &read.data {
        refuse_to_replace(data, own.get_one::<String>("replace-cluster"))?;
    }
    if present {
        output::line("WARNING: The current cluster data will be removed")?;
    }
    output::line(
        "WARNING: The databases managed by the keepers will be overwritten depending on the \
         provided cluster spec.",
    )?;
    if !own.get_flag("yes") && !confirm()? {
        return Ok(());
    }
    let uid = ClusterUid::new(names::short());
    let mut data = ClusterData::new(uid, spec, clock::wall());
    // Proxies and Go processes compare generations for equality: it must not stand where it stood.
    data.proxy.generation = read
        .data
        .map_or(Generation::NONE, |old| old.proxy.generation.next());
    let bytes = wire::write(&data)?;
    // What was looked at is what is replaced: nobody's cluster slips in between.
    match session
        .store
        .compare_and_swap(&Key::ClusterData, read.expected, &bytes)
        .await
    {
        Written::Yes(_) => settings::write(session, &stored, &settings).await,
        Written::Conflict => Err(Failure::Error(
            "the cluster data changed meanwhile: nothing was replaced, look again".to_owned(),
        )),
        Written::No(error) | Written::Unknown(error) => Err(error.into()),
    }
}

/// A cluster that has dbs is replaced only by its name: install scripts run `init -y` (A11).
fn refuse_to_replace(data: &ClusterData, named: Option<&String>) -> Result<(), Failure> {
    let uid = data
        .cluster
        .as_ref()
        .map(|cluster| cluster.uid.to_string())
        .unwrap_or_default();
    if data.dbs.is_empty() {
        return Ok(());
    }
    match named {
        Some(named) if *named == uid => Ok(()),
        Some(named) => Err(Failure::WouldReplace(format!(
            "the present cluster is {uid}, not {named}: nothing was replaced"
        ))),
        None => Err(Failure::WouldReplace(format!(
            "there is a cluster that has data, uid {uid}: to replace it and lose them say \
             --replace-cluster {uid}"
        ))),
    }
}
