//! What the server says of itself, which clients ask before anything else.

use serde_json::{Value, json};

use super::request::KINDS;

/// The answer for a path; none: it is not about the server.
pub(crate) fn answer(path: &str) -> Option<Value> {
    let groups = ["coordination.k8s.io", super::request::RBAC];
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Some(match parts.as_slice() {
        ["version"] => json!({
            "major": "1", "minor": "32", "gitVersion": "v1.32.0-test", "gitCommit": "",
            "gitTreeState": "clean", "buildDate": "2026-11-22T00:00:00Z", "goVersion": "",
            "compiler": "", "platform": "linux/amd64",
        }),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        ["apis"] => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups.map(|name| json!({
                "name": name,
                "versions": [{ "groupVersion": format!("{name}/v1"), "version": "v1" }],
                "preferredVersion": { "groupVersion": format!("{name}/v1"), "version": "v1" },
            })),
        }),
        ["api", "v1"] => resources(""),
        ["apis", group, "v1"] if groups.contains(group) => resources(group),
        _ => return None,
    })
}

fn resources(group: &str) -> Value {
    let of_group = KINDS.iter().filter(|kind| kind.group == group);
    let resources: Vec<Value> = of_group
        .map(|kind| {
            let short: Vec<&str> = Some(kind.short)
                .filter(|short| !short.is_empty())
                .into_iter()
                .collect();
            json!({
                "name": kind.resource, "singularName": kind.kind.to_lowercase(),
                "namespaced": kind.namespaced, "kind": kind.kind, "shortNames": short,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            })
        })
        .collect();
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": resources,
    })
}
