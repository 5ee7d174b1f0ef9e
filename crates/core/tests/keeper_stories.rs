//! Stories: what a keeper does with its disk and its instance, as text.
//!
//! Each file under `keeper/stories/` is a list of commands with what happens after `----`.
//! `REWRITE=1 cargo test -p stolon-core --test keeper_stories` writes what happens; read the
//! difference before you commit it. The commands are those of [`command`] and `keeper/script.rs`.

#[path = "keeper/script.rs"]
mod script;
#[path = "keeper/world.rs"]
#[allow(dead_code, reason = "shared with the tests that kill the keeper")]
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stolon_core::model::GoDuration;
use world::World;

/// Nothing in a story takes longer to come to rest.
const MOST: Duration = Duration::from_mins(2);

#[test]
fn every_story_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keeper/stories");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("stories")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "stories are missing: {}", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a story");
        let telling = std::panic::catch_unwind(|| tell(&written));
        let Ok(told) = telling else {
            wrong.push(format!("{}: broken off, see above", file.display()));
            continue;
        };
        if told == written {
            continue;
        }
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, told).expect("rewritten");
            continue;
        }
        let lines = written.lines().zip(told.lines()).enumerate();
        let first = lines.into_iter().find(|(_, (a, b))| a != b);
        wrong.push(format!("{}: {first:?}", file.display()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs the commands of a story and returns it with what happened.
fn tell(story: &str) -> String {
    let mut world = World::new();
    let mut told = String::new();
    let mut lines = story.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "----" {
            // What was written here before: up to the next empty line.
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
            continue;
        }
        let _ = writeln!(told, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let output = command(&mut world, line);
        if !output.is_empty() {
            let _ = write!(told, "----\n{output}");
            let follows = lines.peek().copied();
            if follows.is_some_and(|next| !next.is_empty() && next != "----") {
                told.push('\n');
            }
        }
    }
    told
}

/// Carries out a command and returns what happened.
///
/// * `pass TIME` time passes; `settle` it passes until nothing is done any more
/// * `status` shows what is on disk, what runs, and what was told
/// * all else changes the world at once: see `script.rs`
fn command(world: &mut World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[0] {
        "status" => return format!("{}\n", world.describe()),
        "settle" => world.settle(MOST),
        "pass" => {
            let time: GoDuration = words[1].parse().expect("a duration");
            world.pass(time.to_std());
        }
        _ => script::change(world, &words),
    }
    let mut text = world.log.drain(..).collect::<Vec<_>>().join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
