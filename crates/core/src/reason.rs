//! Why something was decided: returned by the decisions, logged once by the daemons, shown by
//! `stolonctl status`, compared by tests.

use serde::{Deserialize, Serialize};

/// How much a reason matters to the operator.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Only of use when looking for a fault.
    Debug,
    /// The normal course of things.
    #[default]
    Info,
    /// Something is not as it should be, and the cluster copes.
    Warn,
    /// Something is not as it should be, and somebody should look.
    Error,
}

/// One reason: a stable code for programs, a sentence for people, and the values it rests on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// How much it matters.
    pub severity: Severity,
    /// A stable, dashed name, for example `primary-failed`.
    pub code: String,
    /// A lower-case sentence without a full stop.
    pub text: String,
    /// The values it rests on, in a fixed order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<(String, String)>,
}

impl Reason {
    /// A reason in the normal course of things.
    pub fn info(code: &str, text: impl Into<String>) -> Self {
        Self::new(Severity::Info, code, text)
    }

    /// A reason only of use when looking for a fault.
    pub fn debug(code: &str, text: impl Into<String>) -> Self {
        Self::new(Severity::Debug, code, text)
    }

    /// A reason that tells of trouble the cluster copes with.
    pub fn warn(code: &str, text: impl Into<String>) -> Self {
        Self::new(Severity::Warn, code, text)
    }

    /// A reason that somebody should look at.
    pub fn error(code: &str, text: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, text)
    }

    fn new(severity: Severity, code: &str, text: impl Into<String>) -> Self {
        Self {
            severity,
            code: code.to_owned(),
            text: text.into(),
            details: Vec::new(),
        }
    }

    /// The same reason with one more value it rests on.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.details.push((name.to_owned(), value.to_string()));
        self
    }
}

impl std::fmt::Display for Reason {
    /// `text (name value, name value)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        for (index, (name, value)) in self.details.iter().enumerate() {
            write!(f, "{}{name} {value}", if index == 0 { " (" } else { ", " })?;
        }
        if self.details.is_empty() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}
