//! What `deploy/` holds, as far as it can be checked without what it is for: docs/deploying.md says
//! which of it was run, and where.

#[path = "deploy/kubernetes.rs"]
mod kubernetes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::run;

const DAEMONS: [&str; 3] = ["keeper", "sentinel", "proxy"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `deploy/`.
fn files() -> Vec<PathBuf> {
    let mut folders = vec![repository().join("deploy")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// The words of a text that begin so and go on with what names are made of.
fn words<'a>(text: &'a str, start: &'a str, belongs: fn(char) -> bool) -> BTreeSet<&'a str> {
    text.match_indices(start)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest[start.len()..].find(|c| !belongs(c));
            &rest[..end.map_or(rest.len(), |end| start.len() + end)]
        })
        .filter(|word| word.len() > start.len())
        .collect()
}

fn of_a_variable(c: char) -> bool {
    c.is_ascii_uppercase() || c == '_'
}

fn of_a_flag(c: char) -> bool {
    c.is_ascii_lowercase() || c == '-'
}

/// The flags that stand behind a program's name in a line.
fn flags_of_a_call<'a>(line: &'a str, program: &str) -> BTreeSet<&'a str> {
    let behind = line.split_once(program).map_or("", |(_, behind)| behind);
    // Not the name of a unit or an image.
    if behind.starts_with([' ', ',']) {
        words(behind, "--", of_a_flag)
    } else {
        BTreeSet::new()
    }
}

/// Whether the machine has what a test needs; where it does not, the test says so.
fn have(program: &str, test: &str) -> bool {
    use std::io::Write as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        let told = writeln!(std::io::stderr(), "not run: {test}: {program} is not here");
        drop(told);
    }
    found
}

/// What a command says, which must go well.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    assert_eq!(err, "", "{command:?}");
    out
}

#[test]
fn every_variable_and_flag_is_one_that_the_program_takes() {
    let helps = [
        ("STKEEPER_", "stolon-keeper"),
        ("STSENTINEL_", "stolon-sentinel"),
        ("STPROXY_", "stolon-proxy"),
        ("STOLONCTL_", "stolonctl"),
    ]
    .map(|(prefix, name)| (prefix, name, run(name, &["--help"]).well()));
    let mut seen = 0;
    for file in files() {
        let text = read(&file);
        for (prefix, name, help) in &helps {
            for variable in words(&text, prefix, of_a_variable) {
                seen += 1;
                let known = help.contains(&format!("[${variable}]"));
                assert!(known, "{}: {name} has no {variable}", file.display());
            }
            for flag in text.lines().flat_map(|line| flags_of_a_call(line, name)) {
                let known = [" ", "[", "\n"].map(|end| help.contains(&format!(" {flag}{end}")));
                let known = known.contains(&true);
                assert!(known, "{}: {name} has no {flag}", file.display());
            }
        }
    }
    assert!(seen > 20, "the examples set only {seen} variables");
}

/// A sample is complete: with its lines taken out of their comments the program starts, and gets as
/// far as the files with the passwords, or runs.
#[test]
fn a_sample_of_the_environment_has_what_its_program_needs() {
    let sample = read(&repository().join("deploy/systemd/keeper.env"));
    let (names, values): (Vec<_>, Vec<_>) = sample
        .lines()
        .filter_map(|line| line.strip_prefix("#STKEEPER_")?.split_once('='))
        .unzip();
    let environment: Vec<(String, &str)> = names
        .iter()
        .map(|name| format!("STKEEPER_{name}"))
        .zip(values)
        .collect();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    crate::program::run_with("stolon-keeper", &[], &environment, "")
        .fails(1, &["/etc/stolon/superuser.password", "No such file"]);
}

#[test]
fn systemd_takes_the_units() {
    if !have("systemd-analyze", "systemd_takes_the_units") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--man=no", "verify"]);
    for daemon in DAEMONS {
        let name = format!("stolon-{daemon}.service");
        let unit = read(&repository().join("deploy/systemd").join(&name));
        // The program is not installed where the unit looks for it.
        let there = format!("ExecStart={} {daemon}", env!("CARGO_BIN_EXE_stolon"));
        let here = unit.replace(&format!("ExecStart=stolon-{daemon}"), &there);
        assert_ne!(unit, here);
        let path = folder.path().join(name);
        std::fs::write(&path, here).expect("a unit");
        verify.arg(path);
    }
    let socket = folder.path().join("stolon-proxy.socket");
    std::fs::copy(
        repository().join("deploy/systemd/stolon-proxy.socket"),
        &socket,
    )
    .expect("a unit");
    verify.arg(socket);
    assert_eq!(output(&mut verify), "");
}

#[test]
fn the_debian_package_holds_the_program_its_units_and_their_samples() {
    if !have(
        "dpkg-deb",
        "the_debian_package_holds_the_program_its_units_and_their_samples",
    ) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let package = output(
        Command::new(repository().join("scripts/package-deb"))
            .arg(env!("CARGO_BIN_EXE_stolon"))
            .arg(folder.path())
            .env("DEB_COMPRESSION", "none"),
    );
    let root = folder.path().join("root");
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package.trim())
            .arg(&root),
    );
    let version = env!("CARGO_PKG_VERSION");
    for name in [
        "stolon-keeper",
        "stolon-sentinel",
        "stolon-proxy",
        "stolonctl",
    ] {
        let said = output(Command::new(root.join("usr/bin").join(name)).arg("--version"));
        assert_eq!(said, format!("{name} version {version}\n"));
    }
    for daemon in DAEMONS {
        assert!(
            root.join(format!("usr/lib/systemd/system/stolon-{daemon}.service"))
                .is_file()
        );
    }
    let units = root.join("usr/lib/systemd/system");
    assert!(units.join("stolon-proxy.socket").is_file());
    let control = folder.path().join("control");
    output(
        Command::new("dpkg-deb")
            .arg("--control")
            .arg(package.trim())
            .arg(&control),
    );
    let kept = "/etc/stolon/keeper.env\n/etc/stolon/proxy.env\n/etc/stolon/sentinel.env\n";
    assert_eq!(read(&control.join("conffiles")), kept);
    assert!(read(&control.join("control")).contains(&format!("\nVersion: {version}\n")));
    for script in ["postinst", "prerm", "postrm"] {
        output(Command::new("sh").arg("-n").arg(control.join(script)));
    }
}
