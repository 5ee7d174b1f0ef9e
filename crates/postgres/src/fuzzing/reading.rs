//! How PostgreSQL and libpq read what is written for them: their grammars, after the manual and the
//! sources named, as plain as can be. A test with real programs holds these readers to them
//! (`tests/quoting.rs`).

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// Reads a configuration file of lines `name = 'value'` (`guc-file.l`); none when PostgreSQL would
/// refuse it. `include` lines are passed over.
pub(crate) fn read_configuration(text: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut rest = text.chars().peekable();
    while rest.peek().is_some() {
        let name: String = std::iter::from_fn(|| rest.next_if(|c| is_name(*c))).collect();
        let blank: String = std::iter::from_fn(|| rest.next_if(|c| " =".contains(*c))).collect();
        let value = read_quoted(&mut rest)?;
        if rest.next() != Some('\n') {
            return None;
        }
        match (name.as_str(), blank.as_str()) {
            ("include", " ") => {}
            (name, " = ") if is_parameter(name) => {
                found.insert(name.to_owned(), value);
            }
            _ => return None,
        }
    }
    Some(found)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || !c.is_ascii()
}

/// Whether `guc-file.l` takes it for a name: `ID` or `QUALIFIED_ID`.
pub(crate) fn is_parameter(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let is_id = |part: &&str| {
        let begins = |c: char| !c.is_ascii_digit();
        part.starts_with(begins) && part.chars().all(|c| is_name(c) && c != '.')
    };
    parts.len() <= 2 && parts.iter().all(is_id)
}

/// A text in quotes (`GUC_scanstr` in `guc-file.l`): it ends at its line, a quote in it is doubled or
/// has a backslash, and what C has after a backslash means what it means there.
fn read_quoted(rest: &mut Peekable<Chars<'_>>) -> Option<Vec<u8>> {
    if rest.next()? != '\'' {
        return None;
    }
    let mut value = Vec::new();
    let mut push = |letter: char| value.extend(letter.to_string().into_bytes());
    loop {
        match rest.next()? {
            '\n' | '\0' => return None,
            '\'' => {
                if rest.next_if_eq(&'\'').is_none() {
                    break;
                }
                push('\'');
            }
            '\\' => push(match rest.next()? {
                '\n' | '\0' => return None,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                digit @ '0'..='7' => octal(digit, rest),
                other => other,
            }),
            other => push(other),
        }
    }
    // C's texts end at the first zero, which `\0` makes.
    value.truncate(
        value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(value.len()),
    );
    Some(value)
}

/// Up to three digits, of which one byte counts. One beyond ASCII, which is no letter by itself,
/// stands here for the letter of that number.
fn octal(first: char, rest: &mut Peekable<Chars<'_>>) -> char {
    let mut value = first.to_digit(8).unwrap_or(0);
    for _ in 0..2 {
        let Some(digit) = rest.next_if(|c| c.is_digit(8)) else {
            break;
        };
        value = value * 8 + digit.to_digit(8).unwrap_or(0);
    }
    u8::try_from(value & 0xFF).map_or('\0', char::from)
}

/// Reads a connection string of keywords and values (`conninfo_parse` in libpq's `fe-connect.c`);
/// none when libpq would refuse it.
pub(crate) fn read_conninfo(text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = text.chars().peekable();
    loop {
        skip_blanks(&mut rest);
        if rest.peek().is_none() {
            return Some(found);
        }
        let is_word = |c: &char| *c != '=' && !is_blank(*c);
        let name: String = std::iter::from_fn(|| rest.next_if(is_word)).collect();
        skip_blanks(&mut rest);
        if rest.next()? != '=' {
            return None;
        }
        skip_blanks(&mut rest);
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                None if quoted => return None,
                None => break,
                Some('\'') if quoted => break,
                Some(blank) if !quoted && is_blank(blank) => break,
                // C's texts end there.
                Some('\0') => return None,
                Some('\\') => value.extend(rest.next()),
                Some(other) => value.push(other),
            }
        }
        found.insert(name, value);
    }
}

/// C's `isspace`.
const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

/// Finds a password in a password file (`passwordFromFile` in libpq's `fe-connect.c`).
pub(crate) fn read_password(file: &str, host: &str, port: &str, user: &str) -> Option<String> {
    let host = if host.is_empty() { "localhost" } else { host };
    let matches = |line: &str| {
        let line = line.trim_end_matches(['\r', '\n']);
        if line.starts_with('#') || line.contains('\0') {
            return None;
        }
        let mut rest = line.chars();
        for wanted in [host, port, "*", user] {
            if field(&mut rest)? != wanted {
                return None;
            }
        }
        let mut password = String::new();
        while let Some(letter) = rest.next() {
            let letter = if letter == '\\' {
                rest.next()
            } else {
                Some(letter)
            };
            password.extend(letter);
        }
        Some(password)
    };
    file.split_inclusive('\n').find_map(matches)
}

/// The text up to the next colon.
fn field(rest: &mut Chars<'_>) -> Option<String> {
    let mut value = String::new();
    loop {
        match rest.next()? {
            ':' => return Some(value),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

/// Reads a connection URI (`conninfo_uri_parse_options` in libpq's `fe-connect.c`); none when libpq
/// would refuse it. The part with hosts and the database is left as it is, as `place`.
pub(crate) fn read_uri(text: &str) -> Option<BTreeMap<String, String>> {
    let (_, rest) = text.split_once("://")?;
    let mut found = BTreeMap::new();
    let mut put =
        |name: &str, value: Option<String>| value.map(|value| found.insert(name.to_owned(), value));
    let begins = rest.chars().find(|c| matches!(c, '@' | '/'));
    let mut rest = rest;
    if begins == Some('@') {
        let (who, after) = rest.split_once('@')?;
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        for (name, value) in [("user", user), ("password", password)] {
            if !value.is_empty() {
                put(name, percent_decoded(value))?;
            }
        }
        rest = after;
    }
    let (place, parameters) = match rest.split_once('?') {
        Some((place, parameters)) => (place, parameters),
        None => (rest, ""),
    };
    put("place", Some(place.to_owned()))?;
    let mut left = parameters;
    while !left.is_empty() {
        let (parameter, after) = left.split_once('&').unwrap_or((left, ""));
        let (name, value) = parameter
            .split_once('=')
            .filter(|(_, v)| !v.contains('='))?;
        put(&percent_decoded(name)?, percent_decoded(value))?;
        left = after;
    }
    Some(found)
}

/// `conninfo_uri_decode`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let byte = u8::try_from(digit()? * 16 + digit()?).ok()?;
        bytes.push(Some(byte).filter(|byte| *byte != 0)?);
    }
    String::from_utf8(bytes).ok()
}
