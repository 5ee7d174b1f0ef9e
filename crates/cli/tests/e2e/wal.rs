//! The WAL that standbys need: kept on every member that may become the primary, and no longer than
//! allowed.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;

use crate::harness::cluster::{Cluster, Plan, Store};
use crate::harness::eventually;

/// The other store would tell nothing more.
fn plan() -> Plan {
    // As little as PostgreSQL keeps by itself.
    let parameters = json!({
        "wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB",
        "wal_recycle": "off"
    });
    Plan::new(Store::Sqlite).with("pgParameters", parameters)
}

/// The slots of an instance: name, and position in files of WAL.
fn slots(cluster: &Cluster, keeper: usize) -> Vec<(String, u64)> {
    let sql = "SELECT slot_name || ' ' || div(restart_lsn - '0/0', 16777216)
        FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 1";
    let rows = cluster.keepers[keeper].direct.query(sql);
    let read = |row: &String| {
        let (name, file) = row.split_once(' ')?;
        Some((name.to_owned(), file.parse().ok()?))
    };
    rows.unwrap_or_default().iter().filter_map(read).collect()
}

/// The slot of a keeper's db.
fn slot_of(cluster: &Cluster, keeper: usize) -> String {
    let uid = &cluster.keepers[keeper].uid;
    let data = cluster.data().unwrap_or_default();
    let dbs = data["dbs"].as_object().cloned().unwrap_or_default();
    let mut dbs = dbs.iter();
    let (db, _) = dbs
        .find(|(_, db)| db["spec"]["keeperUID"] == uid.as_str())
        .expect("a db");
    format!("stolon_{db}")
}

/// Fills so many files of WAL.
fn fill(cluster: &Cluster, files: usize) {
    let next = "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()";
    let address = cluster.address();
    for _ in 0..files {
        eventually("the next file", || address.query(next).ok());
    }
}

/// The number of the oldest file of WAL that an instance has.
fn oldest(cluster: &Cluster, keeper: usize) -> Option<u64> {
    let sql = "SELECT min(('x' || substr(name, 17))::bit(32)::int) FROM pg_ls_waldir()
        WHERE name ~ '^[0-9A-F]{24}$'";
    let rows = cluster.keepers[keeper].direct.query(sql).ok()?;
    rows.first()?.parse().ok()
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a folder").ino()
}

/// C5: who becomes the primary has what a standby missed that was away meanwhile.
#[test]
fn a_standby_that_was_away_during_a_failover_is_not_copied() {
    let mut cluster = Cluster::start(&plan());
    let (old, standbys) = (cluster.primary(), cluster.standbys());
    let (away, new) = (standbys[0], standbys[1]);
    let slot = slot_of(&cluster, away);
    let at = |cluster: &Cluster, keeper: usize| {
        let slots = slots(cluster, keeper);
        slots.iter().find(|kept| kept.0 == slot).map(|kept| kept.1)
    };
    let first = eventually("the other standby keeps a slot", || at(&cluster, new));
    fill(&cluster, 4);
    eventually("and lets go what is not needed", || {
        at(&cluster, new).filter(|file| *file >= first + 3)
    });
    let writer = cluster.writer();
    writer.writes(5);
    let copy = inode(&cluster.keepers[away].pgdata);
    cluster.keepers[away].kill();
    writer.goes_on();
    fill(&cluster, 8);
    for keeper in [old, new] {
        eventually("WAL is removed up to where the slots keep it", || {
            cluster.keepers[keeper].direct.query("CHECKPOINT").ok()?;
            // Each by its own slot: that of the primary may be a file further.
            let kept = at(&cluster, keeper)?;
            oldest(&cluster, keeper).filter(|file| *file > first && *file <= kept)
        });
    }
    cluster.keepers[old].kill();
    assert_eq!(cluster.another_primary_than(old), new);
    writer.goes_on();
    fill(&cluster, 4);
    for _ in 0..2 {
        let checkpoint = || cluster.address().query("CHECKPOINT").ok();
        eventually("a checkpoint", checkpoint);
    }
    cluster.keepers[away].daemon.start();
    cluster.is_whole_with(2);
    drop(writer.stop());
    cluster.follows(away);
    assert_eq!(slot_of(&cluster, away), slot, "the same db");
    assert_eq!(inode(&cluster.keepers[away].pgdata), copy, "and its data");
    let said = cluster.keepers[away].daemon.said();
    assert_eq!(said.matches("copy finished").count(), 1, "{said}");
    // The deposed one's db is gone, and with it what was kept for it. Others' slots are kept too.
    let more = r#"{"additionalMasterReplicationSlots": ["audit"]}"#;
    cluster.ctl(&["update", "--patch", more]);
    for (keeper, expected) in [
        (new, vec!["stolon_audit", &slot]),
        (away, vec!["stolon_audit"]),
    ] {
        eventually("there are the slots that are needed, and no others", || {
            let slots = slots(&cluster, keeper);
            let mut names: Vec<&str> = slots.iter().map(|slot| slot.0.as_str()).collect();
            names.sort_by_key(|name| *name != "stolon_audit");
            (names == expected).then_some(())
        });
    }
}
