//! I2: synchronous sets that lose who has every commit.

use stolon_core::model::db::PLACEHOLDER_STANDBY;
use stolon_core::model::{ClusterData, Generation, List};

use crate::small::{Health, Membership, Place, Primary, Small, Standby, db_uid};
use crate::{LEVEL, MEMBER, Proof, edit, proof, waiting};

/// The confirmed member is silent, and there is another standby.
const LOST_ONE: [Standby; 2] = [
    Standby(Health::Silent, Place::Level, Membership::Confirmed),
    LEVEL,
];
/// The set on its way from a silent member to another, which is not confirmed yet.
const UNITING: [Standby; 2] = [
    Standby(Health::Silent, Place::Level, Membership::Confirmed),
    Standby(Health::Streams, Place::Level, Membership::Listed),
];

pub(crate) fn proofs() -> Vec<Proof> {
    let mut proofs = members();
    proofs.extend(steps());
    proofs
}

fn list(after: &mut ClusterData, primary: usize, members: &[usize]) {
    edit(after, primary, |db| {
        db.spec.synchronous_standbys = members.iter().map(|number| db_uid(*number)).collect();
        let (listed, confirmed) = (
            &db.spec.synchronous_standbys,
            &db.status.synchronous_standbys,
        );
        let kept = confirmed
            .iter()
            .filter(|uid| listed.contains(uid))
            .cloned()
            .collect();
        db.status.synchronous_standbys = kept;
    });
}

/// Who is in the set, and counts as confirmed.
fn members() -> Vec<Proof> {
    vec![
        proof(
            "set-changed-blindly",
            Small::synchronous((1, 2), Primary::Converging, &[MEMBER, MEMBER]),
            |_, after| list(after, 0, &[1]),
        ),
        proof(
            "not-synchronous",
            waiting((1, 1), &[MEMBER, LEVEL]),
            |_, after| {
                edit(after, 0, |db| db.spec.synchronous_replication = false);
            },
        ),
        proof(
            "heir-forgotten",
            Small::synchronous((1, 2), Primary::Silent, &[MEMBER, MEMBER]),
            |_, after| list(after, 1, &[]),
        ),
        proof("confirmed-unseen", waiting((1, 1), &UNITING), |_, after| {
            edit(after, 0, |primary| {
                primary.status.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
            });
        }),
        // A report of an earlier generation confirms.
        Proof {
            before: |_, view| {
                let seen = view.dbs.get_mut(&db_uid(0)).expect("seen");
                let report = seen.report.as_mut().expect("a report");
                report.generation = Generation(4);
                report.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
            },
            ..proof(
                "confirmed-unseen",
                waiting((1, 1), &[MEMBER, LEVEL]),
                |_, after| {
                    list(after, 0, &[1, 2]);
                    edit(after, 0, |primary| {
                        primary.status.synchronous_standbys =
                            List(Some(vec![db_uid(1), db_uid(2)]));
                        primary.status.current_generation = Generation(5);
                    });
                },
            )
        },
        proof(
            "confirmed-unseen",
            Small::synchronous((1, 1), Primary::Silent, &[MEMBER, LEVEL]),
            |_, after| {
                list(after, 1, &[2]);
                edit(after, 1, |primary| {
                    primary.status.synchronous_standbys = List(Some(vec![db_uid(2)]));
                });
            },
        ),
    ]
}

/// How the set changes, and how many are in it.
fn steps() -> Vec<Proof> {
    vec![
        proof("too-few-synchronous", waiting((1, 1), &[]), |_, after| {
            edit(after, 0, |db| {
                db.spec.external_synchronous_standbys = List::NULL;
            });
        }),
        proof(
            "placeholder-for-nothing",
            waiting((1, 1), &[MEMBER]),
            |_, after| {
                edit(after, 0, |db| {
                    let name = PLACEHOLDER_STANDBY.to_owned();
                    db.spec.external_synchronous_standbys = List(Some(vec![name]));
                });
            },
        ),
        proof(
            "too-many-synchronous",
            waiting((1, 1), &[MEMBER, MEMBER]),
            |_, after| {
                edit(after, 0, |primary| {
                    primary.spec.synchronous_standbys = List(Some(vec![db_uid(1), db_uid(2)]));
                });
            },
        ),
        // The union of the old and the new set is left out.
        proof("union-skipped", waiting((1, 1), &LOST_ONE), |_, after| {
            list(after, 0, &[2]);
        }),
        // The old member leaves before the new one is confirmed.
        proof(
            "confirmed-dropped",
            waiting((1, 1), &UNITING),
            |_, after| list(after, 0, &[2]),
        ),
        // The only confirmed member leaves because it is silent.
        proof(
            "confirmed-dropped",
            waiting((1, 1), &[UNITING[0]]),
            |_, after| list(after, 0, &[]),
        ),
        proof(
            "unfit-synchronous",
            waiting(
                (1, 2),
                &[
                    MEMBER,
                    Standby(Health::Apart, Place::Level, Membership::Out),
                ],
            ),
            |_, after| list(after, 0, &[1, 2]),
        ),
    ]
}
