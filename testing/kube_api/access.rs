//! Who asks, and whether they may: tokens, and the roles and their bindings among the objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::objects::Objects;
use super::request::{KINDS, Kind, Request};
use super::status::Status;

/// Who may do everything.
pub(crate) const ADMIN: &str = "admin";

/// The tokens that are accepted, each with whose it is.
pub(crate) type Tokens = BTreeMap<String, String>;

/// The user of a service account.
pub(crate) fn service_account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Who sends a request with this header.
pub(crate) fn user(tokens: &Tokens, header: Option<&str>) -> Result<String, Status> {
    let Some(header) = header else {
        return Ok("system:anonymous".to_owned());
    };
    let token = header.strip_prefix("Bearer ").map(str::trim);
    let user = token.and_then(|token| tokens.get(token));
    user.cloned().ok_or_else(Status::unauthorized)
}

/// Refuses what no Role allows the user.
pub(crate) fn check(objects: &Objects, user: &str, request: &Request) -> Result<(), Status> {
    if user == ADMIN || allowed(objects, user, request) {
        return Ok(());
    }
    let Kind {
        group, resource, ..
    } = request.kind;
    let verb = request.verb.name();
    let name = if request.name.is_empty() {
        String::new()
    } else {
        format!(" \"{}\"", request.name)
    };
    let place = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", request.namespace)
    };
    Err(Status::forbidden(format!(
        "{}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \
         \"{group}\" {place}",
        request.kind.full()
    )))
}

fn of_resource(resource: &str) -> Kind {
    let found = KINDS.iter().find(|kind| kind.resource == resource);
    *found.expect("a kind")
}

fn allowed(objects: &Objects, user: &str, request: &Request) -> bool {
    let here = |object: &&Value| object["metadata"]["namespace"] == request.namespace.as_str();
    let mut bindings = objects.all(of_resource("rolebindings")).filter(here);
    bindings.any(|binding| {
        let role = &binding["roleRef"]["name"];
        let subjects = binding["subjects"].as_array();
        let binds = subjects.is_some_and(|all| {
            all.iter()
                .any(|subject| is(subject, user, &request.namespace))
        });
        let mut roles = objects.all(of_resource("roles")).filter(here);
        binds && roles.any(|found| found["metadata"]["name"] == *role && permits(found, request))
    })
}

/// Whether a subject of a binding is the user.
fn is(subject: &Value, user: &str, namespace: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => name == user,
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(namespace);
            service_account(namespace, name) == user
        }
        _ => false,
    }
}

fn permits(role: &Value, request: &Request) -> bool {
    let rules = role["rules"].as_array();
    let has = |list: &Value, wanted: &str| {
        let all = list.as_array();
        all.is_some_and(|all| all.iter().any(|one| *one == "*" || *one == wanted))
    };
    rules.is_some_and(|rules| {
        rules.iter().any(|rule| {
            let names = rule["resourceNames"]
                .as_array()
                .filter(|names| !names.is_empty());
            // Nobody has a name yet when it is created.
            let is_named = names.is_none_or(|_| {
                let name = request.only_name();
                !name.is_empty() && has(&rule["resourceNames"], name)
            });
            has(&rule["apiGroups"], request.kind.group)
                && has(&rule["resources"], request.kind.resource)
                && has(&rule["verbs"], request.verb.name())
                && is_named
        })
    })
}
