//! What operators and other servers wrote: how a server outside the cluster is reached, what it
//! answers, and the configuration that data came with.

use std::collections::BTreeMap;

use super::pieces::pieces;
use super::reading::{read_configuration, read_conninfo, read_uri};
use crate::base_config::{LEFT_OUT, base_of, left_out};
use crate::outside::{Outside, parse};

/// `primary_conninfo` of a server outside, as it stands in a configuration: a program is given what
/// libpq would have read of it, and the password nowhere but in its environment.
pub fn outside_conninfo(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let outside = Outside::from_setting(&text);
    let mut command = tokio::process::Command::new("psql");
    outside.give_password(&mut command);
    let given = command.as_std().get_envs();
    let password = given.filter_map(|(_, value)| Some(value?.to_str()?.to_owned()));
    let password = password.last().unwrap_or_default();
    let more = [("replication", "true")];
    let (bare, with_more) = (outside.to_text(&[]), outside.to_text(&more));

    // PostgreSQL's bytes of which no text can be made stand here for something else.
    let is_text = !text.contains('\0') && !bare.contains('\u{fffd}');
    let meant = read_configuration(&format!("a = '{text}'\n"));
    let meant = meant.and_then(|mut read| String::from_utf8(read.remove("a")?).ok());
    let Some(meant) = meant.filter(|meant| is_text && meant.is_ascii()) else {
        return;
    };
    let is_uri = ["postgresql://", "postgres://"].map(|scheme| meant.starts_with(scheme));
    let read = if is_uri.contains(&true) {
        read_uri
    } else {
        read_conninfo
    };
    let Some(mut wanted) = read(&meant) else {
        return;
    };
    assert_eq!(
        wanted.remove("password").unwrap_or_default(),
        password,
        "{meant:?}"
    );
    let hide = |mut words: BTreeMap<String, String>| {
        words.retain(|name, _| name != "replication" && name != "dbname");
        words
    };
    for given in [&bare, &with_more] {
        let found = read(given).unwrap_or_else(|| panic!("not libpq's: {given:?} of {meant:?}"));
        assert!(!found.contains_key("password"), "{given:?}");
        assert_eq!(hide(found), hide(wanted.clone()), "{given:?} of {meant:?}");
    }
    let replication = read(&with_more).and_then(|mut found| found.remove("replication"));
    assert_eq!(replication.as_deref(), Some("true"), "{with_more:?}");
}

/// What the server outside says of itself: printed and read again it is the same.
pub fn outside_answer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(state) = parse(&text) else {
        return;
    };
    let read_only = if state.is_writable { "off" } else { "on" };
    let printed = format!(
        "{}|{}|{}|\n{read_only}\n",
        state.system_id, state.timeline, state.flush_lsn
    );
    assert_eq!(parse(&printed), Some(state), "{printed:?}");
}

/// The configuration that data came with, and an older base: no line is lost, none sets what must
/// not be in force, and what was left out can be written between quotes again.
pub fn base_configuration(bytes: &[u8]) {
    let mut texts = pieces(bytes);
    let (text, older) = (
        texts.next().unwrap_or_default(),
        texts.next().unwrap_or_default(),
    );
    let older = base_of(&older, "");
    let base = base_of(&text, &older);
    assert!(base.lines().count() >= text.lines().count(), "{base:?}");
    for line in base.lines() {
        let name = parameter_of(line).to_ascii_lowercase();
        assert!(!LEFT_OUT.contains(&name.as_str()), "{line:?} is in force");
    }
    // A carriage return at the end of a line is blank space, and may go.
    let without_returns = |text: &str| text.replace('\r', "");
    assert_eq!(
        without_returns(&base_of(&base, &older)),
        without_returns(&base),
        "twice"
    );
    for name in LEFT_OUT {
        if let Some(value) = left_out(&base, name).filter(|value| !value.contains('\0')) {
            let line = format!("a = '{value}'\n");
            assert!(read_configuration(&line).is_some(), "{name}: {line:?}");
        }
    }
}

/// The name at the beginning of a line, as `guc-file.l` has it.
fn parameter_of(line: &str) -> &str {
    let line = line.trim_start_matches([' ', '\t', '\r']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || !c.is_ascii();
    let end = line.find(|c: char| !is_name(c)).unwrap_or(line.len());
    &line[..end]
}
