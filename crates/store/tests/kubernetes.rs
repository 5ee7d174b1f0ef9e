//! Kubernetes as the store, well and unwell.

#[path = "support/calls.rs"]
#[allow(dead_code, reason = "some concern stores with expiry only")]
mod calls;
#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "not every kind of loss concerns Kubernetes")]
mod proxy;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "Kubernetes is no child process")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calls::{KEY, put, seen_by, value};
use kubernetes::{Hosts, InPods, Ours, config};
use proxy::{Passing, Proxy};
use serde_json::{Value, json};
use server::{LIMIT, eventually, ready};
use stolon_store::conformance::{CHECKS, Open};
use stolon_store::{Error, Expected, Folder, Key, Store, Written};
use tokio::time::Instant;

/// Where the cluster data are.
const MAP: &str = "/api/v1/namespaces/default/configmaps/stolon-cluster-test";
/// What a call may take beyond its limit on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// The whole list, each check in a cluster of its own, side by side; what is wrong.
async fn failures(kubeconfig: &Path, word: &str) -> Vec<String> {
    let hosts = Hosts::reached_by(kubeconfig);
    let mut checks = tokio::task::JoinSet::new();
    let mut clusters = Vec::new();
    for (index, (name, check)) in CHECKS.iter().enumerate() {
        let mut config = config(kubeconfig, None, Duration::from_secs(5));
        config.cluster_name = format!("{word}{index}");
        clusters.push(config.cluster_name.clone());
        let hosts = hosts.clone();
        let open: Open = Arc::new(move || InPods::open(&config, &hosts));
        checks.spawn(async move { check(open).await.map_err(|why| format!("{name}: {why}")) });
    }
    let outcomes = checks.join_all().await;
    hosts.clean(&clusters).await;
    outcomes.into_iter().filter_map(Result::err).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_satisfied() {
    let ours = Ours::start();
    let failed = failures(&ours.plain(), "c").await;
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The same against an API server that others wrote, which has to allow pods and config maps in the
/// namespace of the kubeconfig's context.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_satisfied_by_a_real_server() {
    use std::io::Write as _;
    let Some(kubeconfig) = std::env::var_os("KUBECONFIG_E2E") else {
        let told = writeln!(
            std::io::stderr(),
            "not run: the_list_is_satisfied_by_a_real_server: KUBECONFIG_E2E names no kubeconfig"
        );
        drop(told);
        return;
    };
    let word = format!("stolon-test-{}-", std::process::id());
    let failed = failures(Path::new(&kubeconfig), &word).await;
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A store that reaches our server as it likes, as a component of the pod `k1` does.
fn open(ours: &Ours, endpoint: &str, timeout: Duration) -> Arc<dyn Store> {
    let name = endpoint.replace(['/', ':'], "-");
    let kubeconfig = ours.server.kubeconfig(&name, endpoint, None);
    stolon_store::open(&config(&kubeconfig, Some("k1"), timeout)).expect("a store")
}

fn direct(ours: &Ours) -> Arc<dyn Store> {
    open(ours, &ours.server.endpoint(), Duration::from_secs(5))
}

/// Waits for a call, which may not take longer than its limit: a call here is two requests or three.
async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = call.await;
    let took = began.elapsed();
    assert!(took < limit + SLACK, "took {took:?}, limit {limit:?}");
    answer
}

fn keeper() -> Key {
    Key::KeeperInfo("k1".to_owned())
}

/// What a keeper publishes, so often.
fn info(round: usize) -> Vec<u8> {
    format!(r#"{{"infoUID":"{round}","uid":"k1"}}"#).into_bytes()
}

const TTL: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_waited_for_no_longer_than_the_limit() {
    let ours = Ours::start();
    ours.server.make_pod("k1", "stolon-keeper", "test");
    let limit = Duration::from_secs(2);
    let store = open(&ours, &ours.server.endpoint(), limit);
    ready(&store).await;
    put(&store, b"0").await;

    ours.server.freeze();
    let error = within(limit, store.get(&KEY)).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&ours.server.endpoint()), "{text}");
    within(limit, store.publish(&keeper(), &info(0), TTL))
        .await
        .expect_err("no answer");
    within(limit, store.list(Folder::Keepers))
        .await
        .expect_err("no answer");
    within(limit, store.leader()).await.expect_err("no answer");
    let outcome = within(limit, store.put(&KEY, b"1")).await;
    assert!(
        matches!(outcome, Written::No(_)),
        "nothing was read: {outcome:?}"
    );

    ours.server.thaw();
    ready(&store).await;
    put(&store, b"2").await;
    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_told_and_its_restart_is_noticed() {
    let mut ours = Ours::start();
    let limit = Duration::from_secs(5);
    let store = open(&ours, &ours.server.endpoint(), limit);
    let mut watch = store.watch();
    put(&store, b"kept").await;
    let leadership = store.lead("first");
    eventually("it leads", || async {
        leadership.is_leader().then_some(())
    })
    .await;

    let endpoint = ours.server.endpoint();
    ours = tokio::task::spawn_blocking(move || {
        ours.server.kill();
        ours
    })
    .await
    .expect("killed");
    let error = within(limit, store.get(&KEY)).await.expect_err("no server");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("refused") && text.contains(&endpoint),
        "{text}"
    );
    assert!(
        text.contains("kubeconfig") && !text.contains("--store-endpoints"),
        "{text}"
    );
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(
        matches!(outcome, Written::No(_)),
        "nothing was sent: {outcome:?}"
    );

    let ours = tokio::task::spawn_blocking(move || {
        ours.server.restart();
        ours
    })
    .await
    .expect("restarted");
    ready(&store).await;
    assert_eq!(value(&store).await.as_deref(), Some(&b"kept"[..]));
    seen_by(&mut watch, &store, &direct(&ours), b"after").await;
    eventually("it leads, still or again", || async {
        leadership.is_leader().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_neither_yes_nor_no() {
    let ours = Ours::start();
    let limit = Duration::from_secs(3);
    let proxy = Proxy::before(&ours.server.endpoint()).await;
    let store = open(&ours, &proxy.endpoint, limit);
    let direct = direct(&ours);
    put(&direct, b"1").await;
    ready(&store).await;
    let found = direct.get(&KEY).await.expect("an answer").expect("a value");

    // The read before the write is answered, the write is done, and its answer is lost.
    let swap = store.compare_and_swap(&KEY, Expected::At(found.revision), b"2");
    let lose = async {
        eventually("the write is done", || async {
            let asked = ours.server.take_asked();
            let now = value(&direct).await;
            if asked.iter().any(|asked| asked == "get configmaps") {
                proxy.let_pass(Passing::Questions);
            }
            (now.as_deref() == Some(b"2")).then_some(())
        })
        .await;
    };
    ours.server.take_asked();
    ours.server.slow_down(Duration::from_millis(300));
    let (outcome, ()) = tokio::join!(swap, lose);
    ours.server.slow_down(Duration::ZERO);
    assert!(
        matches!(outcome, Written::Unknown(_) | Written::Yes(_)),
        "it is stored: {outcome:?}"
    );
    proxy.let_pass(Passing::All);
    ready(&store).await;
    assert_eq!(value(&store).await.as_deref(), Some(&b"2"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_without_answer_cannot_come_late() {
    let ours = Ours::start();
    ours.server.make_pod("k1", "stolon-keeper", "test");
    let limit = Duration::from_secs(2);
    let store = open(&ours, &ours.server.endpoint(), limit);
    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
    ours.server.freeze();
    let error = store
        .publish(&keeper(), &info(2), TTL)
        .await
        .expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    // Before what was on its way is carried out, the same pod says something else.
    let newer = json!({ "metadata": { "annotations": {
        "stolon-status": String::from_utf8(info(3)).expect("text"),
    }}});
    let path = "/api/v1/namespaces/default/pods/k1";
    ours.server.ask("PATCH", path, newer).expect("patched");
    ours.server.thaw();
    ready(&store).await;
    let found = store
        .get(&keeper())
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(found.value, info(3));
    store
        .publish(&keeper(), &info(4), TTL)
        .await
        .expect("published");
    let found = store
        .get(&keeper())
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(found.value, info(4));
}

/// The leader writes to the object that holds the cluster data, and the hosts to that of a pod.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_beside_it_is_no_conflict() {
    let ours = Ours::start();
    ours.server.make_pod("k1", "stolon-keeper", "test");
    let store = direct(&ours);
    put(&store, b"first").await;
    let found = store.get(&KEY).await.expect("an answer").expect("a value");
    let beside = |path: &str, round: usize| {
        let annotations = json!({ "metadata": { "annotations": { "beside": round.to_string() } } });
        ours.server
            .ask("PATCH", path, annotations)
            .expect("patched");
    };
    beside(MAP, 0);
    let again = store.get(&KEY).await.expect("an answer").expect("a value");
    assert_eq!(again.revision, found.revision, "the value is the same");

    let is_done = std::sync::atomic::AtomicBool::new(false);
    let write = async {
        let mut revision = found.revision;
        for round in 0..20 {
            let bytes = format!("{round}");
            match store
                .compare_and_swap(&KEY, Expected::At(revision), bytes.as_bytes())
                .await
            {
                Written::Yes(next) => {
                    assert!(next > revision);
                    revision = next;
                }
                outcome => panic!("round {round}: {outcome:?}"),
            }
            store
                .publish(&keeper(), &info(round), TTL)
                .await
                .expect("published");
        }
        is_done.store(true, Ordering::Relaxed);
    };
    // After every second read of either, so that its write comes too late.
    let disturb = async {
        let (mut maps, mut pods) = (0, 0);
        ours.server.take_asked();
        while !is_done.load(Ordering::Relaxed) {
            for asked in ours.server.take_asked() {
                let (path, reads) = match asked.as_str() {
                    "get configmaps" => (MAP, &mut maps),
                    "get pods" => ("/api/v1/namespaces/default/pods/k1", &mut pods),
                    _ => continue,
                };
                *reads += 1;
                if *reads % 2 == 1 {
                    beside(path, *reads);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(write, disturb);
    let map = ours.server.ask("GET", MAP, Value::Null).expect("a map");
    assert_eq!(map["metadata"]["annotations"]["stolon-clusterdata"], "19");
    assert!(
        map["metadata"]["annotations"]["beside"].is_string(),
        "{map}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_wakes_for_what_matters_and_for_nothing_else() {
    let ours = Ours::start();
    ours.server.make_pod("k1", "stolon-keeper", "test");
    let store = direct(&ours);
    put(&store, b"0").await;
    let mut watch = store.watch();
    seen_by(&mut watch, &store, &direct(&ours), b"1").await;
    // The three of them have seen the present state when they have been quiet for a while.
    while tokio::time::timeout(Duration::from_millis(500), watch.changed())
        .await
        .is_ok()
    {}
    let leader = json!({ "metadata": { "annotations": {
        "control-plane.alpha.kubernetes.io/leader": "{}",
    }}});
    ours.server.ask("PATCH", MAP, leader).expect("patched");
    ours.server.set_phase("k1", "Running");
    let woken = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
    woken.expect_err("neither the leader's renewal nor a host's word wakes anybody");

    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
    tokio::time::timeout(LIMIT, watch.changed())
        .await
        .expect("a publication wakes");
    while tokio::time::timeout(Duration::from_millis(300), watch.changed())
        .await
        .is_ok()
    {}
    let request = Key::Request("r1".to_owned());
    let asked = store.put(&request, b"{}").await;
    assert!(matches!(asked, Written::Yes(_)), "{asked:?}");
    tokio::time::timeout(LIMIT, watch.changed())
        .await
        .expect("a request wakes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_went_silent_or_whose_history_is_gone_wakes_again() {
    let ours = Ours::start();
    let proxy = Proxy::before(&ours.server.endpoint()).await;
    let store = open(&ours, &proxy.endpoint, Duration::from_secs(3));
    let other = direct(&ours);
    let mut watch = store.watch();
    seen_by(&mut watch, &store, &other, b"before").await;

    // Nothing but the watch uses the connection: it has to notice by itself.
    let before = proxy.connections();
    proxy.strand();
    put(&other, b"behind its back").await;
    // What it would go on from is compacted meanwhile.
    ours.server.forget_history();
    let woken = tokio::time::timeout(LIMIT, watch.changed()).await;
    woken.expect("the watch notices");
    eventually("a new connection", || async {
        (proxy.connections() > before).then_some(())
    })
    .await;
    seen_by(&mut watch, &store, &other, b"afterwards").await;
    // Its next rounds go on from versions that are gone by then.
    ours.server.take_asked();
    eventually("the watches are asked for again", || async {
        ours.server.forget_history();
        let asked = ours.server.take_asked();
        asked
            .iter()
            .any(|asked| asked.starts_with("watch"))
            .then_some(())
    })
    .await;
    seen_by(&mut watch, &store, &other, b"and on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_ends_by_the_local_clock_before_another_one_leads() {
    let ours = Ours::start();
    let proxy = Proxy::before(&ours.server.endpoint()).await;
    let store = open(&ours, &proxy.endpoint, Duration::from_secs(2));
    let mut first = store.lead("first");
    eventually("the first leads", || async {
        first.is_leader().then_some(())
    })
    .await;
    let second = direct(&ours).lead("second");

    proxy.let_pass(Passing::Nothing);
    while first.is_leader() {
        assert!(!second.is_leader(), "two lead at once");
        tokio::time::timeout(LIMIT, first.changed())
            .await
            .expect("it ends");
    }
    eventually("the second leads", || async {
        second.is_leader().then_some(())
    })
    .await;
    proxy.let_pass(Passing::All);
    ready(&store).await;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(!first.is_leader() && second.is_leader());
        drop(tokio::time::timeout_at(end, first.changed()).await);
    }
    second.resign().await;
    eventually("the first leads again", || async {
        first.is_leader().then_some(())
    })
    .await;
}

/// Renewals that took two calls each, begun only after the answers to the last, would have it lapse.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_renews_by_one_call_where_nobody_else_writes() {
    let ours = Ours::start();
    let store = direct(&ours);
    put(&store, b"1").await;
    let leadership = store.lead("first");
    eventually("it leads", || async {
        leadership.is_leader().then_some(())
    })
    .await;
    let asked = two_writes(&ours).await;
    assert_eq!(asked, ["update configmaps"; 2], "it reads nothing");

    // What this process writes beside it, it knows.
    put(&store, b"2").await;
    let asked = two_writes(&ours).await;
    let reads = asked.iter().filter(|asked| *asked == "get configmaps");
    assert!(reads.count() <= 1, "{asked:?}");
    // What others write, it reads.
    ours.server.take_asked();
    let beside = json!({ "metadata": { "annotations": { "beside": "others" } } });
    ours.server.ask("PATCH", MAP, beside).expect("patched");
    eventually("it reads", || async {
        let asked = ours.server.take_asked();
        let reads = asked.iter().any(|asked| asked == "get configmaps");
        reads.then_some(())
    })
    .await;
    two_writes(&ours).await;
    assert!(leadership.is_leader());
    let map = ours.server.ask("GET", MAP, Value::Null).expect("a map");
    assert_eq!(map["metadata"]["annotations"]["beside"], "others");
}

/// What is asked until two more writes came.
async fn two_writes(ours: &Ours) -> Vec<String> {
    ours.server.take_asked();
    let asked = std::cell::RefCell::new(Vec::new());
    eventually("two writes", || async {
        asked.borrow_mut().extend(ours.server.take_asked());
        let writes = |asked: &&String| *asked == "update configmaps";
        (asked.borrow().iter().filter(writes).count() >= 2).then_some(())
    })
    .await;
    asked.into_inner()
}

/// The times in the record are of another clock; what counts is when it was seen to change.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_go_program_holds_is_not_taken_and_what_it_reads_is_there() {
    let ours = Ours::start();
    let store = direct(&ours);
    let go = |renewed: &str| {
        let record = json!({
            "holderIdentity": "go", "leaseDurationSeconds": 2,
            "acquireTime": "2001-01-01T00:00:00Z", "renewTime": renewed, "leaderTransitions": 7,
        });
        json!({ "metadata": { "name": "stolon-cluster-test", "annotations": {
            "stolon-clusterdata": "of go",
            "control-plane.alpha.kubernetes.io/leader": record.to_string(),
        }}})
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    ours.server
        .ask("POST", maps, go("2001-01-01T00:00:00Z"))
        .expect("created");
    assert_eq!(value(&store).await.as_deref(), Some(&b"of go"[..]));
    assert_eq!(
        store.leader().await.expect("an answer").as_deref(),
        Some("go")
    );
    let ours_leads = store.lead("ours");
    // By the wall clock it lapsed long ago, and so it does after every renewal.
    for second in 1..5 {
        ours.server
            .ask("PATCH", MAP, go(&format!("2001-01-01T00:00:0{second}Z")))
            .expect("renewed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!ours_leads.is_leader(), "it is renewed every second");
    }
    eventually("ours leads", || async {
        ours_leads.is_leader().then_some(())
    })
    .await;
    let map = ours.server.ask("GET", MAP, Value::Null).expect("a map");
    let record =
        map["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"].as_str();
    let record: Value = serde_json::from_str(record.expect("a record")).expect("JSON");
    assert_eq!(record["holderIdentity"], "ours");
    assert_eq!(record["leaderTransitions"], 8);
    assert_eq!(record["leaseDurationSeconds"], 6);
    assert_eq!(
        map["metadata"]["annotations"]["stolon-clusterdata"],
        "of go"
    );
    ours_leads.resign().await;
    assert_eq!(store.leader().await.expect("an answer"), None);

    ours.server.make_pod("k1", "stolon-keeper", "test");
    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
    let pod = ours
        .server
        .ask("GET", "/api/v1/namespaces/default/pods/k1", Value::Null);
    let pod = pod.expect("a pod");
    let published = pod["metadata"]["annotations"]["stolon-status"].as_str();
    assert_eq!(published.expect("published").as_bytes(), info(1));
    put(&store, b"of ours").await;
    let map = ours.server.ask("GET", MAP, Value::Null).expect("a map");
    assert_eq!(
        map["metadata"]["annotations"]["stolon-clusterdata"],
        "of ours"
    );
    let history = store.put(&Key::History, b"h").await;
    assert!(matches!(history, Written::Yes(_)), "{history:?}");
    let map = ours
        .server
        .ask("GET", &format!("{MAP}-history"), Value::Null)
        .expect("a map");
    assert_eq!(map["data"]["history"], "h");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ended_says_nothing_and_one_that_nobody_would_find_is_told() {
    let ours = Ours::start();
    let store = direct(&ours);
    let error = store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect_err("no pod");
    let text = error.to_string();
    assert!(
        text.contains("POD_NAME") && text.contains("\"k1\""),
        "{text}"
    );
    ours.server.make_pod("k1", "keeper", "test");
    let error = store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect_err("no label");
    let text = error.to_string();
    assert!(
        text.contains("component=stolon-keeper,stolon-cluster=test"),
        "{text}"
    );
    assert_eq!(published_on(&ours, "k1"), None, "it is another's pod");

    let labels = json!({ "metadata": { "labels": { "component": "stolon-keeper" } } });
    let path = "/api/v1/namespaces/default/pods/k1";
    ours.server.ask("PATCH", path, labels).expect("patched");
    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
    assert_eq!(
        store.list(Folder::Keepers).await.expect("an answer").len(),
        1
    );
    // Evicted: the pod stays, and all that it said.
    ours.server.set_phase("k1", "Failed");
    assert!(
        store
            .list(Folder::Keepers)
            .await
            .expect("an answer")
            .is_empty()
    );
}

/// What a pod says.
fn published_on(ours: &Ours, pod: &str) -> Option<String> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}");
    let pod = ours.server.ask("GET", &path, Value::Null).expect("a pod");
    let status = pod["metadata"]["annotations"]["stolon-status"].as_str();
    status.map(str::to_owned)
}

/// As while a keeper's pod is replaced by one of another name.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_pods_of_one_component_the_newest_counts() {
    let ours = Ours::start();
    let in_pod = |pod: &str| {
        ours.server.make_pod(pod, "stolon-keeper", "test");
        stolon_store::open(&config(&ours.plain(), Some(pod), LIMIT)).expect("a store")
    };
    let (older, newer) = (in_pod("z-older"), in_pod("a-newer"));
    for (store, round) in [(&newer, 1), (&older, 2)] {
        store
            .publish(&keeper(), &info(round), TTL)
            .await
            .expect("published");
    }
    // Whoever was written to last is not by that the one that counts: hosts write too.
    ours.server.set_phase("z-older", "Running");
    let found = older.list(Folder::Keepers).await.expect("an answer");
    let values: Vec<_> = found.into_iter().map(|entry| entry.value).collect();
    assert_eq!(values, [info(1)]);
    ours.server.set_phase("a-newer", "Failed");
    let found = older.get(&keeper()).await.expect("an answer");
    assert_eq!(found.expect("there").value, info(2));
}

/// As Kubernetes does when the host of a pod is lost: what still runs there has the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_took_our_pods_name_is_not_written_to() {
    let ours = Ours::start();
    ours.server.make_pod("k1", "stolon-keeper", "test");
    let store = direct(&ours);
    store
        .publish(&keeper(), &info(1), TTL)
        .await
        .expect("published");
    let path = "/api/v1/namespaces/default/pods/k1";
    ours.server
        .ask("DELETE", path, Value::Null)
        .expect("deleted");
    ours.server.make_pod("k1", "stolon-keeper", "test");
    for round in 2..4 {
        let error = store
            .publish(&keeper(), &info(round), TTL)
            .await
            .expect_err("another pod");
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("the pod k1 is another one by now"), "{text}");
    }
    assert_eq!(published_on(&ours, "k1"), None);
    // What runs in the new one publishes.
    direct(&ours)
        .publish(&keeper(), &info(4), TTL)
        .await
        .expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_asked_again_and_one_without_a_quorum_leaves_doubt() {
    let ours = Ours::start();
    let store = direct(&ours);
    put(&store, b"1").await;
    ours.server.refuse(&[503]);
    assert_eq!(value(&store).await.as_deref(), Some(&b"1"[..]));

    let short = open(&ours, &ours.server.endpoint(), Duration::from_secs(1));
    let found = short.get(&KEY).await.expect("an answer").expect("a value");
    let swap = short.compare_and_swap(&KEY, Expected::At(found.revision), b"2");
    let refuse = async {
        eventually("it has read", || async {
            let asked = ours.server.take_asked();
            asked
                .iter()
                .any(|asked| asked == "get configmaps")
                .then_some(())
        })
        .await;
        ours.server.refuse(&[500; 200]);
    };
    ours.server.take_asked();
    ours.server.slow_down(Duration::from_millis(100));
    let (outcome, ()) = tokio::join!(swap, refuse);
    assert!(matches!(outcome, Written::Unknown(_)), "{outcome:?}");
}

/// It says so before it looks at what is asked, and nothing is wrong with the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_too_many_requests_is_asked_again_when_it_says() {
    let ours = Ours::start();
    let proxy = Proxy::before(&ours.server.endpoint()).await;
    let store = open(&ours, &proxy.endpoint, Duration::from_secs(10));
    put(&store, b"1").await;
    let (connections, began) = (proxy.connections(), Instant::now());
    ours.server.refuse(&[429, 429]);
    assert_eq!(value(&store).await.as_deref(), Some(&b"1"[..]));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "it asked to wait: {took:?}");
    assert_eq!(proxy.connections(), connections, "the connection is good");

    // It is not asked again where the time of a call is over by then.
    let hasty = open(&ours, &ours.server.endpoint(), Duration::from_secs(1));
    ready(&hasty).await;
    ours.server.refuse(&[429]);
    ours.server.take_asked();
    let error = hasty.get(&KEY).await.expect_err("too busy");
    assert!(error.to_string().contains("too many requests"), "{error}");
    assert_eq!(ours.server.take_asked(), ["get configmaps"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_an_object_can_hold_is_refused_in_words() {
    let ours = Ours::start();
    let store = direct(&ours);
    put(&store, b"1").await;
    let outcome = store.put(&KEY, &vec![b'x'; 300_000]).await;
    let Written::No(Error::Denied { cause, .. }) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(cause.contains("262144 bytes"), "{cause}");
    assert_eq!(value(&store).await.as_deref(), Some(&b"1"[..]));
}
