//! Clusters that follow a server outside.

use serde_json::json;

use crate::harness::cluster::{Cluster, Keeper, Plan, Store};
use crate::harness::process::give;
use crate::harness::{LIMIT, eventually, within};

/// Waits until an instance has the rows that there are.
#[track_caller]
fn has_rows(keeper: &Keeper, rows: usize) {
    within(2 * LIMIT, "the rows of the source are there", || {
        let found = keeper
            .direct
            .query("SELECT count(*)::text FROM source")
            .ok()?;
        (found == [rows.to_string()]).then_some(())
    });
}

/// Which port an instance streams from.
fn streams_from(keeper: &Keeper) -> Option<String> {
    let sql = "SELECT sender_port::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    keeper.direct.query(sql).ok()?.pop()
}

/// A standby cluster is restored from a backup of another cluster's primary and follows it through a
/// slot of its own; rows come to all its members, and clients read them through its proxy. Its first
/// instance is lost and another one follows the source; it comes back. The cluster is promoted, and
/// is written to.
#[test]
fn a_standby_cluster_follows_fails_over_and_is_promoted() {
    let folder = tempfile::tempdir().expect("a folder");
    give(folder.path());
    let slots = json!(["outside"]);
    let plan = Plan::new(Store::Sqlite)
        .keepers(1)
        .with("additionalMasterReplicationSlots", slots);
    let source = Cluster::start(&plan);
    let primary = &source.keepers[0];
    let ask = |sql: &str| primary.direct.query(sql).expect(sql);
    ask("CREATE TABLE source (id serial)");
    ask("INSERT INTO source DEFAULT VALUES");
    let base = folder.path().join("base");
    primary.copy_to(&base, &["-X", "stream"]);
    let plan = Plan::new(Store::Sqlite)
        .keepers(2)
        .with("initMode", json!("pitr"))
        .with("role", json!("standby"))
        .with(
            "pitrConfig",
            json!({"dataRestoreCommand": format!("cp -a {}/. %d", base.display())}),
        )
        .with(
            "standbyConfig",
            json!({"standbySettings": {
                "primaryConninfo": primary.replication_conninfo(),
                "primarySlotName": "stolon_outside"
            }}),
        );
    let mut cluster = Cluster::begin(&plan);
    ask("INSERT INTO source DEFAULT VALUES");
    for keeper in &cluster.keepers {
        has_rows(keeper, 2);
    }
    let first = cluster.primary();
    let source_port = primary.direct.port.to_string();
    let port_of =
        |cluster: &Cluster, keeper: usize| cluster.keepers[keeper].direct.port.to_string();
    let follows_outside = |cluster: &Cluster, first: usize| {
        let (outside, inside) = (&cluster.keepers[first], &cluster.keepers[1 - first]);
        eventually("one follows the source and the other one that", || {
            let seen = (streams_from(outside)?, streams_from(inside)?);
            (seen == (source_port.clone(), port_of(cluster, first))).then_some(())
        });
    };
    follows_outside(&cluster, first);
    let slot = "SELECT active::text FROM pg_replication_slots WHERE slot_name = 'stolon_outside'";
    assert_eq!(ask(slot), ["true"]);
    // Clients read through the proxy, and cannot write.
    let through_proxy = || cluster.address().query("SELECT count(*)::text FROM source");
    eventually("the proxy leads to it", || {
        (through_proxy().ok()? == ["2"]).then_some(())
    });
    let refused = cluster.address().query("INSERT INTO source DEFAULT VALUES");
    assert!(refused.is_err_and(|error| error.contains("read-only")));

    cluster.keepers[first].kill();
    let second = cluster.another_primary_than(first);
    ask("INSERT INTO source DEFAULT VALUES");
    has_rows(&cluster.keepers[second], 3);
    cluster.keepers[first].daemon.start();
    has_rows(&cluster.keepers[first], 3);
    follows_outside(&cluster, second);

    cluster.ctl(&["promote", "-y"]);
    cluster.is_whole();
    assert_eq!(cluster.primary(), second, "the promotion moved the cluster");
    cluster.writer().goes_on();
    let own = cluster.keepers[second]
        .direct
        .query("INSERT INTO source DEFAULT VALUES");
    own.expect("it is writable");
    has_rows(&cluster.keepers[first], 4);
    has_rows(primary, 3);
}
