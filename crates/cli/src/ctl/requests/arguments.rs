//! How the commands that ask for something are typed.

use clap::{Arg, ArgAction, Command};

/// The commands.
pub(crate) fn commands() -> [Command; 6] {
    let command = |name: &'static str, about: &'static str| Command::new(name).about(about);
    [
        command(
            "resync",
            "Replace a standby's data by a new copy of the primary's",
        )
        .after_help("The present data are kept until the copy is complete.")
        .arg(Arg::new("uid").required(true).help("uid of the keeper"))
        .args(following()),
        command(
            "restart",
            "Restart PostgreSQL, one instance after the other, the primary last",
        )
        .args(which())
        .args(following()),
        command("reload", "Have PostgreSQL read its configuration again")
            .args(which())
            .args(following()),
        command(
            "pause",
            "Have nothing decided automatically, until stolonctl resume",
        )
        .after_help(
            "A failed primary is not replaced, no standby is made or removed, no instance is \
                 restarted for its parameters. Commits still wait for the standbys that stream. \
                 stolonctl failkeeper still does what it says.",
        )
        .arg(why()),
        command("resume", "End a pause"),
        command(
            "cancel",
            "End a request; what has begun at a keeper is brought to its end",
        )
        .arg(
            Arg::new("id")
                .required(true)
                .help("id of the request, see stolonctl status"),
        ),
    ]
}

/// Which keepers a command is for.
fn which() -> [Arg; 2] {
    [
        Arg::new("uids").num_args(0..).help("uids of the keepers"),
        Arg::new("all")
            .long("all")
            .action(ArgAction::SetTrue)
            .conflicts_with("uids")
            .help("all keepers"),
    ]
}

fn why() -> Arg {
    Arg::new("why")
        .long("why")
        .value_name("TEXT")
        .help("the reason, for status and whoever reads it")
}

/// How a request is waited for.
fn following() -> [Arg; 3] {
    [
        why(),
        Arg::new("no-wait")
            .long("no-wait")
            .action(ArgAction::SetTrue)
            .help("do not wait for the end"),
        Arg::new("timeout")
            .long("timeout")
            .value_name("DURATION")
            .help("wait no longer than this, for example 5m; the request goes on"),
    ]
}
