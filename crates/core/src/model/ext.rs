//! Settings that the Go program's specification does not have (contract, section 8): a document of our
//! own beside the cluster data, which operators see as one specification with the rest.
//!
//! It is kept as it was stored: what a version does not understand it keeps, tells of, and ignores.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::GoDuration;

/// How much WAL a slot may keep.
const MAX_SLOT_WAL_KEEP_SIZE: &str = "maxSlotWALKeepSize";
/// How long the slots of a standby whose keeper is dead are kept.
const MAX_SLOT_WAL_KEEP_TIME: &str = "maxSlotWALKeepTime";

/// How a setting is read: an error says what it may be.
type Check = fn(&Value) -> Result<(), String>;

/// Every setting, how it is read, and its default.
const SETTINGS: &[(&str, Check, &str)] = &[
    (MAX_SLOT_WAL_KEEP_SIZE, |v| size(v).map(drop), UNLIMITED),
    (MAX_SLOT_WAL_KEEP_TIME, |v| time(v).map(drop), "0s"),
];

/// No limit.
const UNLIMITED: &str = "unlimited";
/// The most that PostgreSQL's parameter takes, in MB.
const MOST_MEGABYTES: u64 = 2_147_483_647;

/// The settings as stored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExtSpec {
    fields: Map<String, Value>,
}

/// The settings with every default filled in: what decisions read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtSettings {
    /// How much WAL a slot may keep before it is given up, in megabytes; none: any amount.
    pub max_slot_wal_keep_megabytes: Option<u64>,
    /// How long a keeper may be dead before the slots of its standby are dropped; none: until the
    /// keeper is forgotten (deadKeeperRemovalInterval).
    pub max_slot_wal_keep_time: Option<Duration>,
}

impl ExtSpec {
    /// Whether a field of what an operator typed is one of these settings, in any spelling of its
    /// case; its spelling here.
    pub fn setting(name: &str) -> Option<&'static str> {
        let mut names = SETTINGS.iter().map(|(setting, _, _)| *setting);
        names.find(|setting| setting.eq_ignore_ascii_case(name))
    }

    /// Takes the settings, and the fields that `present` has, out of what an operator typed as one
    /// specification.
    pub fn take(typed: &mut Map<String, Value>, present: &Self) -> Self {
        let is_ours =
            |name: &String| Self::setting(name).is_some() || present.fields.contains_key(name);
        let (ours, rest) = std::mem::take(typed)
            .into_iter()
            .partition::<Map<_, _>, _>(|(name, _)| is_ours(name));
        *typed = rest;
        let spelled = |(name, value): (String, Value)| {
            let name = Self::setting(&name).map_or(name, str::to_owned);
            (name, value)
        };
        Self {
            fields: ours.into_iter().map(spelled).collect(),
        }
    }

    /// These settings with those of a patch, in which null removes.
    #[must_use]
    pub fn patched(&self, patch: &Self) -> Self {
        let mut fields = self.fields.clone();
        fields.extend(patch.fields.clone());
        Self { fields }.said()
    }

    /// Without what is null, which says nothing.
    #[must_use]
    pub fn said(mut self) -> Self {
        self.fields.retain(|_, value| !value.is_null());
        self
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Every field with its value.
    pub fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter()
    }

    /// Every setting that there is, with its default.
    pub fn defaults() -> impl Iterator<Item = (&'static str, Value)> {
        SETTINGS
            .iter()
            .map(|(name, _, value)| (*name, json!(value)))
    }

    /// What is wrong with values of settings that this version knows.
    pub fn problems(&self) -> Vec<String> {
        let problem = |(name, check, _): &(&str, Check, &str)| {
            let why = check(self.fields.get(*name)?).err()?;
            Some(format!("{name}: {why}"))
        };
        SETTINGS.iter().filter_map(problem).collect()
    }

    /// Fields that this version does not know.
    pub fn unknown(&self) -> Vec<&str> {
        let names = self.fields.keys().map(String::as_str);
        names.filter(|name| Self::setting(name).is_none()).collect()
    }

    /// What is in force: the default for whatever is not said or not understood.
    pub fn settings(&self) -> ExtSettings {
        let said = |name: &str| self.fields.get(name);
        ExtSettings {
            max_slot_wal_keep_megabytes: said(MAX_SLOT_WAL_KEEP_SIZE)
                .and_then(|value| size(value).ok().flatten()),
            max_slot_wal_keep_time: said(MAX_SLOT_WAL_KEEP_TIME)
                .and_then(|value| time(value).ok().flatten()),
        }
    }
}

