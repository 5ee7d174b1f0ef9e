//! The backends that speak HTTP against real servers, well and unwell: etcd by its version 2 API,
//! and Consul.

#[path = "support/calls.rs"]
mod calls;
#[path = "support/consul.rs"]
mod consul;
#[path = "support/etcd.rs"]
#[allow(dead_code, reason = "shared with the tests of version 3")]
mod etcd;
#[path = "../../../testing/plain_http.rs"]
mod plain_http;
#[path = "support/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use calls::{KEY, all_calls_succeed, put, seen_by, value, within};
use consul::{Consul, consul_or_not_run};
use etcd::server::{Server, reach};
use etcd::{Etcd, LIMIT, eventually, ready};
use proxy::{Passing, Proxy};
use serde_json::{Value, json};
use stolon_store::{Backend, Config, Error, Expected, Folder, Key, Store, Written};

/// A server of one of the two kinds.
enum World {
    Etcd(Etcd),
    Consul(Box<Consul>),
}

impl World {
    /// A server that answers; none: the test is not run.
    async fn start(backend: Backend, test: &str) -> Option<Self> {
        let world = if backend == Backend::Consul {
            let program = consul_or_not_run(test)?;
            Self::Consul(Box::new(Consul::start(&program, &json!({}), false)))
        } else {
            Self::Etcd(Etcd::single().await)
        };
        ready(&world.open(Duration::from_secs(5))).await;
        Some(world)
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Etcd(_) => Backend::Etcd2,
            Self::Consul(_) => Backend::Consul,
        }
    }

    fn server(&mut self) -> &mut Server {
        match self {
            Self::Etcd(etcd) => &mut etcd.servers[0],
            Self::Consul(consul) => &mut consul.server,
        }
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Etcd(etcd) => etcd.servers[0].endpoint.clone(),
            Self::Consul(consul) => consul.server.endpoint.clone(),
        }
    }

    fn config(&self, endpoints: &[&str], timeout: Duration) -> Config {
        let endpoints = endpoints.iter().map(|&text| text.to_owned()).collect();
        reach(self.backend(), endpoints, timeout)
    }

    fn at(&self, endpoints: &[&str], timeout: Duration) -> Arc<dyn Store> {
        stolon_store::open(&self.config(endpoints, timeout)).expect("a store")
    }

    fn open(&self, timeout: Duration) -> Arc<dyn Store> {
        self.at(&[&self.endpoint()], timeout)
    }
}

/// A test for each of the two, by the name of a function that takes a world.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod etcd2 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let world = super::World::start(stolon_store::Backend::Etcd2, "").await;
                super::$test(world.expect("etcd")).await;
            })*
        }
        mod on_consul {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let test = concat!("on_consul::", stringify!($test));
                let world = super::World::start(stolon_store::Backend::Consul, test).await;
                if let Some(world) = world {
                    super::$test(world).await;
                }
            })*
        }
    };
}

on_both!(
    the_list_is_satisfied,
    a_frozen_server_is_waited_for_no_longer_than_the_limit,
    a_killed_server_is_told_and_its_restart_is_noticed,
    calls_go_around_an_endpoint_that_is_silent,
    a_write_whose_answer_is_lost_is_neither_yes_nor_no,
    a_late_try_does_not_overwrite_what_came_after_it,
    a_publication_without_answer_cannot_come_late,
    a_watch_whose_connection_went_silent_wakes_again,
    leadership_ends_by_the_local_clock_before_another_one_leads,
    what_the_go_program_holds_is_not_taken_and_what_it_reads_is_there,
);

async fn the_list_is_satisfied(world: World) {
    let config = world.config(&[&world.endpoint()], Duration::from_secs(5));
    calls::the_list_is_satisfied(&config).await;
}

