//! Restoring data from a backup by a command that the operator gives.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;

use crate::{Error, data_dir, process};

/// The variable by which all that a command started is found again, also by a keeper that was
/// started after it.
pub(crate) const MARK: &str = "STOLON_RESTORES_TO";
/// So many of its last lines stand in the error of a command that failed.
const KEPT_LINES: usize = 10;
/// How long what the command said last may take to be read after its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs `command` by a shell to fill `target`, which is emptied and made private before: `%d` stands
/// for it, `%%` for a percent sign. What the command says is handed to `output` line by line, and
/// `progress` gets every `period` the bytes that are there. However long it takes, it is waited for; dropping the future
/// ends the shell, and [`end`] all that it started.
pub async fn run(
    target: &Path,
    command: &str,
    period: Duration,
    output: impl Fn(&str) + Send + 'static,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(), Error> {
    end(target).await?;
    let folder = target.to_owned();
    blocking(move || data_dir::remove_all(&folder)).await?;
    data_dir::make_private(target)?;
    let text = expand(command, &target.display().to_string());
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec 2>&1\n{text}"));
    shell.env(MARK, target).stdin(Stdio::null());
    // A process group of its own: the terminal's interrupt is for the keeper.
    shell
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0);
    let mut child = shell
        .spawn()
        .map_err(Error::file("run a shell for", target))?;
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = child.stdout.take().map(|pipe| {
        let said = said.clone();
        let hear = move |line: String| {
            output(&line);
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == KEPT_LINES {
                said.remove(0);
            }
            said.push(line);
        };
        tokio::spawn(process::forward(pipe, hear))
    });
    let status = loop {
        if let Ok(ended) = tokio::time::timeout(period, child.wait()).await {
            break ended.map_err(Error::file("wait for the restore of", target))?;
        }
        let folder = target.to_owned();
        let bytes = blocking(move || Ok(data_dir::size_of(&folder))).await?;
        progress(bytes);
    };
    // Whatever it left running must not write there any more.
    end(target).await?;
    if let Some(listener) = listener {
        // What was not heard by then is only words.
        let _ = tokio::time::timeout(LAST_WORDS, listener).await;
    }
    if status.success() {
        return Ok(());
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    Err(Error::Program {
        program: format!("dataRestoreCommand ({text})"),
        status: status.to_string(),
        output: said.join("\n"),
    })
}

/// Ends all that a command to fill `target` started, also one of an earlier life of the keeper.
pub async fn end(target: &Path) -> Result<(), Error> {
    process::kill_until_none(|| data_dir::marked(MARK, target)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Error::Malformed {
        what: "work on files",
        text: error.to_string(),
    })?
}

/// Puts the folder in the place of `%d`; what else follows a percent sign stays as it is.
pub(crate) fn expand(command: &str, folder: &str) -> String {
    let mut expanded = String::with_capacity(command.len());
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            expanded.push(letter);
            continue;
        }
        match letters.next() {
            Some('d') => expanded.push_str(folder),
            Some('%') | None => expanded.push('%'),
            Some(other) => expanded.extend(['%', other]),
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::{MARK, end, expand, run};
    use crate::data_dir;

    #[test]
    fn the_folder_stands_for_percent_d() {
        let check = |command: &str, expected: &str| assert_eq!(expand(command, "/d"), expected);
        check("cp -a /b/. %d", "cp -a /b/. /d");
        check("date +%%F %d%d %x %", "date +%F /d/d %x %");
    }

    #[tokio::test]
    async fn a_command_fills_the_folder_and_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("new");
        std::fs::create_dir(&target).expect("made");
        std::fs::write(target.join("old"), "x").expect("left by an earlier one");
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = {
            let heard = heard.clone();
            move |line: &str| heard.lock().expect("heard").push(line.to_owned())
        };
        let command = "echo one; echo two >&2; echo x > %d/new; sleep 1000 & exit 3";
        let period = Duration::from_millis(50);
        let error = run(&target, command, period, hear, |_| {}).await;
        let error = error.expect_err("status 3").to_string();
        assert!(error.contains("one\ntwo") && error.contains('3'), "{error}");
        assert_eq!(*heard.lock().expect("heard"), ["one", "two"]);
        assert!(target.join("new").is_file() && !target.join("old").exists());
        assert!(
            data_dir::marked(MARK, &target).is_empty(),
            "it left something running"
        );
    }

    #[tokio::test]
    async fn what_an_earlier_life_began_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("new");
        let command = "sleep 1000 & sleep 1000";
        let period = Duration::from_millis(20);
        let given_up = run(&target, command, period, |_| {}, |_| {});
        let given_up = tokio::time::timeout(Duration::from_millis(500), given_up).await;
        given_up.expect_err("it goes on for ever");
        end(&target).await.expect("ended");
        assert!(data_dir::marked(MARK, &target).is_empty());
        assert!(data_dir::marked(MARK, Path::new("/nowhere")).is_empty());
    }
}
