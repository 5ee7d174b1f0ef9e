//! The etcd backend against real servers, well and unwell.

#[path = "support/calls.rs"]
mod calls;
#[path = "support/etcd.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS")]
mod etcd;
#[path = "support/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use calls::{KEY, all_calls_succeed, put, seen_by, the_list_is_satisfied, value, within};
use etcd::{Etcd, LIMIT, config, eventually, ready};
use proxy::{Passing, Proxy};
use stolon_store::{Error, Expected, Folder, Key, Store, Written};
use tokio::time::Instant;

fn open(endpoints: Vec<String>, timeout: Duration) -> Arc<dyn Store> {
    stolon_store::open(&config(endpoints, timeout)).expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_satisfies_the_list() {
    let etcd = Etcd::single().await;
    the_list_is_satisfied(&etcd.config(Duration::from_secs(5))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_waited_for_no_longer_than_the_limit() {
    let limit = Duration::from_secs(2);
    let etcd = Etcd::single().await;
    let store = open(vec![etcd.servers[0].endpoint.clone()], limit);
    ready(&store).await;

    etcd.servers[0].freeze();
    let error = within(limit, store.get(&KEY)).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&etcd.servers[0].endpoint), "{text}");
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(matches!(outcome, Written::Unknown(_)), "{outcome:?}");
    within(limit, store.list(Folder::Keepers))
        .await
        .expect_err("no answer");

    etcd.servers[0].thaw();
    ready(&store).await;
    // Whether the write came about is seen by reading, and by nothing else.
    let expected = store.get(&KEY).await.expect("an answer");
    let expected = expected.map_or(Expected::Absent, |found| Expected::At(found.revision));
    let outcome = store.compare_and_swap(&KEY, expected, b"2").await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_told_and_its_restart_is_noticed() {
    let limit = Duration::from_secs(1);
    let mut etcd = Etcd::single().await;
    let store = open(vec![etcd.servers[0].endpoint.clone()], limit);
    let mut watch = store.watch();
    let outcome = store.put(&KEY, b"kept").await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    let leadership = store.lead("first");
    eventually("it leads", || async {
        leadership.is_leader().then_some(())
    })
    .await;

    etcd.servers[0].kill();
    let error = within(limit, store.get(&KEY)).await.expect_err("no server");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("refused"), "{text}");
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(
        matches!(outcome, Written::No(_)),
        "nothing was sent, so nothing is stored: {outcome:?}"
    );

    etcd.servers[0].restart();
    ready(&store).await;
    assert_eq!(value(&store).await.as_deref(), Some(&b"kept"[..]));
    let other = open(vec![etcd.servers[0].endpoint.clone()], limit);
    seen_by(&mut watch, &store, &other, b"after").await;
    assert!(leadership.is_leader(), "the lease outlives a short absence");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_around_one_frozen_or_dead_server_of_three() {
    // The remaining ones may have to elect a leader first, on a busy machine with a slow disk.
    let limit = Duration::from_secs(30);
    let mut etcd = Etcd::three().await;
    for index in 0..3 {
        // Opened while all is well, in use at the server that is about to freeze.
        let mut endpoints: Vec<String> = etcd.servers.iter().map(|s| s.endpoint.clone()).collect();
        endpoints.rotate_left(index);
        let store = open(endpoints, limit);
        ready(&store).await;
        etcd.servers[index].freeze();
        let outcome = within(limit, store.put(&KEY, b"first")).await;
        assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
        all_calls_succeed(&store, limit).await;
        etcd.servers[index].thaw();
        etcd.answers().await;
    }
    let store = stolon_store::open(&etcd.config(limit)).expect("a store");
    ready(&store).await;
    etcd.servers[0].kill();
    all_calls_succeed(&store, limit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_majority_is_not_believed() {
    let limit = Duration::from_secs(3);
    let mut etcd = Etcd::three().await;
    let store = open(vec![etcd.servers[2].endpoint.clone()], limit);
    let other = stolon_store::open(&etcd.config(limit)).expect("a store");
    let mut watch = store.watch();
    seen_by(&mut watch, &store, &other, b"before").await;

    for server in &mut etcd.servers[..2] {
        server.kill();
    }
    let text = eventually("it says that it has no leader", || async {
        let error = within(limit, store.get(&KEY)).await.expect_err("stale");
        let text = error.to_string();
        text.contains("no leader").then_some(text)
    })
    .await;
    assert!(text.contains(&etcd.servers[2].endpoint), "{text}");
    assert!(text.contains("etcdctl endpoint health"), "{text}");
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(
        matches!(outcome, Written::No(_)),
        "it does not even begin to write: {outcome:?}"
    );

    for server in &mut etcd.servers[..2] {
        server.restart();
    }
    ready(&store).await;
    seen_by(&mut watch, &store, &store, b"after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_neither_yes_nor_no() {
    let limit = Duration::from_secs(2);
    let etcd = Etcd::single().await;
    let proxy = Proxy::before(&etcd.servers[0].endpoint).await;
    let store = open(vec![proxy.endpoint.clone()], limit);
    let direct = open(vec![etcd.servers[0].endpoint.clone()], limit);
    ready(&store).await;

    proxy.let_pass(Passing::Questions);
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(matches!(outcome, Written::Unknown(_)), "{outcome:?}");
    assert_eq!(value(&direct).await.as_deref(), Some(&b"1"[..]));
    let error = within(limit, store.publish(&KEY, b"x", Duration::from_secs(20))).await;
    error.expect_err("no answer");

    // The first try is done and its answer lost; the second finds another revision than expected.
    proxy.let_pass(Passing::All);
    ready(&store).await;
    let found = direct.get(&KEY).await.expect("an answer").expect("a value");
    proxy.let_pass(Passing::Questions);
    let swap = store.compare_and_swap(&KEY, Expected::At(found.revision), b"2");
    let heal = async {
        eventually("the first try is done", || async {
            (value(&direct).await.as_deref() == Some(b"2")).then_some(())
        })
        .await;
        proxy.let_pass(Passing::All);
    };
    let (outcome, ()) = tokio::join!(swap, heal);
    assert!(
        matches!(outcome, Written::Unknown(_)),
        "the conflict is with our own first try: {outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_try_does_not_overwrite_what_came_after_it() {
    let limit = Duration::from_secs(4);
    let etcd = Etcd::single().await;
    let direct = etcd.servers[0].endpoint.clone();
    let proxy = Proxy::before(&direct).await;
    let store = open(vec![proxy.endpoint.clone(), direct.clone()], limit);
    let other = open(vec![direct], limit);
    ready(&store).await;
    ready(&other).await;

    proxy.let_pass(Passing::Nothing);
    let outcome = within(
        limit,
        store.compare_and_swap(&KEY, Expected::Absent, b"old"),
    )
    .await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    let outcome = other.put(&KEY, b"new").await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    // What was on its way to the silent endpoint arrives now.
    let before = proxy.answers();
    proxy.let_pass(Passing::All);
    eventually("it is answered", || async {
        (proxy.answers() > before).then_some(())
    })
    .await;
    assert_eq!(value(&other).await.as_deref(), Some(&b"new"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_without_answer_cannot_come_late() {
    let limit = Duration::from_secs(2);
    let etcd = Etcd::single().await;
    let proxy = Proxy::before(&etcd.servers[0].endpoint).await;
    let store = open(vec![proxy.endpoint.clone()], limit);
    ready(&store).await;
    let ttl = Duration::from_mins(10);
    let direct = etcd.servers[0].endpoint.clone();
    let attempts = std::sync::atomic::AtomicU64::new(0);
    let lease = eventually("a publication has a lease and no answer", || async {
        proxy.let_pass(Passing::All);
        // After an attempt that was cut too soon the next connection's greeting would count as an answer.
        ready(&store).await;
        // An attempt that was cut too late was answered.
        let earlier = lease_of_all(&direct).await;
        // The last answer that passes is to be that of the lease; the server has other things to say too,
        // more at one time than at another.
        let attempt = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        proxy.let_pass(Passing::Until(proxy.answers() + 6 - attempt % 6));
        let published = store.publish(&KEY, b"old", ttl).await;
        let lease = lease_of_all(&direct).await.filter(|_| published.is_err());
        lease.filter(|lease| Some(*lease) != earlier)
    })
    .await;

    proxy.let_pass(Passing::All);
    ready(&store).await;
    store.publish(&KEY, b"new", ttl).await.expect("published");
    assert_eq!(value(&store).await.as_deref(), Some(&b"new"[..]));
    let left = client(&direct).await.lease_time_to_live(lease, None).await;
    assert_eq!(left.expect("an answer").ttl(), -1, "it has ended");
}

/// The lease of some key.
async fn lease_of_all(endpoint: &str) -> Option<i64> {
    let all = etcd_client::GetOptions::new().with_all_keys();
    let answer = client(endpoint).await.get("", Some(all)).await;
    let answer = answer.expect("an answer");
    answer
        .kvs()
        .iter()
        .map(etcd_client::KeyValue::lease)
        .find(|lease| *lease != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_went_silent_wakes_again() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::before(&etcd.servers[0].endpoint).await;
    let store = open(vec![proxy.endpoint.clone()], Duration::from_secs(3));
    let other = open(
        vec![etcd.servers[0].endpoint.clone()],
        Duration::from_secs(3),
    );
    let mut watch = store.watch();
    seen_by(&mut watch, &store, &other, b"before").await;

    // Nothing but the watch uses the connection: it has to notice by itself.
    let before = proxy.connections();
    proxy.strand();
    let outcome = other.put(&KEY, b"behind its back").await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    // Meanwhile the history that it would go on from is thrown away.
    compact(&etcd.servers[0].endpoint).await;
    let woken = tokio::time::timeout(Duration::from_secs(12), watch.changed()).await;
    woken.expect("the watch notices");
    eventually("a new connection", || async {
        (proxy.connections() > before).then_some(())
    })
    .await;
    seen_by(&mut watch, &store, &other, b"afterwards").await;
    seen_by(&mut watch, &store, &other, b"and on").await;
}

/// Throws the history of all keys away.
async fn compact(endpoint: &str) {
    let mut client = client(endpoint).await;
    let put = client.put("unrelated", "", None).await.expect("written");
    let now = put.header().expect("a header").revision();
    client.compact(now, None).await.expect("compacted");
}

async fn client(endpoint: &str) -> etcd_client::Client {
    etcd_client::Client::connect([endpoint], None)
        .await
        .expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_ends_by_the_local_clock_before_another_one_leads() {
    let etcd = Etcd::single().await;
    let proxy = Proxy::before(&etcd.servers[0].endpoint).await;
    let limit = Duration::from_secs(2);
    let store = open(vec![proxy.endpoint.clone()], limit);
    let direct = open(vec![etcd.servers[0].endpoint.clone()], limit);
    let mut first = store.lead("first");
    eventually("the first leads", || async {
        first.is_leader().then_some(())
    })
    .await;
    let second = direct.lead("second");
    eventually("the second stands", || async {
        let found = client(&etcd.servers[0].endpoint)
            .await
            .get(
                "stolon/cluster/test/sentinel-leader/",
                Some(etcd_client::GetOptions::new().with_prefix()),
            )
            .await
            .expect("an answer");
        (found.kvs().len() == 2).then_some(())
    })
    .await;

    proxy.let_pass(Passing::Nothing);
    let cut = Instant::now();
    while first.is_leader() {
        assert!(!second.is_leader(), "two lead at once");
        tokio::time::timeout(Duration::from_secs(20), first.changed())
            .await
            .expect("the clock alone ends it");
    }
    assert!(
        cut.elapsed() < Duration::from_millis(18_500),
        "led on for {:?}",
        cut.elapsed()
    );
    assert!(!second.is_leader(), "the server's clock ends it later");
    eventually("the second leads", || async {
        assert!(!first.is_leader(), "it cannot know");
        second.is_leader().then_some(())
    })
    .await;
    proxy.let_pass(Passing::All);
    eventually("the first stands again", || async {
        assert!(!first.is_leader(), "the second leads");
        store.leader().await.ok()
    })
    .await;
    // Dropped, not resigned: it is given up all the same.
    drop(second);
    tokio::time::timeout(Duration::from_secs(15), async {
        while !first.is_leader() {
            first.changed().await;
        }
    })
    .await
    .expect("the first leads again");
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_of_the_go_program_and_ours_exclude_each_other() {
    let etcd = Etcd::single().await;
    let store = stolon_store::open(&etcd.config(Duration::from_secs(5))).expect("a store");
    let mut go = client(&etcd.servers[0].endpoint).await;
    let folder = "stolon/cluster/test/sentinel-leader/";
    let lease = go.lease_grant(20, None).await.expect("a lease").id();
    let key = format!("{folder}{lease:x}");
    let with_lease = etcd_client::PutOptions::new().with_lease(lease);
    go.put(key.as_str(), "go", Some(with_lease))
        .await
        .expect("written");

    let ours = store.lead("ours");
    let prefix = || Some(etcd_client::GetOptions::new().with_prefix());
    let mut reader = go.clone();
    let candidate = loop {
        let found = reader.get(folder, prefix()).await.expect("an answer");
        if let Some(found) = found.kvs().iter().find(|found| found.value() == b"ours") {
            break found.clone();
        }
    };
    let expected = format!("{folder}{:x}", candidate.lease());
    assert_eq!(candidate.key_str().expect("text"), expected);
    assert!(!ours.is_leader());
    assert_eq!(
        store.leader().await.expect("an answer").as_deref(),
        Some("go")
    );

    go.lease_revoke(lease).await.expect("revoked");
    eventually("ours leads", || async { ours.is_leader().then_some(()) }).await;
    // An operator who removes the key ends the leadership, not the candidacy.
    go.delete(candidate.key(), None).await.expect("removed");
    eventually("it stands with another key", || async {
        let found = store.leader().await.expect("an answer");
        (found.as_deref() == Some("ours") && ours.is_leader()).then_some(())
    })
    .await;
    ours.resign().await;
    assert_eq!(store.leader().await.expect("an answer"), None);
}

/// Has etcd ask for users: root, with the password secret.
async fn enable_users(etcd: &Etcd) {
    let mut root = client(&etcd.servers[0].endpoint).await;
    root.user_add("root", "secret", None).await.expect("a user");
    root.role_add("root").await.expect("a role");
    root.user_grant_role("root", "root").await.expect("granted");
    root.auth_enable().await.expect("enabled");
}

fn with_password(etcd: &Etcd, password: &str) -> Arc<dyn Store> {
    let mut config = etcd.config(Duration::from_secs(5));
    config.access.user = Some(("root".to_owned(), password.to_owned()));
    stolon_store::open(&config).expect("a store")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_user_is_told_with_the_remedy() {
    let etcd = Etcd::single().await;
    enable_users(&etcd).await;

    let limit = Duration::from_secs(5);
    let store = stolon_store::open(&etcd.config(limit)).expect("a store");
    let began = Instant::now();
    let error = store.get(&KEY).await.expect_err("refused");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    for flag in ["--store-username", "--store-cert-file"] {
        assert!(error.to_string().contains(flag), "{error}");
    }
    let outcome = store.put(&KEY, b"1").await;
    assert!(
        matches!(outcome, Written::No(Error::Denied { .. })),
        "{outcome:?}"
    );
    let store = with_password(&etcd, "mistyped");
    let error = store.get(&KEY).await.expect_err("refused");
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(
        error.to_string().contains("--store-password-file"),
        "{error}"
    );
    assert!(!error.to_string().contains("mistyped"), "{error}");
    assert!(began.elapsed() < limit, "trying again does not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_goes_on_when_users_are_asked_for_and_when_its_token_is_gone() {
    let mut etcd = Etcd::single().await;
    let (store, other) = (
        with_password(&etcd, "secret"),
        with_password(&etcd, "secret"),
    );
    put(&store, b"before there are users").await;
    let mut early = other.watch();
    seen_by(&mut early, &other, &store, b"seen before").await;
    enable_users(&etcd).await;
    seen_by(&mut early, &other, &store, b"seen after").await;

    // A server forgets its tokens when it ends, as it does when their time is over. The watch is the
    // first to use the one that this client has.
    let late = with_password(&etcd, "secret");
    ready(&late).await;
    etcd.servers[0].kill();
    etcd.servers[0].restart();
    ready(&store).await;
    let mut watch = late.watch();
    seen_by(&mut watch, &late, &store, b"a token later").await;
    put(&late, b"written by it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_space_says_what_to_do_and_is_read_on() {
    let etcd = Etcd::single_with(&["--quota-backend-bytes", "1000000"]).await;
    let store = open(
        vec![etcd.servers[0].endpoint.clone()],
        Duration::from_secs(5),
    );
    put(&store, b"kept").await;
    let mut filler = client(&etcd.servers[0].endpoint).await;
    let big = vec![b'x'; 100_000];
    // The quota counts what the file takes; the first put that passes it is the last that is taken.
    let full = eventually("etcd is full", || {
        let (mut filler, big) = (filler.clone(), big.clone());
        async move { filler.put("unrelated", big, None).await.err() }
    });
    assert!(full.await.to_string().contains("space"));
    let error = match store.put(&KEY, b"no room").await {
        Written::No(error) => error,
        other => panic!("{other:?}"),
    };
    for word in ["etcdctl compact", "etcdctl alarm disarm"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let info = Key::KeeperInfo("a".to_owned());
    let error = store
        .publish(&info, b"no room", Duration::from_secs(20))
        .await;
    assert!(
        error
            .expect_err("no room")
            .to_string()
            .contains("etcdctl compact")
    );
    assert_eq!(value(&store).await.as_deref(), Some(&b"kept"[..]));

    // What the message says helps.
    let now = filler.get("unrelated", None).await.expect("an answer");
    let revision = now.header().expect("a header").revision();
    filler.delete("unrelated", None).await.expect("deleted");
    let at_once = etcd_client::CompactionOptions::new().with_physical();
    let compacted = filler.compact(revision + 1, Some(at_once)).await;
    compacted.expect("compacted");
    filler.defragment().await.expect("defragmented");
    let mut of_it = etcd_client::AlarmOptions::new();
    of_it.with_member(now.header().expect("a header").member_id());
    let (disarm, alarm) = (
        etcd_client::AlarmAction::Deactivate,
        etcd_client::AlarmType::Nospace,
    );
    let disarmed = filler.alarm(disarm, alarm, Some(of_it)).await;
    disarmed.expect("disarmed");
    put(&store, b"room").await;
}
