//! The settings beside the cluster data, as a daemon reads them.

use std::sync::atomic::{AtomicU64, Ordering};

use stolon_core::model::{ExtSettings, ExtSpec, wire};
use stolon_store::{Key, Store};

/// Reads the settings, and tells once of what it does not understand.
#[derive(Debug, Default)]
pub(crate) struct SettingsReader {
    /// The revision that was told of.
    told: AtomicU64,
}

impl SettingsReader {
    /// What is in force; none when they cannot be read, so that those known still hold.
    pub(crate) async fn read(&self, store: &dyn Store) -> Option<ExtSettings> {
        let entry = match store.get(&Key::ExtSpec).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Some(ExtSettings::default()),
            Err(error) => {
                tracing::debug!(%error, "cannot read the settings");
                return None;
            }
        };
        let is_new = self.told.swap(entry.revision.0, Ordering::Relaxed) != entry.revision.0;
        match wire::read::<ExtSpec>(&entry.value) {
            Ok(spec) => {
                if is_new {
                    tell(&spec);
                }
                Some(spec.settings())
            }
            Err(error) => {
                if is_new {
                    tracing::error!(%error, key = %entry.key, "the settings cannot be understood");
                }
                None
            }
        }
    }
}

fn tell(spec: &ExtSpec) {
    for name in spec.unknown() {
        tracing::warn!(
            name,
            "a setting that this version does not know has no effect"
        );
    }
    for problem in spec.problems() {
        tracing::warn!(
            problem,
            "a setting is not understood: its default is in force"
        );
    }
}
