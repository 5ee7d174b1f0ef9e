//! The lines of `pg_hba.conf`, in the order of the contract's section 5.

use super::Situation;
use crate::model::Db;
use crate::model::spec::AccessMode;
use crate::reason::Reason;

/// The method of passwords that no server knows.
pub const SCRAM: &str = "scram-sha-256";

/// The last part when the user gave none.
const EVERYBODY: [&str; 2] = ["host all all 0.0.0.0/0 md5", "host all all ::0/0 md5"];

/// The rules of a db; without the users' part while they are to stay out (I9).
pub(super) fn rules(situation: &Situation<'_>, db: &Db, users: bool) -> Vec<String> {
    let (superuser, superuser_method) = user(situation, &situation.settings.superuser);
    let (replication, replication_method) = user(situation, &situation.settings.replication_user);
    let host = if situation.settings.requires_tls {
        "hostssl"
    } else {
        "host"
    };
    let mut rules = vec![
        format!("local postgres {superuser} {superuser_method}"),
        format!("local replication {replication} {replication_method}"),
    ];
    let mut from = |address: &str| {
        rules.push(format!(
            "{host} all {superuser} {address} {superuser_method}"
        ));
        rules.push(format!(
            "{host} replication {replication} {address} {replication_method}"
        ));
    };
    match situation.spec.default_su_repl_access_mode {
        AccessMode::Strict => {
            let is_source = situation
                .document
                .data
                .primary()
                .is_some_and(|primary| primary.uid == db.uid);
            if is_source {
                for address in others(situation, db) {
                    from(&address);
                }
            }
        }
        AccessMode::All | AccessMode::Unknown(_) => {
            for address in ["0.0.0.0/0", "::0/0"] {
                from(address);
            }
            // All of one kind together, as the Go program writes them.
            let everything = format!("{host} all");
            rules.sort_by_key(|rule| (!rule.starts_with("local"), !rule.starts_with(&everything)));
        }
    }
    if users && db.spec.pg_hba.is_null() {
        if situation.settings.requires_tls {
            // The lines for everybody would take them without TLS. An operator's own lines may.
            rules.extend(by_nothing_but_tls(superuser, replication));
        }
        rules.extend(EVERYBODY.map(str::to_owned));
    } else if users {
        rules.extend(db.spec.pg_hba.iter().cloned());
    }
    rules
}

/// The lines for everybody mean every database, and none of them a connection for replication.
fn by_nothing_but_tls(superuser: &str, replication: &str) -> Vec<String> {
    let mut users = vec![superuser, replication];
    users.dedup();
    let addresses = ["0.0.0.0/0", "::0/0"];
    let refused = |user: &str| addresses.map(|from| format!("hostnossl all {user} {from} reject"));
    users.into_iter().flat_map(refused).collect()
}

/// A user with the method of the rules for them. A password that is stored as md5 has it is taken by
/// no other method, and md5 takes one that is stored as SCRAM has it, by SCRAM (PostgreSQL manual,
/// "Password Authentication"): it stands until the stored ones are known.
fn user<'a>(situation: &Situation<'_>, (name, method): &'a (String, String)) -> (&'a str, &'a str) {
    if method != SCRAM {
        return (name, method);
    }
    let stored = situation.facts.md5_verifiers.as_ref();
    let is_known = stored.is_some_and(|stored| !stored.contains(name));
    (name, if is_known { SCRAM } else { "md5" })
}

/// Tells of users that are to authenticate by SCRAM and whose stored passwords do not allow it.
pub(super) fn stored_for_md5(situation: &Situation<'_>) -> Option<Reason> {
    let settings = situation.settings;
    let users = [&settings.superuser, &settings.replication_user];
    let users = users.into_iter().filter(|(_, method)| method == SCRAM);
    let stored = situation.facts.md5_verifiers.as_ref()?;
    let users: Vec<&str> = users
        .filter(|(name, _)| stored.contains(name))
        .map(|(name, _)| name.as_str())
        .collect();
    if users.is_empty() {
        return None;
    }
    let text = "a stored password is one for md5: that is accepted until it is set anew with \
                password_encryption = scram-sha-256";
    Some(Reason::warn("password-not-scram", text).with("users", users.join(", ")))
}

/// The addresses of the other members, sorted.
fn others(situation: &Situation<'_>, db: &Db) -> Vec<String> {
    let mut addresses: Vec<String> = situation
        .document
        .data
        .dbs
        .values()
        .filter(|other| other.uid != db.uid && !other.status.listen_address.is_empty())
        .map(
            |other| match other.status.listen_address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(address)) => format!("{address}/32"),
                Ok(std::net::IpAddr::V6(address)) => format!("{address}/128"),
                // pg_hba.conf takes a host name without a mask.
                Err(_) => other.status.listen_address.clone(),
            },
        )
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Whether lines found in a `pg_hba.conf` let users in: whether they go beyond the keeper's own.
pub fn lets_users_in(rules: &[String], superuser: &str, replication: &str) -> bool {
    rules
        .iter()
        .map(|rule| rule.trim())
        .filter(|rule| !rule.is_empty())
        .any(|rule| {
            let mut words = rule.split_whitespace().skip(1);
            let (database, user) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let own = (user == superuser && matches!(database, "all" | "postgres"))
                || (user == replication && database == "replication");
            !own && !rule.starts_with('#')
        })
}

#[cfg(test)]
mod tests {
    use super::lets_users_in;

    #[test]
    fn whoever_goes_beyond_the_keepers_own_lines_is_a_user() {
        let check = |rules: &[&str], expected: bool| {
            let lines: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
            assert_eq!(lets_users_in(&lines, "su", "repl"), expected, "{rules:?}");
        };
        check(&[], false);
        check(&["", "  ", "# host all all 0.0.0.0/0 md5"], false);
        check(
            &["local postgres su md5", "local replication repl trust"],
            false,
        );
        check(
            &["host all su ::0/0 md5", "host replication repl ::0/0 md5"],
            false,
        );
        check(&["host all su ::0/0 md5", " host all all ::0/0 md5"], true);
        check(&["host app su ::0/0 md5"], true);
        check(&["host all repl ::0/0 md5"], true);
        check(&["host replication su ::0/0 md5"], true);
        check(&["host all app ::0/0 md5"], true);
        check(&["local postgres app md5"], true);
    }
}
