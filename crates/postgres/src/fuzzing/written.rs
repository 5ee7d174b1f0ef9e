//! What is written for PostgreSQL to parse: its own grammar, in [`reading`](super::reading), reads it
//! as what was meant.

use std::collections::BTreeMap;

use super::pieces::pieces;
use super::reading::{is_parameter, read_configuration, read_conninfo, read_password};
use crate::config_files::{Configuration, read_parameters, render_parameters};
use crate::conninfo::ConnInfo;
use crate::tls::Tls;

/// `postgresql.conf`: PostgreSQL reads it whatever is in it. A value means what it means as the Go
/// program writes it, quotes doubled and no more, or, where that cannot be read, what it is; the
/// connection is the one that was meant.
pub fn configuration(bytes: &[u8]) {
    let mut texts = pieces(bytes);
    let mut configuration = Configuration {
        include_base: bytes.len().is_multiple_of(2),
        ..Configuration::default()
    };
    let source = take_conninfo(&mut texts);
    let mut expected = BTreeMap::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        // They are the keeper's, and never among the users'.
        if matches!(name.as_str(), "primary_conninfo" | "primary_slot_name") {
            continue;
        }
        configuration.parameters.insert(name.clone(), value.clone());
        expected.insert(name, value);
    }
    configuration.follow(&source, "stolon_cafe0002");
    let text = render_parameters(&configuration);
    let read = read_configuration(&text).unwrap_or_else(|| panic!("not PostgreSQL's: {text:?}"));
    let conninfo = read.get("primary_conninfo");
    let wanted = source.to_text().into_bytes();
    assert_eq!(conninfo, Some(&wanted), "{text:?}");
    // A value found in force, given again, is in force as it was.
    let present = Configuration {
        parameters: read_parameters(&text),
        ..Configuration::default()
    };
    let again = render_parameters(&present);
    for line in text
        .lines()
        .filter(|line| !line.starts_with("primary_conninfo"))
    {
        let is_there = line.starts_with("include '") || again.lines().any(|other| other == line);
        assert!(is_there, "{line:?} is not in {again:?}");
    }
    for (name, value) in expected {
        if !is_parameter(&name) {
            continue;
        }
        let go = format!("a = '{}'\n", value.replace('\'', "''"));
        let meant = read_configuration(&go)
            .and_then(|mut read| read.remove("a"))
            .unwrap_or_else(|| value.replace('\0', "").into_bytes());
        assert_eq!(read.get(&name), Some(&meant), "{text:?}");
    }
}

/// A connection string: libpq reads it as what was meant, whatever is in it.
pub fn conninfo(bytes: &[u8]) {
    let info = take_conninfo(&mut pieces(bytes));
    let root = info.tls.root_certificate.clone().unwrap_or_default();
    let root = root.display().to_string();
    for text in [info.to_text(), info.to_text_without_password()] {
        let read = read_conninfo(&text).unwrap_or_else(|| panic!("not libpq's: {text:?}"));
        let expected = [
            ("application_name", &info.application_name),
            ("host", &info.host),
            ("port", &info.port),
            ("user", &info.user),
            ("sslrootcert", &root),
        ];
        for (name, value) in expected {
            let meant = value.replace('\0', "");
            assert_eq!(read.get(name), Some(&meant), "{name} in {text:?}");
        }
        assert_eq!(read.get("sslmode").map(String::as_str), Some("prefer"));
    }
    let read = read_conninfo(&info.to_text()).unwrap_or_default();
    let password = read.get("password").map_or("", String::as_str);
    assert_eq!(password, info.password.replace('\0', ""));
    let hidden = read_conninfo(&info.to_text_without_password()).unwrap_or_default();
    assert!(!hidden.contains_key("password"));
}

/// A line of a password file: libpq finds the password by it, whatever a line can hold.
pub fn password_file(bytes: &[u8]) {
    let info = take_conninfo(&mut pieces(bytes));
    let texts = [&info.host, &info.port, &info.user, &info.password];
    let fits = |text: &&String| !text.contains(['\r', '\n', '\0']);
    let is_named = !info.host.is_empty() && !info.host.starts_with('#');
    if !is_named || !texts.iter().all(fits) {
        return;
    }
    let line = info.password_line();
    let found = read_password(&line, &info.host, &info.port, &info.user);
    assert_eq!(found, Some(info.password), "{line:?}");
}

fn take_conninfo(texts: &mut impl Iterator<Item = String>) -> ConnInfo {
    let mut text = || texts.next().unwrap_or_default();
    ConnInfo {
        application_name: "stolon_cafe0001".to_owned(),
        host: text(),
        port: text(),
        user: text(),
        password: text(),
        tls: Tls {
            root_certificate: Some(text().into()),
            ..Tls::default()
        },
    }
}
