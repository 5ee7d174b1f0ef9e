//! Reasons of decisions, for people.

use std::collections::BTreeMap;

use stolon_core::model::{ClusterData, DbUid};
use stolon_core::reason::Reason;

/// The keepers of dbs.
pub fn keepers(data: &ClusterData) -> BTreeMap<DbUid, String> {
    let dbs = data.dbs.values();
    dbs.map(|db| (db.uid.clone(), db.spec.keeper_uid.to_string()))
        .collect()
}

/// A reason, with the names of keepers for those of dbs, which nobody knows.
pub fn in_words(reason: &Reason, keepers: &BTreeMap<DbUid, String>) -> String {
    let named = |value: &str| {
        let known = keepers.iter().filter(|(db, _)| value.contains(db.as_str()));
        known.fold(value.to_owned(), |text, (db, keeper)| {
            text.replace(db.as_str(), keeper)
        })
    };
    let mut details: Vec<(&str, String)> = Vec::new();
    for (what, value) in &reason.details {
        let value = named(value);
        // "db keeper1, keeper keeper1" says the same twice.
        if details.iter().all(|(_, said)| *said != value) {
            details.push((if what == "db" { "keeper" } else { what }, value));
        }
    }
    let details = details
        .iter()
        .map(|(what, value)| format!("{what} {value}"));
    let details: Vec<String> = details.collect();
    match details.as_slice() {
        [] => reason.text.clone(),
        details => format!("{} ({})", reason.text, details.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stolon_core::model::DbUid;
    use stolon_core::reason::Reason;

    use super::in_words;

    #[test]
    fn reasons_name_keepers_and_nothing_twice() {
        let keepers = BTreeMap::from([
            (DbUid::from("0a0b0c0d"), "keeper1".to_owned()),
            (DbUid::from("1a1b1c1d"), "keeper2".to_owned()),
        ]);
        let electing = Reason::warn("elected", "electing a new primary")
            .with("db", "1a1b1c1d")
            .with("keeper", "keeper2")
            .with("old_primary", "0a0b0c0d");
        assert_eq!(
            in_words(&electing, &keepers),
            "electing a new primary (keeper keeper2, old_primary keeper1)"
        );
        let set = Reason::info("synchronous-set", "the synchronous set changes")
            .with("from", "[0a0b0c0d, 1a1b1c1d]")
            .with("to", "[]");
        assert_eq!(
            in_words(&set, &keepers),
            "the synchronous set changes (from [keeper1, keeper2], to [])"
        );
        let bare = Reason::info("x", "something happened");
        assert_eq!(in_words(&bare, &keepers), "something happened");
    }
}
