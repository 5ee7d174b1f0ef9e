//! `stolonctl update`: another specification.

use stolon_core::model::wire;

use super::Failure;
use super::mixed;
use super::session::{Session, input, spec_of, warn};
use super::settings;

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let Some(typed) = input(own, "spec")? else {
        return Err(Failure::Error(
            "no cluster spec provided: give it as an argument or with --file".to_owned(),
        ));
    };
    let patch = own.get_flag("patch");
    let stored = settings::read(session).await?;
    let (typed, ours) = settings::part(typed, &stored.spec)?;
    let wanted = if patch {
        stored.spec.patched(&ours)
    } else {
        ours.clone().said()
    };
    settings::check(session, &stored.spec, &ours, &wanted).await?;
    let go = mixed::go_processes(session).await?;
    let mut read_as = None;
    session
        .change(|data| {
            let old = spec_of(data)?.clone();
            let read = if patch {
                wire::patch_spec(&old, &typed)
            } else {
                wire::read_spec(&typed)
            };
            let (new, warnings) = read.map_err(|error| format!("invalid cluster spec: {error}"))?;
            old.validate_update(&new).map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                format!("cannot update the cluster spec: {}", problems.join("; "))
            })?;
            mixed::check(&new, &go)?;
            if let Some(cluster) = data.cluster.as_mut()
                && old != new
            {
                cluster.spec = Some(new.clone());
                cluster.generation = cluster.generation.next();
            }
            read_as = Some((new, warnings));
            Ok(())
        })
        .await?;
    if let Some((spec, warnings)) = read_as {
        warn(&spec, &warnings);
    }
    settings::write(session, &stored, &wanted).await
}
