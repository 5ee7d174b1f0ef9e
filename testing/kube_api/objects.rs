//! The objects and their history: versions, conflicts, limits, patches.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use super::request::{Kind, Request};
use super::status::Status;

/// All annotations of an object together (`validation.TotalAnnotationSizeLimitB`).
const MOST_ANNOTATIONS: usize = 256 * 1024;
/// All data of a ConfigMap together (`core.MaxSecretSize`).
const MOST_DATA: usize = 1024 * 1024;
/// Events that are kept for watches; older ones are compacted.
const MOST_EVENTS: usize = 10_000;

const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// What an object is found by.
type Id = (&'static str, String, String);

/// What happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) kind: Kind,
    /// As it was before; none: it was not there.
    pub(crate) before: Option<Value>,
    /// As it was after; none: it is gone.
    pub(crate) after: Option<Value>,
}

/// All objects, with one count of versions.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) version: u64,
    /// Events after this version are still known.
    pub(crate) oldest: u64,
    present: BTreeMap<Id, Value>,
    events: VecDeque<Event>,
    uids: u64,
}

impl Objects {
    pub(crate) fn new() -> Self {
        let mut objects = Self {
            version: 100,
            oldest: 100,
            present: BTreeMap::new(),
            events: VecDeque::new(),
            uids: 0,
        };
        for name in ["default", "kube-system"] {
            let request = Request::read("POST", "/api/v1/namespaces", "").expect("a request");
            let namespace =
                json!({ "metadata": { "name": name }, "status": { "phase": "Active" } });
            objects.create(&request, namespace).expect("created");
        }
        objects
    }

    fn id(request: &Request, name: &str) -> Id {
        (
            request.kind.resource,
            request.namespace.clone(),
            name.to_owned(),
        )
    }

    pub(crate) fn get(&self, request: &Request) -> Result<Value, Status> {
        let id = Self::id(request, &request.name);
        let found = self.present.get(&id).cloned();
        found.ok_or_else(|| Status::not_found(&request.kind.full(), &request.name))
    }

