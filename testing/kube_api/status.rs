//! What the API server says when it does not do what is asked (Kubernetes' API conventions,
//! "Response Status Kind").

use serde_json::{Value, json};

/// A refusal.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
        }
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found"))
    }

    pub(crate) fn no_such_path() -> Self {
        let text = "the server could not find the requested resource";
        Self::new(404, "NotFound", text)
    }

    pub(crate) fn already_exists(resource: &str, name: &str) -> Self {
        let text = format!("{resource} \"{name}\" already exists");
        Self::new(409, "AlreadyExists", text)
    }

    pub(crate) fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let text = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", text)
    }

    pub(crate) fn invalid(kind: &str, name: &str, why: &str) -> Self {
        Self::new(
            422,
            "Invalid",
            format!("{kind} \"{name}\" is invalid: {why}"),
        )
    }

    pub(crate) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", why)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", text)
    }

    pub(crate) fn too_large() -> Self {
        let text = "Request entity too large: limit is 3145728";
        Self::new(413, "RequestEntityTooLarge", text)
    }

    pub(crate) fn unsupported_media(kinds: &str) -> Self {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {kinds}"
        );
        Self::new(415, "UnsupportedMediaType", text)
    }

    pub(crate) fn too_old(from: u64, oldest: u64) -> Self {
        let text = format!("too old resource version: {from} ({oldest})");
        Self::new(410, "Expired", text)
    }

    pub(crate) fn too_new(from: u64, newest: u64) -> Self {
        let text = format!("Too large resource version: {from}, current: {newest}");
        Self::new(504, "Timeout", text)
    }

    /// A refusal that a test asks for.
    pub(crate) fn of_test(code: u16) -> Self {
        match code {
            429 => Self::new(
                429,
                "TooManyRequests",
                "too many requests, please try again later",
            ),
            503 => Self::new(503, "ServiceUnavailable", "apiserver not ready"),
            _ => Self::new(
                code,
                "InternalError",
                "Internal error occurred: etcdserver: request timed out",
            ),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
