//! Stories: files of commands, each with the output it is to give after `----`.
//!
//! With `REWRITE=1` the output that is given is written into the files; read the difference before
//! you commit it. An empty line ends an output; lines that begin with `#` are for the reader.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Tells every story in a folder under `tests/` and complains of those that go otherwise than
/// written, or of the folder when it holds fewer than `fewest`.
pub(crate) fn all_go_as_written(
    folder: &str,
    fewest: usize,
    tell: impl Fn(&str) -> String + std::panic::RefUnwindSafe,
) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let entries = std::fs::read_dir(&folder).expect("a folder of stories");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    let number = files.len();
    assert!(number >= fewest, "stories are missing: found {number}");
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a story");
        let Ok(told) = std::panic::catch_unwind(|| tell(&written)) else {
            wrong.push(format!("{}: broken off, see above", file.display()));
            continue;
        };
        if told == written {
            continue;
        }
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, told).expect("rewritten");
        } else {
            wrong.push(format!(
                "{}:\n{}",
                file.display(),
                difference(&written, &told)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first line that differs.
fn difference(written: &str, told: &str) -> String {
    let (written, told): (Vec<_>, Vec<_>) = (written.lines().collect(), told.lines().collect());
    let lines = 0..written.len().max(told.len());
    let mut pairs = lines.map(|index| (index + 1, written.get(index), told.get(index)));
    let first = pairs.find(|(_, written, told)| written != told);
    first.map_or_else(String::new, |(line, written, told)| {
        format!("line {line}:\n  written {written:?}\n  told    {told:?}\n")
    })
}

/// Runs the commands of a story and returns it with the output they gave.
pub(crate) fn tell(story: &str, mut command: impl FnMut(&str) -> String) -> String {
    let mut told = String::new();
    let mut lines = story.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "----" {
            // The output written here before: up to the next empty line.
            while lines.peek().is_some_and(|line| !line.is_empty()) {
                lines.next();
            }
            continue;
        }
        let _ = writeln!(told, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let output = command(line);
        if output.is_empty() {
            continue;
        }
        let _ = write!(told, "----\n{output}");
        let follows = lines.peek().copied();
        if follows.is_some_and(|next| !next.is_empty() && next != "----") {
            told.push('\n');
        }
    }
    told
}
