//! Why a standby does not stream, as PostgreSQL says it in its log: nothing else tells.

/// How the messages of a WAL receiver that could not go on begin (PostgreSQL's `walreceiver.c` and
/// `libpqwalreceiver.c`, versions 12 to 18, untranslated).
const COMPLAINTS: &[&str] = &[
    "could not connect to the primary server",
    "could not receive data from WAL stream",
    "could not start WAL streaming",
    "could not receive database system identifier",
    "could not receive timeline history file",
    "could not send data to WAL stream",
    "primary server contains no more WAL on requested timeline",
    "database system identifier differs between the primary and standby",
    "highest timeline ",
    "terminating walreceiver due to timeout",
    "replication terminated by primary server",
];
/// The most of a message that is told, in bytes.
const LONGEST: usize = 300;

/// The message of a WAL receiver in a line of PostgreSQL's log, whatever stands before it.
pub fn complaint(line: &str) -> Option<&str> {
    let begins = COMPLAINTS.iter().filter_map(|text| line.find(text));
    let message = line.get(begins.min()?..)?.trim_end();
    let end = (0..=LONGEST.min(message.len())).rev();
    let mut end = end.filter(|end| message.is_char_boundary(*end));
    message.get(..end.next()?)
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn the_reason_is_found_whatever_stands_before_it() {
        let said = "2026-11-21 [7] FATAL:  could not connect to the primary server: connection to \
                    server at \"::1\", port 5 failed: FATAL:  role \"repl\" is not permitted to log in";
        let found = complaint(said).expect("a reason");
        assert!(found.starts_with("could not connect to the primary server: connection"));
        assert!(found.ends_with("is not permitted to log in"));
        assert_eq!(complaint("LOG:  database system is ready"), None);
        let long = format!(
            "could not receive data from WAL stream: {}",
            "é".repeat(500)
        );
        assert!(complaint(&long).is_some_and(|found| found.len() <= 300));
    }
}
