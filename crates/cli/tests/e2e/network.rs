//! Hosts whose links are cut, with an etcd member, a sentinel and a keeper each.

use std::time::Duration;

use crate::harness::cluster::{Cluster, Plan};
use crate::harness::writer::Account;
use crate::harness::{can_make_hosts, eventually, stays};

/// A5, I1, I2: the primary's host is cut off from everything and comes back.
#[test]
fn the_primarys_host_is_cut_off_and_returns() {
    if !can_make_hosts("the_primarys_host_is_cut_off_and_returns") {
        return;
    }
    let cluster = Cluster::start(&Plan::on_hosts().synchronous());
    let account = the_primary_is_cut_off_and_returns(&cluster);
    cluster.has_all(&account);
}

/// The same with asynchronous replication: the winner is the most advanced, and the old one rejoins.
#[test]
fn an_asynchronous_primarys_host_is_cut_off_and_returns() {
    if !can_make_hosts("an_asynchronous_primarys_host_is_cut_off_and_returns") {
        return;
    }
    let cluster = Cluster::start(&Plan::on_hosts());
    the_primary_is_cut_off_and_returns(&cluster);
}

fn the_primary_is_cut_off_and_returns(cluster: &Cluster) -> Account {
    let primary = cluster.primary();
    let writer = cluster.writer();
    let network = cluster.network.as_ref().expect("hosts");
    network.cut(primary);
    let new = cluster.another_primary_than(primary);
    writer.goes_on();
    network.heal(primary);
    cluster.is_whole();
    assert_eq!(cluster.primary(), new, "the lost one takes nothing back");
    cluster.follows(primary);
    writer.stop()
}

/// B5: one store member in three is frozen; nobody notices.
#[test]
fn one_member_of_the_store_is_frozen() {
    if !can_make_hosts("one_member_of_the_store_is_frozen") {
        return;
    }
    let plan = Plan::on_hosts().with("proxyTimeout", "10s".into());
    let cluster = Cluster::start(&plan);
    let primary = cluster.primary();
    let writer = cluster.writer();
    for member in 0..3 {
        cluster.etcd[member].freeze();
        stays(Duration::from_secs(12), "the cluster serves", || {
            cluster.address().query("SELECT 1").is_ok()
        });
        cluster.etcd[member].thaw();
        cluster.is_whole();
    }
    assert_eq!(cluster.primary(), primary);
    let account = writer.stop();
    assert!(
        account.errors.is_empty(),
        "clients noticed: {:?}",
        account.errors
    );
    cluster.has_all(&account);
}

/// A1: a standby that was cut off the primary, and only that, is not promoted while writes went on.
#[test]
fn only_the_replication_link_breaks() {
    if !can_make_hosts("only_the_replication_link_breaks") {
        return;
    }
    let mut cluster = Cluster::start(&Plan::on_hosts().synchronous());
    let primary = cluster.primary();
    let [one, other] = cluster.standbys()[..] else {
        panic!("two standbys");
    };
    let writer = cluster.writer();
    cluster.network.as_ref().expect("hosts").block(primary, one);
    // With the other as its synchronous standby the primary goes on.
    writer.goes_on();
    writer.writes(200);
    cluster.keepers[primary].kill();
    assert_eq!(cluster.another_primary_than(primary), other);
    writer.goes_on();
    cluster
        .network
        .as_ref()
        .expect("hosts")
        .unblock(primary, one);
    cluster.keepers[primary].daemon.start();
    cluster.is_whole();
    cluster.has_all(&writer.stop());
}

/// D2: the cable of a client is pulled: its server session ends all the same.
#[test]
fn a_clients_cable_is_pulled() {
    if !can_make_hosts("a_clients_cable_is_pulled") {
        return;
    }
    let plan = Plan::on_hosts().proxy_flags(&[
        "--tcp-keepalive-idle=2",
        "--tcp-keepalive-interval=1",
        "--tcp-keepalive-count=3",
    ]);
    let cluster = Cluster::start(&plan);
    // A client on a keeper's host that has no primary, over the proxy on the clients' host.
    let lonely = cluster.standbys()[0];
    let address = crate::harness::writer::Address {
        namespace: cluster.keepers[lonely].direct.namespace.clone(),
        ..cluster.address()
    };
    let session = address.hold("lonely");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lonely'";
    let count = || cluster.address().query(sessions).ok()?.first().cloned();
    eventually("its session is there", || count().filter(|n| n == "1"));
    let network = cluster.network.as_ref().expect("hosts");
    network.block(lonely, 3);
    eventually("its session has ended", || count().filter(|n| n == "0"));
    network.unblock(lonely, 3);
    drop(session);
}