async fn a_frozen_server_is_waited_for_no_longer_than_the_limit(mut world: World) {
    let limit = Duration::from_secs(2);
    let store = world.open(limit);
    ready(&store).await;

    world.server().freeze();
    let error = within(limit, store.get(&KEY)).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&world.endpoint()), "{text}");
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(matches!(outcome, Written::Unknown(_)), "{outcome:?}");
    within(limit, store.list(Folder::Keepers))
        .await
        .expect_err("no answer");

    world.server().thaw();
    ready(&store).await;
    // Whether the write came about is seen by reading, and by nothing else.
    eventually("a write on what is read is stored", || async {
        let expected = store.get(&KEY).await.expect("an answer");
        let expected = expected.map_or(Expected::Absent, |found| Expected::At(found.revision));
        let outcome = store.compare_and_swap(&KEY, expected, b"2").await;
        matches!(outcome, Written::Yes(_)).then_some(())
    })
    .await;
}

async fn a_killed_server_is_told_and_its_restart_is_noticed(mut world: World) {
    let limit = Duration::from_secs(1);
    let store = world.open(limit);
    let mut watch = store.watch();
    put(&store, b"kept").await;
    let leadership = store.lead("first");
    eventually("it leads", || async {
        leadership.is_leader().then_some(())
    })
    .await;

    world.server().kill();
    let error = within(limit, store.get(&KEY)).await.expect_err("no server");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("refused"), "{text}");
    let outcome = within(limit, store.compare_and_swap(&KEY, Expected::Absent, b"1")).await;
    assert!(
        matches!(outcome, Written::No(_)),
        "nothing was sent, so nothing is stored: {outcome:?}"
    );

    world.server().restart();
    ready(&store).await;
    assert_eq!(value(&store).await.as_deref(), Some(&b"kept"[..]));
    let other = world.open(Duration::from_secs(5));
    seen_by(&mut watch, &store, &other, b"after").await;
    eventually("it leads, still or again", || async {
        leadership.is_leader().then_some(())
    })
    .await;
}

