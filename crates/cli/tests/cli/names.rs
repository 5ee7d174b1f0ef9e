//! Which program it is, what it says of itself, and exit statuses.

use std::path::PathBuf;

use crate::program::{Said, command, finish, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Every program by its own name and by the first argument.
const PROGRAMS: [(&str, &str); 4] = [
    ("stolon-keeper", "keeper"),
    ("stolon-sentinel", "sentinel"),
    ("stolon-proxy", "proxy"),
    ("stolonctl", "ctl"),
];

#[test]
fn a_program_is_what_it_is_called_or_what_its_first_argument_says() {
    for (name, word) in PROGRAMS {
        let expected = format!("{name} version {VERSION}\n");
        assert_eq!(run(name, &["--version"]).well(), expected);
        let path = format!("/usr/local/bin/{name}");
        assert_eq!(run(&path, &["--version"]).well(), expected);
        assert_eq!(run("stolon", &[word, "--version"]).well(), expected);
        assert_eq!(run("renamed", &[word, "--version"]).well(), expected);
    }
    assert_eq!(
        run("stolonctl", &["version"]).well(),
        format!("stolonctl version {VERSION}\n")
    );
    assert_eq!(
        run("stolon", &["--version"]).well(),
        format!("stolon version {VERSION}\n")
    );
}

#[test]
fn a_call_that_names_no_program_is_told_what_there_is() {
    run("stolon", &[]).fails(1, &["Usage: stolon keeper|sentinel|proxy|ctl"]);
    run("stolon", &["kepper"]).fails(1, &["no such program: \"kepper\"", "keeper", "--help"]);
}

#[test]
fn help_is_as_written_down() {
    let mut changed = Vec::new();
    for (name, words) in help_texts() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = run(name, &words).well();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{name} {words:?}: {line}");
        }
        let file = match words.as_slice() {
            [_] => name.to_owned(),
            [command @ .., _] => format!("{name}-{}", command.join("-")),
            [] => unreachable!("help is asked for"),
        };
        let file = folder().join(format!("{file}.txt"));
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, &text).expect("written");
        } else if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            changed.push(format!("{}:\n{text}", file.display()));
        }
    }
    assert!(
        changed.is_empty(),
        "help has changed: look at it, then run again with REWRITE=1\n{}",
        changed.join("\n")
    );
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "cli", "help"]
        .iter()
        .collect()
}

fn help_texts() -> Vec<(&'static str, Vec<String>)> {
    let help = |words: &[&str]| -> Vec<String> {
        words
            .iter()
            .chain(&["--help"])
            .map(ToString::to_string)
            .collect()
    };
    let programs = [
        "stolon",
        "stolon-keeper",
        "stolon-sentinel",
        "stolon-proxy",
        "stolonctl",
    ];
    let mut texts: Vec<_> = programs.map(|name| (name, help(&[]))).to_vec();
    let commands = [
        "init",
        "update",
        "spec",
        "status",
        "promote",
        "failkeeper",
        "removekeeper",
        "resync",
        "restart",
        "reload",
        "pause",
        "resume",
        "cancel",
        "register",
        "dev",
    ];
    texts.extend(commands.map(|name| ("stolonctl", help(&[name]))));
    texts.push(("stolonctl", help(&["clusterdata", "read"])));
    texts.push(("stolonctl", help(&["clusterdata", "write"])));
    texts
}

#[test]
fn what_cannot_be_understood_fails_and_says_so() {
    for (name, _) in PROGRAMS {
        run(name, &["--no-such-flag"]).fails(1, &["--no-such-flag", name]);
    }
    run("stolonctl", &[]).fails(1, &["Usage: stolonctl"]);
    run("stolonctl", &["stauts"]).fails(1, &["stauts", "status"]);
    run("stolonctl", &["clusterdata"]).fails(1, &["read", "write"]);
    run("stolonctl", &["status", "-f", "yaml"]).fails(1, &["yaml", "text", "json"]);
    let register = [
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "register",
        "--register-backend",
    ];
    run("stolonctl", &[&register[..], &["zookeeper"]].concat())
        .fails(1, &["\"zookeeper\"", "use consul"]);
    let two = ["consul", "--register-endpoints=a:1,b:1"];
    run("stolonctl", &[&register[..], &two].concat()).fails(1, &["a:1,b:1", "one agent"]);
    let never = ["consul", "--sleep-interval=0"];
    run("stolonctl", &[&register[..], &never].concat()).fails(1, &["--sleep-interval", "\"0\""]);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_fault() {
    for words in [&["--help"][..], &["version"], &["nonsense"]] {
        let mut child = command("stolonctl", words).spawn().expect("started");
        drop((child.stdout.take(), child.stderr.take()));
        let Said { status, .. } = finish(child);
        let expected = i32::from(words == ["nonsense"]);
        assert_eq!(status, expected, "{words:?}");
    }
}

#[test]
fn a_full_disk_is_one() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("there");
    let child = command("stolonctl", &["version"])
        .stdout(full)
        .spawn()
        .expect("started");
    finish(child).fails(1, &["cannot write to stdout", "No space left on device"]);
}

#[test]
fn what_the_store_has_to_say_of_its_flags_is_heard() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let endpoint = format!("--store-endpoints=https://{address}");
    let store = [
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "--store-timeout=1s",
        &endpoint,
    ];
    let status = |flag: &str| run("stolonctl", &[&store[..], &[flag, "status"]].concat());
    status("--store-cert-file=x").fails(1, &["WARN", "--store-cert-file and --store-key go"]);
    status("--log-level=loud").fails(1, &["--log-level", "\"loud\"", "debug, info, warn, error"]);
}
