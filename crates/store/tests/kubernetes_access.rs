//! Who may use the store in Kubernetes: the Role of the manual, tokens that expire, certificates,
//! and what is said when it does not suffice.

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "Kubernetes is no child process")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kubernetes::{Hosts, InPods, Ours, config};
use serde_json::{Value, json};
use server::{eventually, ready};
use stolon_store::conformance::{CHECKS, Open};
use stolon_store::{Config, Error, Key, Store, Written};

const LIMIT: Duration = Duration::from_secs(5);
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

/// The role and its binding of the manual.
fn of_the_manual() -> (Value, Value) {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/stores.md");
    let text = std::fs::read_to_string(manual).expect("the manual");
    let (_, rest) = text.split_once("```yaml\n").expect("YAML");
    let (yaml, _) = rest.split_once("```").expect("its end");
    let (role, binding) = yaml.split_once("---\n").expect("two documents");
    let read = |yaml: &str| serde_saphyr::from_str(yaml).expect("YAML");
    (read(role), read(binding))
}

/// A server where the service account `stolon` has a Role, and its token is accepted.
fn with_role(change: impl Fn(&mut Value)) -> Ours {
    let ours = Ours::start();
    let (mut role, binding) = of_the_manual();
    change(&mut role);
    ours.server.ask("POST", ROLES, role).expect("a role");
    ours.server
        .ask("POST", BINDINGS, binding)
        .expect("a binding");
    ours.server.accept("token", "stolon");
    ours
}

/// How the service account reaches the store of the cluster `main`.
fn as_account(ours: &Ours) -> Config {
    let endpoint = ours.server.secure_endpoint();
    let kubeconfig = ours.server.kubeconfig("account", &endpoint, Some("token"));
    let mut config = config(&kubeconfig, Some("k1"), LIMIT);
    "main".clone_into(&mut config.cluster_name);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_manual_suffices() {
    let mut checks = tokio::task::JoinSet::new();
    for (name, check) in CHECKS {
        let ours = with_role(|_| {});
        let hosts = Hosts::reached_by(&ours.plain());
        let config = as_account(&ours);
        let open: Open = Arc::new(move || InPods::open(&config, &hosts));
        checks.spawn(async move {
            let checked = check(open).await.map_err(|why| format!("{name}: {why}"));
            drop(ours);
            checked
        });
    }
    let outcomes = checks.join_all().await;
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Each verb that is taken out of the Role is missed, and told with what to allow.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_told_with_what_to_allow() {
    let cases = [
        (0, "create", "create configmaps stolon-cluster-main"),
        (1, "get", "get configmaps stolon-cluster-main"),
        (1, "update", "update configmaps stolon-cluster-main"),
        (2, "get", "get pods k1"),
        (2, "list", "list pods"),
        (2, "patch", "patch pods k1"),
    ];
    for (rule, verb, said) in cases {
        let ours = with_role(|role| {
            let verbs = role["rules"][rule]["verbs"].as_array_mut().expect("verbs");
            let before = verbs.len();
            verbs.retain(|allowed| allowed != verb);
            assert_eq!(verbs.len() + 1, before, "the manual's Role has {verb}");
        });
        ours.server.make_pod("k1", "stolon-keeper", "main");
        let store = stolon_store::open(&as_account(&ours)).expect("a store");
        let info = Key::KeeperInfo("k1".to_owned());
        let mut errors = Vec::new();
        for _ in 0..2 {
            if let Written::No(error) = store.put(&Key::ClusterData, b"1").await {
                errors.push(error);
            }
            let published = store.publish(&info, br#"{"uid":"k1"}"#, LIMIT).await;
            errors.extend(published.err());
            errors.extend(store.get(&info).await.err());
        }
        let error = errors
            .first()
            .unwrap_or_else(|| panic!("{verb} is not missed"));
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(said) && text.contains("docs/stores.md"),
            "{said}: {text}"
        );
        assert!(!text.contains("token"), "{text}");
    }
}

/// Without it everything works, only later.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_may_not_watch_is_read_and_written() {
    let ours = with_role(|role| {
        for rule in role["rules"].as_array_mut().expect("rules") {
            let verbs = rule["verbs"].as_array_mut().expect("verbs");
            verbs.retain(|allowed| allowed != "watch");
        }
    });
    let store = stolon_store::open(&as_account(&ours)).expect("a store");
    let mut watch = store.watch();
    let written = store.put(&Key::ClusterData, b"1").await;
    assert!(matches!(written, Written::Yes(_)), "{written:?}");
    ours.server.take_asked();
    let woken = tokio::time::timeout(Duration::from_secs(3), watch.changed()).await;
    woken.expect_err("nothing is watched");
    let asked = ours.server.take_asked();
    assert!(asked.len() <= 12, "it does not ask without end: {asked:?}");
    // As when the Role was made only just now, and the server does not know it yet.
    let (role, _) = of_the_manual();
    ours.server
        .ask("PUT", &format!("{ROLES}/stolon"), role)
        .expect("a role");
    tokio::time::timeout(Duration::from_mins(1), watch.changed())
        .await
        .expect("it watches soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_read_anew_from_its_file() {
    let ours = with_role(|_| {});
    let file = ours.folder.path().join("token");
    std::fs::write(&file, "token").expect("written");
    let mut config = as_account(&ours);
    let path = config.kube.kubeconfig.clone().expect("a kubeconfig");
    let text = std::fs::read_to_string(&path).expect("a kubeconfig");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    document["users"][0]["user"] = json!({ "tokenFile": file });
    std::fs::write(&path, document.to_string()).expect("written");
    config.timeout = Duration::from_secs(2);
    let store = stolon_store::open(&config).expect("a store");
    ready(&store).await;

    ours.server.expire("token");
    // At first the credentials are read again, which does not help.
    let denied = eventually("it is refused", || async {
        match store.get(&Key::ClusterData).await {
            Err(Error::Denied { cause, .. }) => Some(cause),
            _ => None,
        }
    })
    .await;
    assert!(denied.contains("expired"), "{denied}");
    ours.server.accept("another", "stolon");
    std::fs::write(&file, "another").expect("written");
    ready(&store).await;
}

/// How the service account reaches the store by a program for credentials, which prints what stands in
/// the folder's `answer`, and does not end where there is a file `hang`.
fn by_program(ours: &Ours) -> Config {
    let mut config = as_account(ours);
    config.timeout = Duration::from_secs(1);
    let path = config.kube.kubeconfig.clone().expect("a kubeconfig");
    let text = std::fs::read_to_string(&path).expect("a kubeconfig");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    let script = "cd \"$1\"; [ ! -e hang ] || { sleep 1000 & echo $! >pid; wait; }; cat answer";
    document["users"][0]["user"] = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "sh", "args": ["-c", script, "sh", ours.folder.path()],
    }});
    std::fs::write(&path, document.to_string()).expect("written");
    config
}