async fn calls_go_around_an_endpoint_that_is_silent(world: World) {
    let limit = Duration::from_secs(6);
    let direct = world.endpoint();
    let proxy = Proxy::before(&direct).await;
    let store = world.at(&[&proxy.endpoint, &direct], limit);
    ready(&store).await;
    assert!(store.describe().contains(&proxy.endpoint));

    proxy.let_pass(Passing::Nothing);
    // D1: what the first call loses is a share of its time, and the next ones lose nothing.
    within(limit / 3, store.get(&KEY)).await.expect("an answer");
    assert!(store.describe().contains(&direct), "{}", store.describe());
    all_calls_succeed(&store, limit / 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_of_etcd_goes_on_without_one_of_three_members() {
    let mut etcd = Etcd::three().await;
    let endpoints = etcd.servers.iter().map(|s| s.endpoint.clone()).collect();
    goes_on_without_the_first(Backend::Etcd2, endpoints, || etcd.servers[0].kill()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_goes_on_without_one_of_three_members() {
    let test = "consul_goes_on_without_one_of_three_members";
    let Some(program) = consul_or_not_run(test) else {
        return;
    };
    let mut members = Consul::three(&program);
    let endpoints = members.iter().map(|m| m.server.endpoint.clone()).collect();
    goes_on_without_the_first(Backend::Consul, endpoints, || members[0].server.kill()).await;
}

/// The member in use is lost, with the sessions that a Consul agent keeps, and perhaps as the members'
/// leader: calls go on by the others, what was written is there, and a leader leads again.
async fn goes_on_without_the_first(backend: Backend, all: Vec<String>, lose: impl FnOnce()) {
    // The remaining ones may have to elect a leader first, on a busy machine with a slow disk.
    let limit = Duration::from_secs(30);
    let open = |endpoints: Vec<String>| {
        stolon_store::open(&reach(backend, endpoints, limit)).expect("a store")
    };
    for endpoint in &all {
        ready(&open(vec![endpoint.clone()])).await;
    }
    let (store, other) = (open(all.clone()), open(vec![all[1].clone()]));
    put(&store, b"kept").await;
    assert!(store.describe().contains(&all[0]), "{}", store.describe());
    let mut watch = store.watch();
    let leadership = store.lead("first");
    let leads = || async { leadership.is_leader().then_some(()) };
    eventually("it leads", leads).await;

    lose();
    let found = within(limit, store.get(&KEY)).await.expect("an answer");
    assert_eq!(found.expect("a value").value, b"kept");
    seen_by(&mut watch, &store, &other, b"after").await;
    all_calls_succeed(&store, limit).await;
    eventually("it leads, still or again", leads).await;
}

async fn a_write_whose_answer_is_lost_is_neither_yes_nor_no(world: World) {
    let limit = Duration::from_secs(2);
    let proxy = Proxy::before(&world.endpoint()).await;
    let store = world.at(&[&proxy.endpoint], limit);
    let direct = world.open(limit);
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

async fn a_late_try_does_not_overwrite_what_came_after_it(world: World) {
    let limit = Duration::from_secs(6);
    let direct = world.endpoint();
    let proxy = Proxy::before(&direct).await;
    let store = world.at(&[&proxy.endpoint, &direct], limit);
    let other = world.open(limit);
    ready(&store).await;

    proxy.let_pass(Passing::Nothing);
    let swap = store.compare_and_swap(&KEY, Expected::Absent, b"old");
    let outcome = within(limit, swap).await;
    assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
    put(&other, b"new").await;
    // What was on its way to the silent endpoint arrives now.
    let before = proxy.answers();
    proxy.let_pass(Passing::All);
    eventually("it is answered", || async {
        (proxy.answers() > before).then_some(())
    })
    .await;
    assert_eq!(value(&other).await.as_deref(), Some(&b"new"[..]));
}

async fn a_publication_without_answer_cannot_come_late(world: World) {
    let limit = Duration::from_secs(2);
    let direct = world.endpoint();
    let proxy = Proxy::before(&direct).await;
    let store = world.at(&[&proxy.endpoint], limit);
    let ttl = Duration::from_mins(1);
    store.publish(&KEY, b"1", ttl).await.expect("published");
    proxy.let_pass(Passing::Late);
    let published = store.publish(&KEY, b"2", ttl).await;
    let error = published.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    // The same process, by another way.
    let other = world.open(Duration::from_secs(5));
    other.publish(&KEY, b"3", ttl).await.expect("published");
    let before = proxy.answers();
    proxy.let_pass(Passing::All);
    eventually("what was on its way is answered", || async {
        (proxy.answers() > before).then_some(())
    })
    .await;
    assert_eq!(value(&other).await.as_deref(), Some(&b"3"[..]));
    store.publish(&KEY, b"4", ttl).await.expect("published");
    assert_eq!(value(&other).await.as_deref(), Some(&b"4"[..]));
}

async fn a_watch_whose_connection_went_silent_wakes_again(world: World) {
    let proxy = Proxy::before(&world.endpoint()).await;
    let store = world.at(&[&proxy.endpoint], Duration::from_secs(3));
    let other = world.open(Duration::from_secs(5));
    let mut watch = store.watch();
    seen_by(&mut watch, &store, &other, b"before").await;

    // Nothing but the watch uses the connection: it has to notice by itself.
    let before = proxy.connections();
    proxy.strand();
    put(&other, b"behind its back").await;
    if world.backend() == Backend::Etcd2 {
        // Meanwhile the thousand events that etcd keeps are all of others.
        forget_events(&other).await;
    }
    let woken = tokio::time::timeout(LIMIT, watch.changed()).await;
    woken.expect("the watch notices");
    eventually("a new connection", || async {
        (proxy.connections() > before).then_some(())
    })
    .await;
    seen_by(&mut watch, &store, &other, b"afterwards").await;
    seen_by(&mut watch, &store, &other, b"and on").await;
}

/// Writes so often that etcd no longer has the events of before.
async fn forget_events(store: &Arc<dyn Store>) {
    let mut writes = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let store = store.clone();
        writes.spawn(async move {
            let key = Key::Request(format!("{writer}"));
            for round in 0..55 {
                let outcome = store.put(&key, format!("{round}").as_bytes()).await;
                assert!(matches!(outcome, Written::Yes(_)), "{outcome:?}");
            }
        });
    }
    writes.join_all().await;
}

async fn leadership_ends_by_the_local_clock_before_another_one_leads(world: World) {
    let proxy = Proxy::before(&world.endpoint()).await;
    let limit = Duration::from_secs(2);
    let store = world.at(&[&proxy.endpoint], limit);
    let direct = world.open(Duration::from_secs(5));
    let mut first = store.lead("first");
    eventually("the first leads", || async {
        first.is_leader().then_some(())
    })
    .await;
    let second = direct.lead("second");

    proxy.let_pass(Passing::Nothing);
    while first.is_leader() {
        assert!(!second.is_leader(), "two lead at once");
        tokio::time::timeout(LIMIT, first.changed())
            .await
            .expect("the clock alone ends it");
    }
    eventually("the second leads", || async {
        assert!(!first.is_leader(), "it cannot know");
        second.is_leader().then_some(())
    })
    .await;
    proxy.let_pass(Passing::All);
    ready(&store).await;
    assert_eq!(
        store.leader().await.expect("an answer").as_deref(),
        Some("second")
    );
    assert!(!first.is_leader(), "the second leads");
    // Dropped, not resigned: it is given up all the same.
    drop(second);
    eventually("the first leads again", || async {
        first.is_leader().then_some(())
    })
    .await;
    first.resign().await;
    eventually("nobody leads", || async {
        let leader = direct.leader().await.expect("an answer");
        leader.is_none().then_some(())
    })
    .await;
}

/// The leader's key as the Go program makes it, and gives it up.
async fn what_the_go_program_holds_is_not_taken_and_what_it_reads_is_there(world: World) {
    let endpoint = world.endpoint();
    let address = endpoint.trim_start_matches("http://");
    let ask = |method: &str, path: &str, body: &str| {
        plain_http::ask(address, method, path, body).expect("an answer")
    };
    let is_consul = world.backend() == Backend::Consul;
    let store = world.open(Duration::from_secs(5));
    let flags = "flags=3304740253564472344";
    let (key, release) = if is_consul {
        let wanted = r#"{"Behavior":"release","TTL":"10s","LockDelay":"1ms"}"#;
        let made: Value = json_of(&ask("PUT", "/v1/session/create", wanted));
        let session = made["ID"].as_str().expect("an id").to_owned();
        let key = "/v1/kv/stolon/cluster/test/sentinel-leader".to_owned();
        let taken = ask("PUT", &format!("{key}?acquire={session}&{flags}"), "go");
        assert_eq!(taken.trim(), "true");
        (
            key.clone(),
            ("PUT", format!("{key}?release={session}&{flags}")),
        )
    } else {
        let key = "/v2/keys/stolon/cluster/test/sentinel-leader".to_owned();
        let go = format!("{key}?prevExist=false&value=go&ttl=20");
        ask("PUT", &go, "");
        (key.clone(), ("DELETE", key))
    };
    let ours = store.lead("ours");
    store
        .publish(
            &Key::SentinelInfo("s".into()),
            b"{}",
            Duration::from_secs(20),
        )
        .await
        .expect("published");
    assert_eq!(
        store.leader().await.expect("an answer").as_deref(),
        Some("go")
    );
    assert!(!ours.is_leader(), "the Go program leads");
    ask(release.0, &release.1, "go");
    eventually("ours leads", || async { ours.is_leader().then_some(()) }).await;
    if is_consul {
        for path in ["sentinel-leader", "sentinels/info/s"] {
            let found = json_of(&ask(
                "GET",
                &format!("/v1/kv/stolon/cluster/test/{path}"),
                "",
            ));
            assert_eq!(found[0]["Flags"], 3_304_740_253_564_472_344_u64, "{path}");
            assert!(found[0]["Session"].is_string(), "{found}");
        }
        let sessions = json_of(&ask("GET", "/v1/session/list", ""));
        for session in sessions.as_array().expect("sessions") {
            assert_eq!(session["LockDelay"], 1_000_000, "{session}");
            assert_eq!(
                session["TTL"].as_str().map(str::is_empty),
                Some(false),
                "{session}"
            );
        }
    } else {
        let found = json_of(&ask("GET", &key, ""));
        assert_eq!(found["node"]["value"], "ours");
        assert!(found["node"]["ttl"].is_u64(), "{found}");
    }
    ours.resign().await;
    assert_eq!(store.leader().await.expect("an answer"), None);
    // Go's candidates wait for the key of version 2 to go; at Consul the value stays.
    let left = plain_http::ask(address, "GET", &key, "");
    assert_eq!(left.is_some(), is_consul);
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
