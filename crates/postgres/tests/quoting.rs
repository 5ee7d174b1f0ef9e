//! What is written for PostgreSQL and libpq to parse, read by those of this machine. The fuzz targets
//! hold far more values to copies of their grammars (`src/fuzzing/reading.rs`).

use std::path::Path;

use stolon_postgres::Installation;
use stolon_postgres::config_files::{self, Configuration};
use stolon_postgres::conninfo::ConnInfo;
use stolon_postgres::tls::Tls;

/// Values, with what they mean: what they are, but for backslashes that can be read as PostgreSQL's.
const VALUES: &[(&str, &str)] = &[
    ("", ""),
    ("plain", "plain"),
    ("it's", "it's"),
    ("''", "''"),
    ("caf\u{e9} \u{1f418}", "caf\u{e9} \u{1f418}"),
    ("# no comment", "# no comment"),
    ("a\\\\b", "a\\b"),
    ("tab\\tend", "tab\tend"),
    ("\\101\\7", "A\u{7}"),
    ("\\", "\\"),
    ("ends\\", "ends\\"),
    ("\\'", "\\'"),
    ("a\\\\'b", "a\\'b"),
    ("it's \\", "it's \\"),
    ("two\nlines", "two\nlines"),
    ("two\n\\tlines'", "two\n\\tlines'"),
    ("\r\t", "\r\t"),
    ("ze\0ro", "zero"),
];

fn output(program: &str, arguments: &[&str]) -> String {
    let installation = Installation::find(None).expect("PostgreSQL");
    let mut command = installation.command(program).into_std();
    let output = command.args(arguments).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(!said.is_empty(), "{program} {arguments:?}: {told}");
    said.strip_suffix('\n').unwrap_or(&said).to_owned()
}

/// The value of a parameter by `postgres -C`, which needs no data.
fn value(folder: &Path, name: &str) -> String {
    output(
        "postgres",
        &["-C", name, "-D", &folder.display().to_string()],
    )
}

fn source(host: &str) -> ConnInfo {
    ConnInfo {
        application_name: "stolon_cafe0002".into(),
        host: host.into(),
        port: "5433".into(),
        user: "repl".into(),
        password: "it's\ta \\secret\n".into(),
        tls: Tls::default(),
    }
}

#[test]
fn postgres_reads_every_value_as_it_is_meant() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut configuration = Configuration::default();
    for (index, (value, _)) in VALUES.iter().enumerate() {
        let name = format!("quoting.v{index}");
        configuration.parameters.insert(name, (*value).to_owned());
    }
    for name in [
        "",
        "no name",
        "1st",
        "a.b.c",
        "a\nport = 1\nb",
        "quoting.",
        "#",
    ] {
        let value = "of a name that there cannot be".to_owned();
        configuration.parameters.insert(name.to_owned(), value);
    }
    let info = source("10.0.0.1");
    configuration.follow(&info, "stolon_cafe0002");
    config_files::write(folder.path(), &configuration).expect("written");
    for (index, (given, meant)) in VALUES.iter().enumerate() {
        let read = value(folder.path(), &format!("quoting.v{index}"));
        assert_eq!(read, *meant, "{given:?}");
    }
    assert_eq!(value(folder.path(), "primary_conninfo"), info.to_text());
}

#[test]
fn libpq_reads_every_value_as_it_is() {
    for host in [
        "/a b",
        "/it's",
        "/\\'",
        "/a\tb\n\r\u{b}\u{c}",
        "/caf\u{e9}=",
    ] {
        let text = source(host).to_text();
        let said = output("pg_isready", &["-t", "1", "-d", &text]);
        assert_eq!(said, format!("{host}:5433 - no response"), "{text}");
    }
}
