//! The API server of the tests, held to the protocol by clients that others wrote: `kubectl`, and
//! the Python client.

#[path = "../../../testing/kube_api.rs"]
#[allow(dead_code, reason = "its ways to be unwell are for other tests")]
mod kube_api;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "the server is no child process")]
mod server;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kube_api::ApiServer;
use serde_json::{Value, json};
use server::free_port;

/// Debian's, which has the package `python3-kubernetes`.
const PYTHON: &str = "/usr/bin/python3";

fn not_run(test: &str, what: &str) {
    let told = writeln!(
        std::io::stderr(),
        "not run: {test}: {what} is not here (scripts/setup test)"
    );
    drop(told);
}

fn start(folder: &Path) -> (ApiServer, PathBuf) {
    let server = ApiServer::start(folder, free_port(), free_port());
    let kubeconfig = server.kubeconfig("admin", &server.secure_endpoint(), Some("admin"));
    (server, kubeconfig)
}

#[test]
fn the_python_client_finds_what_it_expects() {
    let imported = Command::new(PYTHON)
        .args(["-c", "import kubernetes"])
        .output();
    if !imported.is_ok_and(|output| output.status.success()) {
        not_run(
            "the_python_client_finds_what_it_expects",
            "python3-kubernetes",
        );
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (_server, kubeconfig) = start(folder.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kube_client.py");
    let output = Command::new(PYTHON)
        .arg(script)
        .arg(kubeconfig)
        .output()
        .expect("Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// `kubectl` with a folder of its own for what it remembers of servers.
struct Kubectl {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("HOME", self.folder.path())
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!(
                "--cache-dir={}",
                self.folder.path().join("cache").display()
            ))
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn given(&self, words: &[&str], document: &Value) -> Output {
        let file = self.folder.path().join("document.json");
        std::fs::write(&file, document.to_string()).expect("written");
        let mut command = self.command(words);
        command.arg("-f").arg(file).output().expect("kubectl")
    }

    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        succeeds(words, &self.command(words).output().expect("kubectl"))
    }

    #[track_caller]
    fn is_refused(&self, words: &[&str], why: &str) {
        let output = self.command(words).output().expect("kubectl");
        refused(words, &output, why);
    }

    #[track_caller]
    fn object(&self, words: &[&str]) -> Value {
        let words = [words, &["-o", "json"]].concat();
        serde_json::from_str(&self.does(&words)).expect("JSON")
    }
}

#[track_caller]
fn succeeds(words: &[&str], output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(words: &[&str], output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let is_refused = !output.status.success() && said.contains(why);
    assert!(is_refused, "kubectl {words:?}: {said}");
}

#[test]
fn kubectl_finds_what_it_expects() {
    if Command::new("kubectl").arg("help").output().is_err() {
        not_run("kubectl_finds_what_it_expects", "kubectl");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (server, kubeconfig) = start(folder.path());
    let kubectl = Kubectl { folder, kubeconfig };
    let version = kubectl.object(&["version"]);
    assert_eq!(version["serverVersion"]["major"], "1");

    kubectl.does(&["create", "configmap", "a", "--from-literal=x=1"]);
    kubectl.is_refused(&["create", "configmap", "a"], "AlreadyExists");
    let before = kubectl.object(&["get", "cm", "a"]);
    assert_eq!(before["data"]["x"], "1");
    let watched = watch(&kubectl, &before);
    kubectl.does(&["annotate", "cm", "a", "n=1"]);
    kubectl.does(&["label", "cm", "a", "of=kubectl"]);
    let stale = [
        "annotate",
        "cm",
        "a",
        "n=2",
        "--overwrite",
        "--resource-version=1",
    ];
    kubectl.is_refused(&stale, "the object has been modified");
    let words = ["replace", "--validate=false"];
    refused(
        &words,
        &kubectl.given(&words, &before),
        "the object has been modified",
    );
    let mut now = kubectl.object(&["get", "cm", "a"]);
    assert_eq!(now["metadata"]["annotations"]["n"], "1");
    now["data"]["x"] = "2".into();
    succeeds(&words, &kubectl.given(&words, &now));
    kubectl.does(&[
        "patch",
        "cm",
        "a",
        "--type=merge",
        "-p",
        r#"{"data":{"x":null,"y":"3"}}"#,
    ]);
    assert_eq!(
        kubectl.object(&["get", "cm", "a"])["data"],
        json!({ "y": "3" })
    );
    let listed = kubectl.object(&["get", "cm", "-l", "of=kubectl"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    let listed = kubectl.object(&["get", "cm", "--field-selector=metadata.name=b"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(0));
    kubectl.does(&["delete", "cm", "a"]);
    kubectl.is_refused(&["get", "cm", "a"], "NotFound");
    assert_eq!(
        watched.join().expect("a watch"),
        [
            "ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"
        ]
    );
    kubectl.is_refused(&["create", "cm", "a", "-n", "nowhere"], "not found");

    kubectl.is_refused(&["get", "cm", "--token=nobodys"], "Unauthorized");
    server.accept("reader's", "reader");
    let read = ["get", "cm", "--token=reader's"];
    kubectl.is_refused(
        &read,
        "cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"",
    );
    kubectl.does(&[
        "create",
        "role",
        "reader",
        "--verb=list",
        "--resource=configmaps",
    ]);
    let account = "--serviceaccount=default:reader";
    kubectl.does(&["create", "rolebinding", "reader", "--role=reader", account]);
    kubectl.does(&read);
    kubectl.is_refused(
        &["get", "cm", "a", "--token=reader's"],
        "cannot get resource",
    );
}

/// The kinds of events that `kubectl` is shown of an object, until it is gone.
fn watch(kubectl: &Kubectl, object: &Value) -> std::thread::JoinHandle<Vec<String>> {
    let words = [
        "get",
        "cm",
        "a",
        "--watch",
        "--output-watch-events",
        "-o",
        "json",
    ];
    let mut command = kubectl.command(&words);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let version = object["metadata"]["resourceVersion"].to_string();
    let mut kinds = Vec::new();
    // It watches once it has shown what there is.
    for line in lines.by_ref().map_while(Result::ok) {
        if line.contains(r#""type":"#) {
            kinds.push(line);
        } else if line.contains("resourceVersion") && line.contains(&version) {
            break;
        }
    }
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if !line.contains(r#""type":"#) {
                continue;
            }
            let is_last = line.contains("DELETED");
            kinds.push(line);
            if is_last {
                break;
            }
        }
        // Its watch has no end of its own.
        child.kill().expect("kubectl is ours");
        child.wait().expect("it ends");
        let word = |line: String| line.split('"').nth(3).unwrap_or_default().to_owned();
        kinds.into_iter().map(word).collect()
    })
}
