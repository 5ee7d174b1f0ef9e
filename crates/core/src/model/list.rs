//! Lists as Go writes them: `null` when nil, `[]` when empty.

use serde::{Deserialize, Serialize};

/// A list that remembers whether it was `null`, because the two print differently.
///
/// It reads as a slice. [`List::same_set`] compares without regard to order (scenario A9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(pub Option<Vec<T>>);

impl<T> List<T> {
    /// The nil list, written `null`.
    pub const NULL: Self = Self(None);

    /// The items, none for nil.
    pub fn as_slice(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether it is nil rather than empty.
    pub const fn is_null(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Ord> List<T> {
    /// Whether both hold the same items, in whatever order and however often.
    pub fn same_set(&self, other: &Self) -> bool {
        let ours: std::collections::BTreeSet<&T> = self.iter().collect();
        let theirs: std::collections::BTreeSet<&T> = other.iter().collect();
        ours == theirs
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Some(items.into_iter().collect()))
    }
}
