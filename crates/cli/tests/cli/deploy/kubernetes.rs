//! The manifests of Kubernetes, by the types of its API.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PodSpec, PodTemplateSpec, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{output, read, repository};

/// The objects of a manifest by kind and name.
fn objects(file: &str) -> BTreeMap<(String, String), Value> {
    let text = read(&repository().join("deploy/kubernetes").join(file));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let named = |object: Value| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let key = (text(&object["kind"]), text(&object["metadata"]["name"]));
        (key, object)
    };
    documents.into_iter().map(named).collect()
}

/// An object as its type; a field that the type does not have is a mistake of ours.
fn typed<T: DeserializeOwned + serde::Serialize>(object: &Value) -> T {
    let typed: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{error}: {object:#}"));
    let kept = serde_json::to_value(&typed).expect("JSON");
    let mut lost = Vec::new();
    compare(object, &kept, "", &mut lost);
    assert_eq!(lost, [""; 0], "unknown to Kubernetes, in {object:#}");
    typed
}

/// The paths of what a type did not keep.
fn compare(written: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(fields), _) => {
            for (name, value) in fields {
                compare(value, &kept[name], &format!("{path}.{name}"), lost);
            }
        }
        (Value::Array(items), _) => {
            for (index, item) in items.iter().enumerate() {
                compare(item, &kept[index], &format!("{path}[{index}]"), lost);
            }
        }
        // Nothing, or an empty object, says nothing.
        (written, kept) if written == kept || written.is_null() => {}
        _ => lost.push(path.to_owned()),
    }
}

fn template(objects: &BTreeMap<(String, String), Value>, name: &str) -> PodTemplateSpec {
    let key = |kind: &str| (kind.to_owned(), name.to_owned());
    if let Some(object) = objects.get(&key("Deployment")) {
        return typed::<Deployment>(object).spec.template;
    }
    let set = typed::<StatefulSet>(&objects[&key("StatefulSet")]);
    set.spec.template
}

#[test]
fn the_manifests_are_what_the_chart_makes() {
    output(Command::new(repository().join("scripts/render-chart")).arg("--check"));
}

#[test]
fn every_object_is_of_its_type() {
    let mut all = objects("stolon.yaml");
    all.extend(objects("passwords.yaml"));
    let mut kinds = BTreeSet::new();
    for ((kind, _), object) in &all {
        kinds.insert(kind.as_str());
        match kind.as_str() {
            "ConfigMap" => drop(typed::<ConfigMap>(object)),
            "Deployment" => drop(typed::<Deployment>(object)),
            "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(object)),
            "Role" => drop(typed::<Role>(object)),
            "RoleBinding" => drop(typed::<RoleBinding>(object)),
            "Secret" => drop(typed::<Secret>(object)),
            "Service" => drop(typed::<Service>(object)),
            "ServiceAccount" => drop(typed::<ServiceAccount>(object)),
            "StatefulSet" => drop(typed::<StatefulSet>(object)),
            other => panic!("nobody looks at a {other}"),
        }
    }
    assert_eq!(kinds.len(), 9);
}

/// What selects the pods of a component finds them, and they mount and ask for what there is.
#[test]
fn the_objects_fit_together() {
    let all = objects("stolon.yaml");
    let there = |kind: &str, name: &str| all.contains_key(&(kind.to_owned(), name.to_owned()));
    for component in ["keeper", "sentinel", "proxy"] {
        let name = format!("stolon-{component}");
        let template = template(&all, &name);
        let labels = template.metadata.and_then(|m| m.labels).expect("labels");
        assert_eq!(labels["component"], name);
        assert_eq!(labels["stolon-cluster"], "main");
        let budget = &all[&("PodDisruptionBudget".to_owned(), name.clone())];
        let budget: PodDisruptionBudget = typed(budget);
        let selector = budget.spec.and_then(|spec| spec.selector).expect("some");
        for (label, value) in selector.match_labels.expect("labels") {
            assert_eq!(labels[&label], value, "{name}");
        }
        let pod = template.spec.expect("a spec");
        let account = pod.service_account_name.clone().expect("an account");
        assert!(there("ServiceAccount", &account) && there("RoleBinding", &account));
        is_no_more_than_it_needs_to_be(&pod);
        let container = &pod.containers[0];
        is_asked_for_its_health(container, component);
        let volumes = pod
            .volumes
            .iter()
            .flatten()
            .map(|volume| volume.name.as_str());
        let volumes: BTreeSet<&str> = volumes.chain(["data"]).collect();
        for mount in container.volume_mounts.iter().flatten() {
            assert!(
                volumes.contains(mount.name.as_str()),
                "{name}: {}",
                mount.name
            );
        }
    }
    for service in ["stolon-keeper", "stolon-proxy"] {
        let service: Service = typed(&all[&("Service".to_owned(), service.to_owned())]);
        let selector = service.spec.and_then(|spec| spec.selector).expect("some");
        assert_eq!(Some(&selector["component"]), service.metadata.name.as_ref());
    }
}

fn is_no_more_than_it_needs_to_be(pod: &PodSpec) {
    let of_pod = pod.security_context.as_ref().expect("a context");
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert_eq!(of_pod.run_as_user, Some(999), "as the image has it");
    let context = pod.containers[0].security_context.as_ref();
    let context = context.expect("a context");
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
}

/// A keeper that is not ready, because PostgreSQL recovers, must live.
fn is_asked_for_its_health(container: &Container, component: &str) {
    let path = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
        let http = probe.and_then(|probe| probe.http_get.as_ref());
        http.and_then(|http| http.path.clone())
    };
    let live = container.liveness_probe.as_ref();
    assert_eq!(path(live).as_deref(), Some("/livez"));
    assert_eq!(
        path(container.readiness_probe.as_ref()).as_deref(),
        Some("/readyz")
    );
    if component == "keeper" {
        assert_eq!(
            path(container.startup_probe.as_ref()).as_deref(),
            Some("/livez")
        );
        let live = live.expect("a probe");
        let patience = live.period_seconds.zip(live.failure_threshold);
        assert!(patience.is_some_and(|(every, times)| every * times >= 120));
    }
}

/// Proxies, which clients can reach, write nothing but on pods.
#[test]
fn the_roles_allow_no_more_than_is_needed() {
    let all = objects("stolon.yaml");
    for (name, expected) in [
        (
            "stolon",
            "configmaps: create; configmaps!: get update watch; pods: get list watch patch",
        ),
        (
            "stolon-proxy",
            "configmaps!: get watch; pods: get list watch patch",
        ),
    ] {
        let role: Role = typed(&all[&("Role".to_owned(), name.to_owned())]);
        let rules: Vec<String> = role
            .rules
            .into_iter()
            .flatten()
            .map(|rule| {
                let bound = if rule.resource_names.is_some() {
                    "!"
                } else {
                    ""
                };
                let resources = rule.resources.unwrap_or_default().join(" ");
                format!("{resources}{bound}: {}", rule.verbs.join(" "))
            })
            .collect();
        assert_eq!(rules.join("; "), expected);
    }
}
