//! An API server of Kubernetes for tests: as much of it as the store needs, by its documented
//! behaviour, and ways to make it unwell. `kubectl` and the Python client hold it to the protocol
//! (`crates/store/tests/kubernetes_clients.rs`).
//!
//! It listens twice: by TLS, where tokens and Roles decide, and on a port of plain HTTP where
//! everybody may do everything, as API servers used to have.

#[path = "kube_api/access.rs"]
pub(crate) mod access;
#[path = "kube_api/discovery.rs"]
mod discovery;
#[path = "kube_api/objects.rs"]
mod objects;
#[path = "kube_api/request.rs"]
mod request;
#[path = "kube_api/secure.rs"]
mod secure;
#[path = "kube_api/status.rs"]
mod status;
#[path = "kube_api/watching.rs"]
mod watching;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use objects::Objects;
use request::{Request, Verb};
use status::Status;

/// The version of what holds metadata alone.
const VERSION: &str = "meta.k8s.io/v1";
/// The longest request that is read.
const LONGEST: usize = 3 * 1024 * 1024;

/// How patches are written. For objects without lists that are merged by a key, the two are the same.
const PATCHES: [&str; 2] = [
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// What the server holds, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct World {
    objects: Mutex<Objects>,
    tokens: Mutex<access::Tokens>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
    delay: Mutex<Duration>,
    /// The statuses that the next requests are refused with, whatever they ask.
    refusals: Mutex<Vec<u16>>,
    /// What was asked: verb and resource.
    asked: Mutex<Vec<String>>,
}

/// A running server; it ends when it is dropped.
pub(crate) struct ApiServer {
    world: Arc<World>,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
    secure: secure::Secure,
    folder: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }
}

#[allow(dead_code, reason = "not every test needs all of it")]
impl ApiServer {
    /// Starts it with no objects but namespaces, on two ports that nobody else has; its files go to
    /// the folder.
    pub(crate) fn start(folder: &Path, port: u16, secure_port: u16) -> Self {
        let admin = (access::ADMIN.to_owned(), access::ADMIN.to_owned());
        let world = World {
            objects: Mutex::new(Objects::new()),
            tokens: Mutex::new([admin].into()),
            changed: watch::channel(0).0,
            frozen: watch::channel(false).0,
            delay: Mutex::default(),
            refusals: Mutex::default(),
            asked: Mutex::default(),
        };
        let mut server = Self {
            world: Arc::new(world),
            runtime: None,
            port,
            secure: secure::Secure::new(folder, secure_port),
            folder: folder.to_owned(),
        };
        server.restart();
        server
    }

    /// Where it listens without TLS.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens with TLS.
    pub(crate) fn secure_endpoint(&self) -> String {
        self.secure.endpoint()
    }

    /// Ends it and all its connections, as a power cut would; it keeps its objects.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let world = self.world.clone();
        let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let world = world.clone();
            async move {
                // It is carried out also when whoever asks is gone by then.
                let answer = tokio::spawn(answer(world, request));
                answer.await.expect("an answer")
            }
        });
        let listener = secure::bind(self.port);
        self.secure.listen(&runtime, router.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await
        });
        self.runtime = Some(runtime);
    }

    /// It answers nothing; what is asked meanwhile is done when it thaws.
    pub(crate) fn freeze(&self) {
        self.world.frozen.send_replace(true);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.world.frozen.send_replace(false);
    }

    /// Answers only after so long.
    pub(crate) fn slow_down(&self, delay: Duration) {
        *lock(&self.world.delay) = delay;
    }

    /// Refuses the next requests with these statuses.
    pub(crate) fn refuse(&self, statuses: &[u16]) {
        lock(&self.world.refusals).extend(statuses);
    }

    /// Forgets the history: whoever goes on from an older version is told that it is gone.
    pub(crate) fn forget_history(&self) {
        self.world.objects().forget_events();
    }

    /// How often something was asked since the last time, as `update configmaps`.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.world.asked))
    }

    /// Accepts a token for a service account of the namespace `default`.
    pub(crate) fn accept(&self, token: &str, account: &str) {
        let user = access::service_account("default", account);
        lock(&self.world.tokens).insert(token.to_owned(), user);
    }

    /// Accepts a token no longer.
    pub(crate) fn expire(&self, token: &str) {
        lock(&self.world.tokens).remove(token);
    }

    /// Asks it directly; what it answers, or the status it refuses with.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, u16> {
        let request = Request::read(method, path, "").map_err(|status| status.code)?;
        let outcome = done(&self.world, &request, body).map_err(|status| status.code);
        self.world.changed.send_modify(|count| *count += 1);
        outcome
    }

    /// Makes a pod of the namespace `default` with the labels of a component.
    pub(crate) fn make_pod(&self, name: &str, component: &str, cluster: &str) {
        let labels = json!({ "component": component, "stolon-cluster": cluster });
        let pod = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "none" }] },
        });
        let path = "/api/v1/namespaces/default/pods";
        self.ask("POST", path, pod).expect("a pod");
    }

    /// What the host of a pod says of it, as `Running` or `Failed`.
    pub(crate) fn set_phase(&self, pod: &str, phase: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        let request = Request::read("GET", &path, "").expect("a path");
        self.world
            .objects()
            .set_phase(&request, phase)
            .expect("a pod");
        self.world.changed.send_modify(|count| *count += 1);
    }

    /// A kubeconfig for an endpoint of it, or of a proxy before it, with this token.
    pub(crate) fn kubeconfig(&self, name: &str, endpoint: &str, token: Option<&str>) -> PathBuf {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        let user = token.map_or(json!({}), |token| json!({ "token": token }));
        let mut cluster = json!({ "server": endpoint });
        if endpoint.starts_with("https") {
            cluster["certificate-authority"] = self.secure.authority().display().to_string().into();
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).expect("written");
        path
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test that is itself a task may not wait for it.
            runtime.shutdown_background();
        }
    }
}

