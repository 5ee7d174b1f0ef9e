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
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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

    let create = ["create", "--validate=false"];
    let made = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "x": "1" },
    });
    succeeds(&create, &kubectl.given(&create, &made));
    refused(&create, &kubectl.given(&create, &made), "AlreadyExists");
    let before = kubectl.object(&["get", "cm", "a"]);
    assert_eq!(before["data"]["x"], "1");
    let watching = Watching::begin(&kubectl, "a");
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
    watching.sees(r#""MODIFIED""#);
    watching.sees(r#""DELETED""#);
    let nowhere = ["create", "--validate=false", "-n", "nowhere"];
    refused(&nowhere, &kubectl.given(&nowhere, &made), "not found");

    kubectl.is_refused(&["get", "cm", "--token=nobodys"], "Unauthorized");
    server.accept("reader's", "reader");
    let read = ["get", "cm", "--token=reader's"];
    kubectl.is_refused(
        &read,
        "cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"",
    );
    let api = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": { "name": "reader" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] }],
    });
    let binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": api, "kind": "Role", "name": "reader" },
        "subjects": [{ "kind": "ServiceAccount", "name": "reader" }],
    });
    for document in [role, binding] {
        succeeds(&create, &kubectl.given(&create, &document));
    }
    kubectl.does(&read);
    kubectl.is_refused(
        &["get", "cm", "a", "--token=reader's"],
        "cannot get resource",
    );
}

/// A `kubectl` that watches, with all it has printed.
struct Watching {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Watching {
    /// Watches a ConfigMap, and has shown what there is of it.
    fn begin(kubectl: &Kubectl, name: &str) -> Self {
        let words = ["get", "cm", name, "--watch", "--output-watch-events"];
        let mut command = kubectl.command(&[&words[..], &["-o", "json"]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let printed = Arc::new(Mutex::new(String::new()));
        let all = printed.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *all.lock().expect("text") += &line;
            }
        });
        let watching = Self { child, printed };
        watching.sees(r#""ADDED""#);
        watching
    }

    /// Waits until it has printed something.
    #[track_caller]
    fn sees(&self, what: &str) {
        let end = Instant::now() + server::LIMIT;
        loop {
            let printed = self.printed.lock().expect("text").clone();
            if printed.contains(what) {
                return;
            }
            assert!(
                Instant::now() < end,
                "kubectl has not shown {what}: {printed}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Its watch has no end of its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
