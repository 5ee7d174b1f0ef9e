//! Documents that form no chain.

use stolon_core::model::{ClusterUid, Generation, Phase, Role};

use crate::small::Small;
use crate::{Proof, edit, failed, first_of_its_generation, proof, rename_primary, serving};

pub(crate) fn proofs() -> Vec<Proof> {
    vec![
        Proof {
            before: |data, _| {
                let spec = data.cluster.as_mut().and_then(|c| c.spec.as_mut());
                spec.expect("a spec").min_synchronous_standbys = Some(9);
            },
            ..proof("acted-on-nonsense", failed(), |_, after| {
                edit(after, 1, |db| db.spec.role = Some(Role::Primary));
            })
        },
        proof("another-cluster", serving(), |_, after| {
            after.cluster.as_mut().expect("a cluster").uid = ClusterUid::from("other");
        }),
        proof(
            "generation-not-first",
            Small {
                free_keepers: 1,
                ..serving()
            },
            |_, after| {
                first_of_its_generation(after).generation = Generation(2);
            },
        ),
        proof("generation-fell", serving(), |_, after| {
            edit(after, 1, |db| db.generation = Generation(4));
        }),
        proof("generation-not-raised", serving(), |_, after| {
            edit(after, 1, |db| db.spec.max_standbys = 7);
        }),
        proof("generation-raised-idly", serving(), |_, after| {
            after.proxy.generation = after.proxy.generation.next();
        }),
        proof("db-without-keeper", serving(), |_, after| {
            after.keepers.remove("k1");
        }),
        proof("db-without-role", serving(), |_, after| {
            edit(after, 1, |db| db.spec.follow_config = None);
        }),
        proof("primary-missing", failed(), |_, after| {
            rename_primary(after, 9);
        }),
        proof("cluster-unmade", serving(), |_, after| {
            let cluster = after.cluster.as_mut().expect("a cluster");
            cluster.status.master = None;
            cluster.status.phase = Some(Phase::Initializing);
        }),
    ]
}
