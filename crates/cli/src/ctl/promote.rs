//! `stolonctl promote`: a standby cluster becomes its own master.

use stolon_core::model::spec::ClusterRole;

use super::Failure;
use super::session::{Session, confirm, spec_of};
use crate::output;

pub(super) async fn run(session: &Session, own: &clap::ArgMatches) -> Result<(), Failure> {
    let is_master = |data: &stolon_core::model::ClusterData| -> Result<bool, Failure> {
        Ok(spec_of(data)?.effective().role == ClusterRole::Primary)
    };
    if is_master(&session.data().await?)? {
        output::talk("cluster spec role already set to master");
        return Ok(());
    }
    if !own.get_flag("yes") && !confirm()? {
        return Ok(());
    }
    session
        .change(|data| {
            if let Some(cluster) = data.cluster.as_mut()
                && let Some(spec) = cluster.spec.as_mut()
            {
                spec.role = Some(ClusterRole::Primary);
                cluster.generation = cluster.generation.next();
            }
            Ok(())
        })
        .await
}