    /// All objects of a kind, whatever a request selects of them.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        let of_kind = move |(id, _): &(&Id, &Value)| id.0 == kind.resource;
        self.present
            .iter()
            .filter(of_kind)
            .map(|(_, object)| object)
    }

    pub(crate) fn list(&self, request: &Request) -> Result<Value, Status> {
        if let Some(wanted) = request.version()?.filter(|wanted| *wanted > self.version) {
            return Err(Status::too_new(wanted, self.version));
        }
        let items: Vec<&Value> = self
            .all(request.kind)
            .filter(|object| request.selects(object))
            .collect();
        Ok(json!({
            "kind": format!("{}List", request.kind.kind),
            "apiVersion": request.kind.api_version(),
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        }))
    }

    /// The events after a version; refused when some of them are no longer known.
    pub(crate) fn since(&self, kind: Kind, version: u64) -> Result<Vec<Event>, Status> {
        if version < self.oldest {
            return Err(Status::too_old(version, self.oldest));
        }
        let later = self.events.iter().filter(|event| event.version > version);
        Ok(later.filter(|event| event.kind == kind).cloned().collect())
    }

    /// Forgets all events, as a compaction does.
    pub(crate) fn forget_events(&mut self) {
        self.oldest = self.version;
        self.events.clear();
    }

    pub(crate) fn create(&mut self, request: &Request, mut object: Value) -> Result<Value, Status> {
        check_shape(request, &object)?;
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if !object["metadata"]["resourceVersion"].is_null() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        check_name(request.kind, &name)?;
        if request.kind.namespaced {
            self.check_namespace(&request.namespace)?;
        }
        let id = Self::id(request, &name);
        if self.present.contains_key(&id) {
            return Err(Status::already_exists(&request.kind.full(), &name));
        }
        self.uids += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = format!("00000000-0000-4000-8000-{:012}", self.uids).into();
        metadata["creationTimestamp"] = made_at(self.uids).into();
        if request.kind.namespaced {
            metadata["namespace"] = request.namespace.clone().into();
        }
        if request.kind.resource == "pods" && object["status"].is_null() {
            object["status"] = json!({ "phase": "Pending" });
        }
        check_limits(request.kind, &object)?;
        Ok(self.store(request.kind, id, Some(object)))
    }

    /// Replaces an object by another.
    pub(crate) fn update(&mut self, request: &Request, object: Value) -> Result<Value, Status> {
        check_shape(request, &object)?;
        if object["metadata"]["name"] != request.name.as_str() {
            let text = "the name of the object does not match the name on the URL";
            return Err(Status::bad_request(text));
        }
        let is_conditional = object["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        if request.kind.only_conditional && !is_conditional {
            let why =
                "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
            return Err(Status::invalid(request.kind.kind, &request.name, why));
        }
        let before = self.get(request)?;
        self.replace(request, &before, object)
    }

    /// Merges a document into an object (RFC 7396).
    pub(crate) fn patch(&mut self, request: &Request, patch: &Value) -> Result<Value, Status> {
        let before = self.get(request)?;
        let mut object = before.clone();
        merge(&mut object, patch);
        self.replace(request, &before, object)
    }

    fn replace(
        &mut self,
        request: &Request,
        before: &Value,
        mut object: Value,
    ) -> Result<Value, Status> {
        let (resource, name) = (request.kind.full(), &request.name);
        let (old, new) = (&before["metadata"], &mut object["metadata"]);
        let names = |wanted: &Value| wanted.as_str().is_some_and(|text| !text.is_empty());
        if names(&new["resourceVersion"]) && new["resourceVersion"] != old["resourceVersion"] {
            return Err(Status::conflict(&resource, name, MODIFIED));
        }
        if names(&new["uid"]) && new["uid"] != old["uid"] {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                new["uid"], old["uid"]
            );
            return Err(Status::conflict(&resource, name, &why));
        }
        for fixed in [
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "namespace",
            "name",
        ] {
            new[fixed] = old[fixed].clone();
        }
        prune(&mut object["metadata"]);
        if request.kind.resource == "pods" {
            if names(&object["spec"]["nodeName"]) && object["spec"] != before["spec"] {
                let why = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`";
                return Err(Status::invalid("Pod", name, why));
            }
            // Only its own subresource changes it.
            object["status"] = before["status"].clone();
        }
        check_limits(request.kind, &object)?;
        if object == *before {
            // Nothing is written, and the version stays.
            return Ok(object);
        }
        let id = Self::id(request, name);
        Ok(self.store(request.kind, id, Some(object)))
    }

    /// Removes an object if it is as the options say.
    pub(crate) fn delete(&mut self, request: &Request, options: &Value) -> Result<Value, Status> {
        let object = self.get(request)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                let why = format!(
                    "Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {}",
                    object["metadata"][field]
                );
                return Err(Status::conflict(&request.kind.full(), &request.name, &why));
            }
        }
        let id = Self::id(request, &request.name);
        self.store(request.kind, id, None);
        Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": request.name, "kind": request.kind.resource, "uid": object["metadata"]["uid"],
            },
        }))
    }

    /// Changes what the host of a pod says of it.
    pub(crate) fn set_phase(&mut self, request: &Request, phase: &str) -> Result<Value, Status> {
        let mut pod = self.get(request)?;
        pod["status"]["phase"] = phase.into();
        let id = Self::id(request, &request.name);
        Ok(self.store(request.kind, id, Some(pod)))
    }

    fn store(&mut self, kind: Kind, id: Id, object: Option<Value>) -> Value {
        self.version += 1;
        let version = self.version.to_string();
        let mut after = object;
        let mut before = self.present.remove(&id);
        if let Some(object) = &mut after {
            object["kind"] = kind.kind.into();
            object["apiVersion"] = kind.api_version().into();
            object["metadata"]["resourceVersion"] = version.into();
            self.present.insert(id, object.clone());
        } else if let Some(gone) = &mut before {
            // As the event of a removal bears it.
            gone["metadata"]["resourceVersion"] = version.into();
        }
        self.events.push_back(Event {
            version: self.version,
            kind,
            before,
            after: after.clone(),
        });
        while self.events.len() > MOST_EVENTS {
            self.oldest = self
                .events
                .pop_front()
                .map_or(self.oldest, |event| event.version);
        }
        after.unwrap_or_default()
    }

    fn check_namespace(&self, name: &str) -> Result<(), Status> {
        let id = ("namespaces", String::new(), name.to_owned());
        if self.present.contains_key(&id) {
            return Ok(());
        }
        Err(Status::not_found("namespaces", name))
    }
}

/// When an object was made: each a second after the one before.
fn made_at(number: u64) -> String {
    let (minutes, seconds) = (number / 60, number % 60);
    let (hours, minutes) = (minutes / 60 % 24, minutes % 60);
    format!("2026-11-22T{hours:02}:{minutes:02}:{seconds:02}Z")
}

fn check_shape(request: &Request, object: &Value) -> Result<(), Status> {
    let wrong = |field: &str, wanted: &str| {
        let given = object[field].as_str().unwrap_or(wanted);
        given != wanted
    };
    if wrong("kind", request.kind.kind) || wrong("apiVersion", &request.kind.api_version()) {
        return Err(Status::bad_request("the object provided is unrecognized"));
    }
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or(&request.namespace);
    if namespace != request.namespace {
        let text =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(text));
    }
    Ok(())
}

fn check_name(kind: Kind, name: &str) -> Result<(), Status> {
    let fits =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':');
    if name.is_empty() {
        let why = "metadata.name: Required value: name or generateName is required";
        return Err(Status::invalid(kind.kind, name, why));
    }
    if !name.chars().all(fits) || name.len() > 253 {
        let why = "metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
        return Err(Status::invalid(kind.kind, name, why));
    }
    Ok(())
}

/// The limits of the server, and that all values are texts.
fn check_limits(kind: Kind, object: &Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let empty = Map::new();
    let size = |fields: &Value| -> Result<usize, Status> {
        let mut size = 0;
        for (field, value) in fields.as_object().unwrap_or(&empty) {
            let Some(text) = value.as_str() else {
                let why = "json: cannot unmarshal object into Go value of type string";
                return Err(Status::bad_request(why));
            };
            size += field.len() + text.len();
        }
        Ok(size)
    };
    let annotations = size(&object["metadata"]["annotations"])?;
    size(&object["metadata"]["labels"])?;
    if annotations > MOST_ANNOTATIONS {
        let why =
            format!("metadata.annotations: Too long: must have at most {MOST_ANNOTATIONS} bytes");
        return Err(Status::invalid(kind.kind, name, &why));
    }
    if kind.kind == "ConfigMap" {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        for key in object["data"].as_object().unwrap_or(&empty).keys() {
            if key.is_empty() || !key.chars().all(fits) {
                let why = format!(
                    "data[{key}]: Invalid value: \"{key}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
                );
                return Err(Status::invalid(kind.kind, name, &why));
            }
        }
        if size(&object["data"])? > MOST_DATA {
            let why = format!("[]: Too long: must have at most {MOST_DATA} bytes");
            return Err(Status::invalid(kind.kind, name, &why));
        }
    }
    Ok(())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

/// Nothing is kept of a field that is null or, as Go's `omitempty` has it, an empty map.
fn prune(metadata: &mut Value) {
    if let Some(fields) = metadata.as_object_mut() {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        fields.retain(|_, value| !value.is_null() && !is_empty(value));
    }
}
