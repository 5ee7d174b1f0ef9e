//! How much room is left in a ConfigMap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;

use super::place::Field;

/// What all annotations of an object may hold together (`validation.TotalAnnotationSizeLimitB`).
const MOST_ANNOTATIONS: usize = 256 * 1024;
/// What all data of a ConfigMap may hold together (`core.MaxSecretSize`).
const MOST_DATA: usize = 1024 * 1024;

/// The names of those that are told to be nearly full.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<BTreeSet<String>>);

impl Room {
    /// Tells in the log, once, when a ConfigMap that is to be written is nearly full: one that is full
    /// takes nothing, and then no sentinel can decide anything.
    pub(super) fn note(&self, map: &ConfigMap, field: &Field) {
        let (holds, most) = filling(map, field);
        let configmap = map.metadata.name.as_deref().unwrap_or_default();
        if self.is_news(configmap, holds >= most / 4 * 3) {
            tracing::warn!(
                configmap,
                bytes = holds,
                most,
                "a ConfigMap is nearly full, and takes nothing when it is (docs/stores.md)"
            );
        }
    }

    fn is_news(&self, name: &str, nearly_full: bool) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nearly_full {
            return told.insert(name.to_owned());
        }
        told.remove(name);
        false
    }
}

/// The bytes that stand beside a field, and those that may.
fn filling(map: &ConfigMap, field: &Field) -> (usize, usize) {
    let size = |fields: Option<&BTreeMap<String, String>>| {
        let all = fields.into_iter().flatten();
        all.map(|(name, value)| name.len() + value.len()).sum()
    };
    match field {
        Field::Annotation(_) => (size(map.metadata.annotations.as_ref()), MOST_ANNOTATIONS),
        Field::Data(_) => (size(map.data.as_ref()), MOST_DATA),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::{Field, MOST_ANNOTATIONS, MOST_DATA, Room, filling};

    #[test]
    fn what_a_map_holds_is_names_and_values() {
        let (annotation, data) = (Field::Annotation("abcd"), Field::Data("ab".to_owned()));
        let mut map = ConfigMap::default();
        assert_eq!(filling(&map, &annotation), (0, MOST_ANNOTATIONS));
        annotation.set(&mut map, Some("12345"));
        Field::Annotation("e").set(&mut map, Some("6"));
        data.set(&mut map, Some("1"));
        assert_eq!(filling(&map, &annotation), (11, MOST_ANNOTATIONS));
        assert_eq!(filling(&map, &data), (3, MOST_DATA));
    }

    #[test]
    fn a_map_that_fills_up_is_told_once_until_there_is_room_again() {
        let room = Room::default();
        let told = [
            ("a", true),
            ("a", true),
            ("b", true),
            ("a", false),
            ("a", true),
        ]
        .map(|(name, nearly_full)| room.is_news(name, nearly_full));
        assert_eq!(told, [true, false, true, false, true]);
    }
}
