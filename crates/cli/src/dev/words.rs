//! What a user of a dev cluster can type.

use std::path::Path;

use super::layout::{Layout, SUPERUSER};

/// How to connect and look.
pub(super) fn connect(layout: &Layout) -> String {
    let password = quoted(layout.folder.join("superuser.password"));
    let port = layout.ports.proxy;
    let program = std::env::current_exe().unwrap_or_default();
    let flags: Vec<String> = layout.store_flags().iter().map(quoted).collect();
    format!(
        "\nThe cluster is up. Connect through the proxy, which leads to the primary wherever it \
         is:\n\n  \
         PGPASSWORD=$(cat {password}) psql -h 127.0.0.1 -p {port} -U {SUPERUSER} postgres\n\n\
         Look at it:\n\n  \
         {} ctl {} status\n  \
         tail -f {}/*.log",
        quoted(&program),
        flags.join(" "),
        quoted(layout.folder.join("log")),
    )
}

/// How to break the primary, which runs under that keeper.
pub(super) fn break_it(layout: &Layout, keeper: &str) -> String {
    let postmaster = format!("$(head -1 {})", quoted(layout.postmaster_file(keeper)));
    let process = format!("$(cat {})", quoted(layout.pid_file(keeper)));
    format!(
        "The primary runs under {keeper}. Break it, and go on writing:\n\n  \
         # its postmaster: it is started again in place, at once\n  \
         kill -9 {postmaster}\n\n  \
         # its keeper too, like a machine that lost power: a standby takes over\n  \
         kill -9 {process} {postmaster}\n\n  \
         # all its processes stand still: a standby takes over\n  \
         P={postmaster}; FROZEN=\"{process} $P $(pgrep -P $P)\"; kill -STOP $FROZEN\n  \
         # and go on: it takes nothing back\n  \
         kill -CONT $FROZEN\n"
    )
}

/// A word for the shell.
fn quoted(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    if word.chars().all(is_plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_the_shell_stay_one_word() {
        assert_eq!(quoted("/srv/stolon-dev/a.log"), "/srv/stolon-dev/a.log");
        assert_eq!(quoted("/srv/my data"), "'/srv/my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