/// Has the program of `by_program` hand out a token that is good until then.
fn hand_out(ours: &Ours, token: &str, until: Option<&str>) {
    let mut status = json!({ "token": token });
    if let Some(until) = until {
        status["expirationTimestamp"] = until.into();
    }
    let answer = json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": status,
    });
    std::fs::write(ours.folder.path().join("answer"), answer.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_for_credentials_that_hangs_is_ended_and_run_again() {
    let ours = with_role(|_| {});
    hand_out(&ours, "token", None);
    let folder = ours.folder.path();
    std::fs::write(folder.join("hang"), "").expect("written");
    let store = stolon_store::open(&by_program(&ours)).expect("a store");
    fails_with(&store, "takes its time").await;
    let pid = eventually("it hangs", || async {
        let text = std::fs::read_to_string(folder.join("pid")).ok()?;
        text.trim().parse::<u32>().ok()
    })
    .await;
    std::fs::remove_file(folder.join("hang")).expect("removed");
    ready(&store).await;
    // Ended with what it had started; perhaps nobody has looked after that one yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(!stat.is_ok_and(|stat| !stat.contains(") Z ")), "it is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_hands_out_is_asked_for_again_when_it_expires() {
    let ours = with_role(|_| {});
    hand_out(&ours, "token", Some("2001-01-01T00:00:00Z"));
    let store = stolon_store::open(&by_program(&ours)).expect("a store");
    fails_with(&store, "have expired").await;
    hand_out(&ours, "token", Some("2201-01-01T00:00:00Z"));
    ready(&store).await;
    // A server may refuse it sooner.
    ours.server.expire("token");
    ours.server.accept("another", "stolon");
    hand_out(&ours, "another", None);
    ready(&store).await;
    std::fs::write(ours.folder.path().join("answer"), "secret: [").expect("written");
    ours.server.expire("another");
    let told = fails_with(&store, "handed none out").await;
    assert!(!told.contains("secret"), "{told}");
}

/// Waits until a call fails with these words; what else it says.
async fn fails_with(store: &Arc<dyn Store>, words: &str) -> String {
    eventually(words, || async {
        let error = store.get(&Key::ClusterData).await.err()?.to_string();
        error.contains(words).then_some(error)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_vouches_for_is_not_believed() {
    let ours = with_role(|_| {});
    let config = as_account(&ours);
    let path = config.kube.kubeconfig.clone().expect("a kubeconfig");
    let text = std::fs::read_to_string(&path).expect("a kubeconfig");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    let others = Ours::start();
    let authority = others.folder.path().join("kube-authority.crt");
    document["clusters"][0]["cluster"]["certificate-authority"] = json!(authority);
    std::fs::write(&path, document.to_string()).expect("written");
    let store = stolon_store::open(&config).expect("a store");
    let error = store
        .get(&Key::ClusterData)
        .await
        .expect_err("not believed");
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("kubeconfig") && !text.contains("--store-ca-file"),
        "{text}"
    );
}

#[test]
fn what_is_wrong_with_the_files_is_told_without_what_is_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let secret = "kubeconfig-secret";
    let opened = |config: &Config| match stolon_store::open(config) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    };
    let given = config(&path, None, LIMIT);
    let text = opened(&given);
    assert!(text.contains(&path.display().to_string()), "{text}");
    for broken in [
        format!("users:\n- name: a\n  user:\n    token: {secret}\n  bad: [\n"),
        format!("clusters: {secret}\n"),
    ] {
        std::fs::write(&path, broken).expect("written");
        let text = opened(&given);
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(!text.contains(secret), "{text}");
    }
    // Files that are only looked for may be missing; then there has to be a service account.
    let mut looked_for = given.clone();
    looked_for.kube.kubeconfig = None;
    looked_for.kube.looked_for = vec![folder.path().join("absent")];
    let text = opened(&looked_for);
    assert!(
        text.contains("absent") && text.contains("service account"),
        "{text}"
    );
    let mut proxied = given;
    let cluster = json!({ "server": "https://10.0.0.1", "proxy-url": "http://10.0.0.2" });
    let document = json!({
        "current-context": "a", "contexts": [{ "name": "a", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": cluster }],
    });
    std::fs::write(&path, document.to_string()).expect("written");
    let text = opened(&proxied);
    assert!(text.contains("proxy-url"), "{text}");
    proxied.kube.context = Some("b".to_owned());
    let text = opened(&proxied);
    assert!(text.contains("context: b"), "{text}");
    proxied.cluster_name = "Main_1".to_owned();
    let text = opened(&proxied);
    assert!(text.contains("--cluster-name"), "{text}");
}
