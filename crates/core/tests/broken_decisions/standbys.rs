//! I7: copies given up that may be needed, and made where they must not be.

use stolon_core::model::spec::{ClusterInitMode, ExistingConfig};
use stolon_core::model::{ClusterData, InitMode, Phase};

use crate::small::{Health, Membership, Place, Primary, Small, Standby, db_uid};
use crate::{
    LEVEL, MEMBER, Proof, edit, failed, first_of_its_generation, later, new_standby, proof,
    serving, waiting,
};

pub(crate) fn proofs() -> Vec<Proof> {
    let mut proofs = deletions();
    proofs.extend(creations());
    proofs
}

fn delete(after: &mut ClusterData, number: usize) {
    after.dbs.remove(&db_uid(number));
}

fn deletions() -> Vec<Proof> {
    vec![
        proof("keeper-forgotten-early", serving(), |_, after| {
            delete(after, 2);
            after.keepers.remove("k2");
        }),
        Proof {
            before: |data, _| {
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.status.phase = Some(Phase::Initializing);
            },
            ..proof("deleted-while-initialising", serving(), |_, after| {
                delete(after, 1);
            })
        },
        // What is taken over is there and nowhere else.
        Proof {
            before: |data, _| {
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.status.phase = Some(Phase::Initializing);
                edit(data, 0, |db| db.spec.init_mode = Some(InitMode::Existing));
            },
            ..proof("deleted-while-initialising", serving(), |_, after| {
                delete(after, 0);
            })
        },
        Proof {
            before: later,
            ..proof("later-primary-deleted", serving(), |_, after| {
                delete(after, 1);
            })
        },
        // The decision that elects also deletes the old primary.
        proof("primary-deleted", failed(), |_, after| delete(after, 0)),
        proof(
            "synchronous-deleted",
            waiting((1, 1), &[MEMBER, LEVEL]),
            |_, after| {
                delete(after, 1);
            },
        ),
        // The last copy but one goes while the primary is not well.
        proof(
            "deleted-without-primary",
            Small::asynchronous(
                Primary::Sick,
                &[Standby(Health::Sick, Place::Level, Membership::Out)],
            ),
            |_, after| delete(after, 1),
        ),
    ]
}

fn creations() -> Vec<Proof> {
    vec![
        proof("keeper-not-free", serving(), |_, after| {
            let new = new_standby(9, "k2");
            after.dbs.insert(new.uid.clone(), new);
        }),
        proof(
            "created-otherwise",
            Small {
                free_keepers: 1,
                ..serving()
            },
            |_, after| {
                first_of_its_generation(after).spec.init_mode = Some(InitMode::New);
            },
        ),
        // What is taken over is taken from whom the operator named.
        Proof {
            before: |data, _| {
                let cluster = data.cluster.as_mut().expect("a cluster");
                cluster.status.phase = Some(Phase::Initializing);
                cluster.status.master = None;
                let spec = cluster.spec.as_mut().expect("a spec");
                spec.init_mode = Some(ClusterInitMode::Existing);
                spec.existing_config = Some(ExistingConfig {
                    keeper_uid: "k1".into(),
                    ..ExistingConfig::default()
                });
            },
            ..proof(
                "created-otherwise",
                Small {
                    free_keepers: 2,
                    ..Small::asynchronous(Primary::Gone, &[])
                },
                |_, after| first_of_its_generation(after).spec.keeper_uid = "k2".into(),
            )
        },
        proof(
            "created-without-primary",
            Small {
                free_keepers: 1,
                ..Small::asynchronous(Primary::Sick, &[])
            },
            |_, after| {
                let new = new_standby(9, "k1");
                after.dbs.insert(new.uid.clone(), new);
            },
        ),
        proof(
            "standby-unneeded",
            Small {
                free_keepers: 2,
                senders: 3,
                ..serving()
            },
            |_, after| {
                let new = new_standby(9, "k4");
                after.dbs.insert(new.uid.clone(), new);
            },
        ),
    ]
}