async fn answer(world: Arc<World>, request: axum::extract::Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LONGEST).await;
    let delay = *lock(&world.delay);
    tokio::time::sleep(delay).await;
    let mut frozen = world.frozen.subscribe();
    if frozen.wait_for(|frozen| !frozen).await.is_err() {
        return refused(&Status::of_test(503));
    }
    let answered = match body {
        Ok(body) => answered(&world, &parts, &body),
        Err(_) => Err(Status::too_large()),
    };
    answered.unwrap_or_else(|status| refused(&status))
}

fn answered(world: &Arc<World>, parts: &Parts, body: &Bytes) -> Result<Response<Body>, Status> {
    let path = parts.uri.path();
    if let Some(answer) = discovery::answer(path) {
        return Ok(json_answer(StatusCode::OK, &answer));
    }
    if matches!(path, "/livez" | "/readyz" | "/healthz") {
        return Ok(Response::new("ok".into()));
    }
    let query = parts.uri.query().unwrap_or_default();
    let request = Request::read(parts.method.as_str(), path, query)?;
    let asked = format!("{} {}", request.verb.name(), request.kind.resource);
    lock(&world.asked).push(asked);
    if parts.extensions.get::<secure::ByTls>().is_some() {
        let header = parts.headers.get(header::AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let user = access::user(&lock(&world.tokens), header)?;
        access::check(&world.objects(), &user, &request)?;
    }
    let refusal = {
        let mut refusals = lock(&world.refusals);
        (!refusals.is_empty()).then(|| refusals.remove(0))
    };
    if let Some(code) = refusal {
        return Err(Status::of_test(code));
    }
    let shape = shape(parts);
    if request.verb == Verb::Watch {
        return Ok(watch_answer(world, request, shape));
    }
    let document = document(&request, parts, body)?;
    let object = done(world, &request, document)?;
    world.changed.send_modify(|count| *count += 1);
    let created = request.verb == Verb::Create;
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json_answer(code, &shape(object)))
}

/// What a request brings.
fn document(request: &Request, parts: &Parts, body: &Bytes) -> Result<Value, Status> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let accepted: &[&str] = if request.verb == Verb::Patch {
        &PATCHES
    } else {
        // Protobuf, which a real server takes too, is not worth its while here.
        &["", "*/*", "application/json"]
    };
    if !accepted.contains(&kind) {
        return Err(Status::unsupported_media(&accepted.join(", ")));
    }
    serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))
}

fn done(world: &World, request: &Request, document: Value) -> Result<Value, Status> {
    let mut objects = world.objects();
    match request.verb {
        Verb::Get => objects.get(request),
        Verb::List | Verb::Watch => objects.list(request),
        Verb::Create => objects.create(request, document),
        Verb::Update => objects.update(request, document),
        Verb::Patch => objects.patch(request, &document),
        Verb::Delete => objects.delete(request, &document),
    }
}

/// How an object is shown: whole, or its metadata alone.
fn shape(parts: &Parts) -> fn(Value) -> Value {
    let accepted = parts.headers.get(header::ACCEPT);
    let accepted = accepted
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // The first that is offered and can be served.
    let first = accepted
        .split(',')
        .map(str::trim)
        .find(|kind| kind.starts_with("application/json"));
    match first {
        Some(kind) if kind.contains("as=PartialObjectMetadata") => metadata,
        _ => |object| object,
    }
}

fn metadata(object: Value) -> Value {
    if object["kind"] == "Status" {
        return object;
    }
    let Some(items) = object["items"].as_array() else {
        return json!({
            "kind": "PartialObjectMetadata", "apiVersion": VERSION, "metadata": object["metadata"],
        });
    };
    let items: Vec<Value> = items.iter().cloned().map(metadata).collect();
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": VERSION,
        "metadata": object["metadata"], "items": items,
    })
}

fn watch_answer(world: &Arc<World>, request: Request, shape: fn(Value) -> Value) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(watching::serve(world.clone(), request, shape, sender));
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), receiver))
    });
    let mut answer = Response::new(Body::from_stream(lines));
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn refused(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).expect("a status");
    if code == StatusCode::TOO_MANY_REQUESTS {
        // Before it reads a request the server answers in bare text, and by a header.
        let mut answer = Response::new(Body::from("Too many requests, please try again later."));
        *answer.status_mut() = code;
        let seconds = header::HeaderValue::from_static("1");
        answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        return answer;
    }
    json_answer(code, &status.to_json())
}

fn json_answer(code: StatusCode, object: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(object.to_string()));
    *answer.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
