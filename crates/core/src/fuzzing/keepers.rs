//! What a keeper writes for PostgreSQL and reads back from it.

use std::collections::BTreeSet;

use super::pieces::pieces;
use crate::keeper::decide::{lets_users_in, synchronous_standby_names as render};
use crate::model::{DbSpec, DbUid};

/// Names that PostgreSQL cuts no longer than this (`NAMEDATALEN - 1`).
const LONGEST_NAME: usize = 63;

/// `synchronous_standby_names` as written is read by PostgreSQL's grammar as the same set of
/// standbys, all of which must flush; for every uid that a replication slot can be named for.
pub fn synchronous_standby_names(bytes: &[u8]) {
    // PostgreSQL manual, "Replication Slots": lower-case letters, digits and the underscore.
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let uids: BTreeSet<DbUid> = pieces(bytes)
        .map(|text| text.chars().filter(|c| fits(*c)).collect::<String>())
        .filter(|uid| !uid.is_empty())
        .map(DbUid::new)
        .filter(|uid| uid.replication_name().len() <= LONGEST_NAME)
        .collect();
    for uid in &uids {
        let read = DbUid::from_replication_name(&uid.replication_name());
        assert_eq!(read.as_ref(), Some(uid));
    }
    let spec = DbSpec {
        synchronous_replication: true,
        synchronous_standbys: uids.iter().cloned().collect(),
        ..DbSpec::default()
    };
    let written = render(&spec);
    let (number, names) = read_names(&written).unwrap_or_else(|| panic!("{written:?}"));
    let expected: Vec<String> = uids.iter().map(DbUid::replication_name).collect();
    assert_eq!((number, names), (uids.len(), expected), "{written:?}");
}

/// Reads `a` and `2 (a, b)`: how many standbys must flush, and which there are (PostgreSQL manual,
/// `synchronous_standby_names`; its `syncrep_scanner.l` has the identifiers).
fn read_names(text: &str) -> Option<(usize, Vec<String>)> {
    let text = text.trim();
    if text.is_empty() {
        return Some((0, Vec::new()));
    }
    let (number, list) = match text.strip_suffix(')') {
        None => (1, text),
        Some(inner) => {
            let (number, list) = inner.split_once('(')?;
            (number.trim().parse().ok()?, list)
        }
    };
    let is_name = |name: &str| {
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        name.starts_with(begins) && name.chars().all(goes_on)
    };
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    names
        .iter()
        .all(|name| is_name(name))
        .then_some((number, names))
}

/// Lines of a `pg_hba.conf`: the keeper's own let nobody in, whatever else stands there counts by
/// itself, and comments and blank lines do not.
pub fn access_rules(bytes: &[u8]) {
    const SUPERUSER: &str = "postgres";
    const REPLICATION: &str = "repl";
    let check = |rules: &[String]| lets_users_in(rules, SUPERUSER, REPLICATION);
    let text = String::from_utf8_lossy(bytes);
    let mut rules: Vec<String> = text.lines().map(str::to_owned).collect();
    let open = check(&rules);
    let alone = rules.iter().any(|rule| check(std::slice::from_ref(rule)));
    assert_eq!(open, alone, "{rules:?}");

    let own = [
        "local postgres postgres md5",
        "local replication repl md5",
        "host all postgres 10.0.0.1/32 md5",
        "host replication repl ::0/0 trust",
        "# host all all 0.0.0.0/0 md5",
        " \t",
    ];
    rules.extend(own.map(str::to_owned));
    rules.reverse();
    assert_eq!(check(&rules), open, "{rules:?}");
    rules.push("host all all 0.0.0.0/0 md5".to_owned());
    assert!(check(&rules), "{rules:?}");
}