/// A size as PostgreSQL writes it, in megabytes.
fn size(value: &Value) -> Result<Option<u64>, String> {
    let refused = || {
        format!(
            "{value} is not a size: give \"{UNLIMITED}\", or a whole number of MB, GB or TB, as \
             \"50GB\""
        )
    };
    let text = value.as_str().ok_or_else(refused)?.trim();
    if text == UNLIMITED {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default().trim();
    let factor = match unit {
        "MB" => 1,
        "GB" => 1 << 10,
        "TB" => 1 << 20,
        _ => return Err(refused()),
    };
    let number: u64 = digits.parse().map_err(|_| refused())?;
    let megabytes = number.checked_mul(factor).ok_or_else(refused)?;
    if (1..=MOST_MEGABYTES).contains(&megabytes) {
        Ok(Some(megabytes))
    } else {
        Err(refused())
    }
}

/// A duration; zero is none.
fn time(value: &Value) -> Result<Option<Duration>, String> {
    let refused =
        || format!("{value} is not a time: give a duration as \"36h\", or \"0s\" for none");
    let text = value.as_str().ok_or_else(refused)?;
    let time: GoDuration = text.parse().map_err(|_| refused())?;
    if time.as_nanos() < 0 {
        return Err(refused());
    }
    Ok(Some(time.to_std()).filter(|time| !time.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::{ExtSettings, ExtSpec};
    use serde_json::json;
    use std::time::Duration;

    fn read(value: serde_json::Value) -> ExtSpec {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn what_is_not_understood_is_kept_and_ignored() {
        let spec = read(json!({
            "maxSlotWALKeepSize": "much", "maxSlotWALKeepTime": "36h", "later": [1, null]
        }));
        let expected = ExtSettings {
            max_slot_wal_keep_megabytes: None,
            max_slot_wal_keep_time: Some(Duration::from_hours(36)),
        };
        assert_eq!(spec.settings(), expected);
        assert_eq!(spec.unknown(), ["later"]);
        assert_eq!(spec.problems().len(), 1, "{:?}", spec.problems());
        let written = serde_json::to_value(&spec).expect("JSON");
        assert_eq!(written["later"], json!([1, null]));
    }

    #[test]
    fn sizes_are_whole_and_have_a_unit() {
        let cases = [
            (json!("unlimited"), Some(None)),
            (json!("1MB"), Some(Some(1))),
            (json!("50 GB"), Some(Some(51_200))),
            (json!("2TB"), Some(Some(2_097_152))),
            (json!("0MB"), None),
            (json!("50"), None),
            (json!(50), None),
            (json!("-1"), None),
            (json!("1.5GB"), None),
            (json!("99999999999TB"), None),
            (json!("GB"), None),
        ];
        for (value, expected) in cases {
            assert_eq!(super::size(&value).ok(), expected, "{value}");
        }
        assert!(super::time(&json!("-1s")).is_err());
        assert_eq!(super::time(&json!("0s")), Ok(None));
    }

    #[test]
    fn one_specification_is_taken_apart_and_patched() {
        let present = read(json!({"later": 1, "maxSlotWALKeepSize": "1GB"}));
        let mut typed = json!({
            "initMode": "new", "MAXSLOTWALKEEPSIZE": null, "later": 2, "unheard": 3
        });
        let typed = typed.as_object_mut().expect("an object");
        let ours = ExtSpec::take(typed, &present);
        assert_eq!(json!(typed), json!({"initMode": "new", "unheard": 3}));
        let patched = serde_json::to_value(present.patched(&ours)).expect("JSON");
        assert_eq!(patched, json!({"later": 2}));
    }
}
