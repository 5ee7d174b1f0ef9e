//! From a request as HTTP has it to what is asked of which objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::status::Status;

/// A kind of object that is served.
#[allow(
    clippy::struct_field_names,
    reason = "an object's `kind` is what it is called"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    /// In paths.
    pub(crate) resource: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short: &'static str,
    pub(crate) namespaced: bool,
    /// Whether an update has to name the version it replaces.
    pub(crate) only_conditional: bool,
}

const fn kind(
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    short: &'static str,
) -> Kind {
    Kind {
        group,
        resource,
        kind,
        short,
        namespaced: true,
        only_conditional: false,
    }
}

/// All that are served.
pub(crate) const KINDS: &[Kind] = &[
    kind("", "configmaps", "ConfigMap", "cm"),
    kind("", "pods", "Pod", "po"),
    kind("", "serviceaccounts", "ServiceAccount", "sa"),
    Kind {
        namespaced: false,
        ..kind("", "namespaces", "Namespace", "ns")
    },
    Kind {
        only_conditional: true,
        ..kind("coordination.k8s.io", "leases", "Lease", "")
    },
    kind(RBAC, "roles", "Role", ""),
    kind(RBAC, "rolebindings", "RoleBinding", ""),
];

/// The group of roles.
pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";

impl Kind {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{}/v1", self.group)
        }
    }

    /// As in messages.
    pub(crate) fn full(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// What is asked of which objects.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) kind: Kind,
    /// Empty: all of them.
    pub(crate) namespace: String,
    /// Empty: several.
    pub(crate) name: String,
    pub(crate) query: BTreeMap<String, String>,
}

/// As a Role names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

impl Request {
    /// Reads `/api/v1/...` and `/apis/GROUP/v1/...`.
    pub(crate) fn read(method: &str, path: &str, query: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return Err(Status::no_such_path()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, resource, rest @ ..] => {
                (*namespace, [&[*resource], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let (resource, name) = match rest.as_slice() {
            [resource] => (*resource, ""),
            [resource, name] => (*resource, *name),
            _ => return Err(Status::no_such_path()),
        };
        let mut kinds = KINDS.iter();
        let kind = kinds.find(|kind| kind.group == group && kind.resource == resource);
        let kind = *kind.ok_or_else(Status::no_such_path)?;
        let query: BTreeMap<String, String> = pairs(query);
        let watches = query.get("watch").is_some_and(|text| is_true(text));
        let verb = match (method, name.is_empty()) {
            ("GET", true) if watches => Verb::Watch,
            ("GET", true) => Verb::List,
            ("GET", false) => Verb::Get,
            ("POST", true) => Verb::Create,
            ("PUT", false) => Verb::Update,
            ("PATCH", false) => Verb::Patch,
            ("DELETE", false) => Verb::Delete,
            _ => return Err(Status::method_not_allowed()),
        };
        Ok(Self {
            verb,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            query,
        })
    }

    /// A parameter, unless it is empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// The version that is asked for; none: the most recent.
    pub(crate) fn version(&self) -> Result<Option<u64>, Status> {
        let invalid = |_| Status::bad_request("resourceVersion: Invalid value");
        self.parameter("resourceVersion")
            .map(|text| text.parse().map_err(invalid))
            .transpose()
    }

    /// Whether an object is among those that are asked for.
    pub(crate) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let fields = |name: &str| match name {
            "metadata.name" => object["metadata"]["name"].as_str(),
            "metadata.namespace" => object["metadata"]["namespace"].as_str(),
            "status.phase" => object["status"]["phase"].as_str(),
            _ => None,
        };
        let in_namespace =
            self.namespace.is_empty() || object["metadata"]["namespace"] == self.namespace.as_str();
        in_namespace
            && fits(self.parameter("labelSelector"), |name| {
                labels[name].as_str()
            })
            && fits(self.parameter("fieldSelector"), fields)
    }

    /// The one object that a field selector means, which a Role may name.
    pub(crate) fn only_name(&self) -> &str {
        let selected = self
            .parameter("fieldSelector")
            .and_then(|text| text.strip_prefix("metadata.name="));
        match selected {
            Some(name) if self.name.is_empty() && !name.contains(',') => name,
            _ => &self.name,
        }
    }
}

/// As Go reads it (`strconv.ParseBool`).
pub(crate) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let decoded = form_urlencoded::parse(query.as_bytes());
    decoded.into_owned().collect()
}

/// Whether what `value` gives is as a selector of equalities says.
fn fits<'object>(selector: Option<&str>, value: impl Fn(&str) -> Option<&'object str>) -> bool {
    let parts = selector.into_iter().flat_map(|text| text.split(','));
    parts.into_iter().all(|part| {
        if let Some((name, unwanted)) = part.split_once("!=") {
            value(name) != Some(unwanted)
        } else if let Some((name, wanted)) = part.split_once("==").or(part.split_once('=')) {
            value(name) == Some(wanted)
        } else {
            value(part).is_some()
        }
    })
}
