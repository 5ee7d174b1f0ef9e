//! Runs the program as a user does.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The data of a run that must have gone well.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{self:?}");
        self.out
    }

    /// The words of a run that must have failed with this status, saying all of `words`.
    #[track_caller]
    pub(crate) fn fails(self, status: i32, words: &[&str]) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

/// A command by one of the program's names, with nothing of this process's environment.
pub(crate) fn command(name: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stolon"));
    command.arg0(name).args(words).env_clear();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program by one of its names.
pub(crate) fn run(name: &str, words: &[&str]) -> Said {
    run_with(name, words, &[], "")
}

/// Runs the program by one of its names with an environment and something on stdin.
pub(crate) fn run_with(
    name: &str,
    words: &[&str],
    environment: &[(&str, &str)],
    stdin: &str,
) -> Said {
    let mut command = command(name, words);
    command
        .envs(environment.iter().copied())
        .stdin(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    // A program that does not read has ended, and says why.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    finish(child)
}

/// Waits for the end of a run.
pub(crate) fn finish(child: Child) -> Said {
    let output = child.wait_with_output().expect("the program ends");
    Said {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}
