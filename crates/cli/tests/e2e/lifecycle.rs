//! Beginning, stopping, starting again; processes killed at awkward moments.

use rustix::process::Signal;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::{can_make_hosts, eventually, process};
use crate::on_each_store;

on_each_store!(
    several_keepers_are_initialised_and_follow,
    the_whole_cluster_is_killed_and_starts_again,
    a_keeper_is_killed_again_and_again_while_it_copies,
);

fn several_keepers_are_initialised_and_follow(store: Store) {
    let cluster = Cluster::start(&Plan::new(store));
    let writer = cluster.writer();
    let account = writer.stop();
    cluster.has_all(&account);
    for standby in cluster.standbys() {
        cluster.follows(standby);
    }
    let status = cluster.ctl(&["status"]);
    assert!(status.contains("=== Active sentinels ==="), "{status}");
    let master = format!("Master Keeper: {}", cluster.keepers[cluster.primary()].uid);
    assert!(status.contains(&master), "{status}");
}

/// B6, A3: nothing is copied anew, nothing lost, nobody has to help.
fn the_whole_cluster_is_killed_and_starts_again(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store).synchronous());
    let writer = cluster.writer();
    writer.goes_on();
    for keeper in &mut cluster.keepers {
        keeper.kill();
    }
    cluster.sentinels[0].kill();
    cluster.proxy.kill();
    for member in &mut cluster.etcd {
        member.kill();
    }
    // The store last: everything else comes up without it.
    for keeper in &mut cluster.keepers {
        keeper.daemon.start();
    }
    cluster.proxy.start();
    cluster.sentinels[0].start();
    for member in &mut cluster.etcd {
        member.start();
    }
    writer.goes_on();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
    for keeper in &cluster.keepers {
        let copies = keeper.daemon.said().matches("copy finished").count();
        assert!(copies <= 1, "{} was copied anew", keeper.uid);
    }
}

#[test]
fn daemons_stop_when_asked_and_go_on_when_started() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let account = cluster.writer().stop();
    cluster.proxy.stop();
    cluster.sentinels[0].stop();
    for keeper in &mut cluster.keepers {
        keeper.daemon.stop();
        let left = process::working_in(&keeper.pgdata);
        assert!(left.is_empty(), "left of {}: {left:?}", keeper.uid);
    }
    for keeper in &mut cluster.keepers {
        keeper.daemon.start();
    }
    cluster.sentinels[0].start();
    cluster.proxy.start();
    cluster.is_whole();
    cluster.has_all(&account);
}

/// The boot rule: a keeper that is replaced, as for an upgrade, takes the running instance over.
#[test]
fn a_keeper_killed_alone_disturbs_no_client() {
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(2));
    let primary = cluster.primary();
    let postmaster = cluster.keepers[primary].postmaster();
    let writer = cluster.writer();
    cluster.keepers[primary].daemon.kill();
    cluster.keepers[primary].daemon.start();
    eventually("the keeper takes the instance over", || {
        let said = cluster.keepers[primary].daemon.said();
        said.contains("taking over the running postgres instance")
            .then_some(())
    });
    cluster.is_whole();
    writer.goes_on();
    assert_eq!(cluster.keepers[primary].postmaster(), postmaster);
    let account = writer.stop();
    assert!(
        account.errors.is_empty(),
        "clients noticed: {:?}",
        account.errors
    );
    cluster.has_all(&account);
}

/// A3: the copy is made beside the old data; the keeper may die at any moment of it.
fn a_keeper_is_killed_again_and_again_while_it_copies(store: Store) {
    let mut cluster = Cluster::start(&Plan::new(store));
    let primary = cluster.primary();
    let big =
        "CREATE TABLE big AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 200000) n";
    cluster.address().query(big).expect("a big table");
    let writer = cluster.writer();
    // What is not yet there when the primary dies is lost, the writer's table too.
    for standby in cluster.standbys() {
        cluster.follows(standby);
    }
    cluster.keepers[primary].kill();
    cluster.another_primary_than(primary);
    writer.goes_on();
    let moments = [
        "copying the primary's data",
        "copying the followed instance",
        "copy finished",
    ];
    for (round, moment) in moments.iter().enumerate() {
        let before = cluster.keepers[primary].daemon.said().len();
        cluster.keepers[primary].daemon.start();
        eventually(&format!("round {round}: {moment}"), || {
            cluster.keepers[primary].daemon.said()[before..]
                .contains(moment)
                .then_some(())
        });
        cluster.keepers[primary].kill();
        let data = &cluster.keepers[primary].pgdata;
        assert!(
            data.join("global/pg_control").exists(),
            "killed at {moment:?}: no data are left"
        );
    }
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    drop(writer.stop());
    cluster.follows(primary);
    let rows = cluster.keepers[primary]
        .direct
        .query("SELECT count(*) FROM big");
    assert_eq!(rows, Ok(vec!["200000".to_owned()]));
    let folder = cluster.keepers[primary].pgdata.parent().expect("a folder");
    eventually(
        "nothing is left of the old data and the broken copies",
        || {
            let entries = std::fs::read_dir(folder).expect("readable").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            (names == ["dbstate", "disk-probe", "keeperstate", "lock", "postgres"]).then_some(())
        },
    );
}

/// A container's first process gets every orphan, and no signal it does not ask for.
#[test]
fn a_keeper_is_the_first_process_of_a_container() {
    if !can_make_hosts("a_keeper_is_the_first_process_of_a_container") {
        return;
    }
    let mut cluster = Cluster::start(&Plan::new(Store::Sqlite).keepers(1));
    let writer = cluster.writer();
    cluster.keepers[0].daemon.stop();
    cluster.keepers[0].daemon.surroundings.first_process = true;
    cluster.keepers[0].daemon.start();
    writer.goes_on();
    // Its backends become orphans of the keeper.
    let postmaster = eventually("a postmaster", || {
        let pids = process::working_in(&cluster.keepers[0].pgdata);
        let parents: Vec<Option<i32>> = pids.iter().map(|pid| process::parent(*pid)).collect();
        let is_postmaster = |pid: &&i32| parents.contains(&Some(**pid));
        pids.iter().find(is_postmaster).copied()
    });
    let keeper = process::parent(postmaster).expect("the keeper");
    process::send(postmaster, Signal::KILL);
    writer.goes_on();
    eventually("no zombies are left", || {
        process::children(keeper)
            .iter()
            .all(|pid| !process::is_zombie(*pid))
            .then_some(())
    });
    process::send(keeper, Signal::TERM);
    eventually("the keeper and its instance have ended", || {
        let left = process::working_in(&cluster.keepers[0].pgdata);
        (left.is_empty() && !std::path::Path::new(&format!("/proc/{keeper}")).exists())
            .then_some(())
    });
    let said = cluster.keepers[0].daemon.said();
    assert!(
        said.contains("database system is shut down"),
        "a clean stop"
    );
}
