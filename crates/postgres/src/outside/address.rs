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
    /// `postgresql://…`, and what comes between it and a further parameter.
    Uri(String, char),
}

/// A WAL receiver sets these itself, whatever the string says (libpqwalreceiver.c).
const NOT_OURS: &[&str] = &["replication", "dbname"];

impl Address {
    /// Takes a string apart. What libpq would refuse is handed on as far as it goes: libpq says why.
    pub(super) fn read(text: &str) -> Self {
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

    /// As libpq reads it (`conninfo_uri_parse_options`): who connects stands before the first `@`,
    /// unless a slash comes first; a password also among the parameters, where it counts.
    fn read_uri(text: &str) -> Self {
        let begin = text.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = text.split_at(begin);
        let (user, rest) = match rest.find(['@', '/']) {
            Some(at) if rest[at..].starts_with('@') => (Some(&rest[..at]), &rest[at + 1..]),
            _ => (None, rest),
        };
        let (name, mut password) = match user.and_then(|user| user.split_once(':')) {
            Some((name, password)) => (Some(name), Some(decoded(password))),
            None => (user, None),
        };
        let mut uri = scheme.to_owned();
        uri.extend(name.map(|name| format!("{name}@")));
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        uri.push_str(place);
        let mut separator = '?';
        for parameter in parameters.split('&').filter(|text| !text.is_empty()) {
            match parameter.split_once('=') {
                Some((name, value)) if decoded(name) == "password" => {
                    password = Some(decoded(value));
                }
                _ => {
                    uri.push(separator);
                    uri.push_str(parameter);
                    separator = '&';
                }
            }
        }
        Self {
            form: Form::Uri(uri, separator),
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
            Form::Uri(uri, separator) => {
                let mut text = uri.clone();
                let mut separator = *separator;
                for (name, value) in more {
                    text.push(separator);
                    text.extend([name, "=", value]);
                    separator = '&';
                }
                text
            }
        }
    }
}

/// Keywords and values as libpq reads them (`conninfo_parse`).
fn words_of(text: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = value_of(after.trim_start_matches(is_blank));
        words.push((name.trim_end_matches(is_blank).to_owned(), value));
        rest = left.trim_start_matches(is_blank);
    }
    words
}

/// C's `isspace`, by which libpq parts words.
const fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
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
            letter if !is_quoted && is_blank(letter) => {
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
        let code = code.filter(|code| !code.starts_with('+'));
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

/// A value as it is meant that stands between quotes in a configuration file (`GUC_scanstr` in PostgreSQL's
/// `guc-file.l`).
pub(super) fn unescaped(text: &str) -> String {
    let mut meant = Vec::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\'' => {
                letters.next_if_eq(&'\'');
                '\''
            }
            '\\' => match letters.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(digit @ '0'..='7') => {
                    // A byte, of up to three digits.
                    let more = std::iter::from_fn(|| letters.next_if(|c| c.is_digit(8)));
                    let digits: String = std::iter::once(digit).chain(more.take(2)).collect();
                    let number = u16::from_str_radix(&digits, 8).unwrap_or(0);
                    meant.push(number.to_le_bytes()[0]);
                    continue;
                }
                Some(letter) => letter,
                None => '\\',
            },
            letter => letter,
        };
        meant.extend(letter.to_string().into_bytes());
    }
    // C's texts end there.
    let end = meant.iter().position(|byte| *byte == 0);
    meant.truncate(end.unwrap_or(meant.len()));
    String::from_utf8_lossy(&meant).into_owned()
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
        check(
            "postgresql:///db?host=h1&p%61ssword=se%63ret&user=repl",
            "postgresql:///db?host=h1&user=repl&replication=true",
            Some("secret"),
        );
        check(
            "postgresql://repl:not%20it@h1?password=secret",
            "postgresql://repl@h1?replication=true",
            Some("secret"),
        );
        check(
            "password=\u{b}x\u{a0}\u{b}host=h1",
            "host='h1' replication='true'",
            Some("x\u{a0}"),
        );
        check("nonsense", "replication='true'", None);
    }

    #[test]
    fn settings_are_read_as_postgresql_does() {
        assert_eq!(unescaped("password=it''s"), "password=it's");
        assert_eq!(unescaped("a\\'b\\\\ c"), "a'b\\ c");
        assert_eq!(unescaped("plain"), "plain");
        assert_eq!(
            unescaped("\\b\\f\\101\\7\\303\\251\\1012"),
            "\u{8}\u{c}A\u{7}\u{e9}A2"
        );
    }
}
