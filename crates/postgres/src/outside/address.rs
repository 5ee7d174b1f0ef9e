//! Connection strings that operators write (PostgreSQL manual, "Connection Strings"): taken apart only so
//! far that the password does not come among the words of a command, which everybody on the host may read.

/// A connection string without its password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    form: Form,
    pub(super) password: Option<String>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Keywords with their values.
    Words(Vec<(String, String)>),
    /// `postgresql://…`
    Uri(String),
}

/// A WAL receiver sets these itself, whatever the string says (libpqwalreceiver.c).
const NOT_OURS: &[&str] = &["replication", "dbname"];

impl Address {
    /// Takes a string apart. What libpq would refuse is handed on as far as it goes: libpq says why.
    pub(super) fn read(text: &str) -> Self {
        let text = text.trim();
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return Self::read_uri(text);
        }
        let mut words = words_of(text);
        let password = words.iter().rev().find(|(name, _)| name == "password");
        let password = password.map(|(_, value)| value.clone());
        words.retain(|(name, _)| name != "password" && !NOT_OURS.contains(&name.as_str()));
        Self {
            form: Form::Words(words),
            password,
        }
    }

    fn read_uri(text: &str) -> Self {
        let begin = text.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = text.split_at(begin);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (name, password) = match user.and_then(|user| user.split_once(':')) {
            Some((name, password)) => (Some(name), Some(decoded(password))),
            None => (user, None),
        };
        let name = name.map_or_else(String::new, |name| format!("{name}@"));
        Self {
            form: Form::Uri(format!("{scheme}{name}{hosts}{path}")),
            password,
        }
    }

    /// The string with more keywords.
    pub(super) fn to_text(&self, more: &[(&str, &str)]) -> String {
        match &self.form {
            Form::Words(words) => {
                let words = words
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()));
                let words = words.chain(more.iter().copied());
                let words = words.map(|(name, value)| {
                    let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                    format!("{name}='{value}'")
                });
                words.collect::<Vec<_>>().join(" ")
            }
            Form::Uri(uri) => {
                let mut text = uri.clone();
                for (name, value) in more {
                    text.push(if text.contains('?') { '&' } else { '?' });
                    text.extend([name, "=", value]);
                }
                text
            }
        }
    }
}

/// Keywords and values as libpq reads them (`conninfo_parse`).
fn words_of(text: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = value_of(after.trim_start());
        words.push((name.trim().to_owned(), value));
        rest = left.trim_start();
    }
    words
}

/// The value at the beginning, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let (body, is_quoted) = match text.strip_prefix('\'') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut letters = body.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if is_quoted => return (value, body.get(at + 1..).unwrap_or_default()),
            letter if !is_quoted && letter.is_ascii_whitespace() => {
                return (value, body.get(at..).unwrap_or_default());
            }
            letter => value.push(letter),
        }
    }
    (value, "")
}

/// What percent signs stand for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        if let Some(byte) = code.filter(|_| *first == b'%') {
            bytes.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A value as it is meant that stands between quotes in a configuration file (PostgreSQL's `guc-file.l`).
pub(super) fn unescaped(text: &str) -> String {
    let mut meant = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                letters.next_if_eq(&'\'');
                meant.push('\'');
            }
            '\\' => meant.push(match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(letter) => letter,
                None => '\\',
            }),
            letter => meant.push(letter),
        }
    }
    meant
}

#[cfg(test)]
mod tests {
    use super::{Address, unescaped};

    #[test]
    fn the_password_is_kept_apart() {
        let check = |text: &str, without: &str, password: Option<&str>| {
            let found = Address::read(text);
            assert_eq!(found.to_text(&[("replication", "true")]), without, "{text}");
            assert_eq!(found.password.as_deref(), password, "{text}");
            assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        };
        check(
            "host=10.0.0.9 port = 5432 user=repl password='it\\'s secret' dbname=x",
            "host='10.0.0.9' port='5432' user='repl' replication='true'",
            Some("it's secret"),
        );
        check(
            "host=a\\ b password=",
            "host='a b' replication='true'",
            Some(""),
        );
        check(
            "postgresql://repl:se%63ret@h1:5432,h2/?sslmode=verify-full",
            "postgresql://repl@h1:5432,h2/?sslmode=verify-full&replication=true",
            Some("secret"),
        );
        check(
            "postgres://h1/db",
            "postgres://h1/db?replication=true",
            None,
        );
        check("nonsense", "replication='true'", None);
    }

    #[test]
    fn settings_are_read_as_postgresql_does() {
        assert_eq!(unescaped("password=it''s"), "password=it's");
        assert_eq!(unescaped("a\\'b\\\\ c"), "a'b\\ c");
        assert_eq!(unescaped("plain"), "plain");
    }
}
