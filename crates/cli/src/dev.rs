//! `stolonctl dev`: a whole cluster on this machine, to try and to break.
//!
//! It starts this program's own daemons as processes, tells how to connect and what to kill, shows
//! what the cluster does, and stops everything at Ctrl-C. Started again it goes on with its data.

mod children;
mod layout;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use stolon_daemons::runtime::shutdown::Shutdown;

use children::Children;
use layout::Layout;

/// How long the cluster may take to come up.
const START_LIMIT: Duration = Duration::from_mins(3);
/// Time between two looks at the processes and the store.
const TICK: Duration = Duration::from_millis(200);

/// The command.
pub fn command() -> Command {
    Command::new("dev")
        .about("Run a whole cluster on this machine, to try and to break")
        .after_help(
            "Starts keepers, a sentinel and a proxy on a store in a file, shows how to connect and \
             what to kill, and stops all at Ctrl-C. Started again it continues with its data.\n\n\
             Examples:\n  stolonctl dev\n  stolonctl dev --keepers 2 --synchronous\n  \
             stolonctl dev --exec 'psql -c \"select 1\"'",
        )
        .arg(Arg::new("keepers").long("keepers").default_value("3").help("number of keepers, 1 to 9"))
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .default_value("stolon-dev")
                .help("folder of everything; remove it to begin anew"),
        )
        .arg(
            Arg::new("synchronous")
                .long("synchronous")
                .action(ArgAction::SetTrue)
                .help("commits wait for a standby (when the cluster is made)"),
        )
        .arg(
            Arg::new("user")
                .long("user")
                .default_value("postgres")
                .help("as root: the user that the daemons run as, since PostgreSQL refuses root"),
        )
        .arg(Arg::new("exec").long("exec").help(
            "run this shell command when the cluster is up, with PGHOST, PGPORT, PGUSER, PGDATABASE \
             and PGPASSWORD set, then stop and end with its exit status",
        ))
}

/// Runs it.
pub fn main(own: &ArgMatches) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return crate::refuse(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(run(own));
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => crate::refuse(&error),
    }
}

async fn run(own: &ArgMatches) -> Result<ExitCode, String> {
    let text = |name: &str| own.get_one::<String>(name).cloned().unwrap_or_default();
    let keepers: usize = text("keepers")
        .parse()
        .ok()
        .filter(|n| (1..=9).contains(n))
        .ok_or_else(|| {
            format!(
                "invalid --keepers {:?}: it is a number from 1 to 9",
                text("keepers")
            )
        })?;
    let shutdown = Shutdown::on_signals().map_err(|error| error.to_string())?;
    let layout = Layout::prepare(&text("data-dir"), keepers, &text("user"))?;
    println!(
        "stolon dev: {keepers} keepers in {}",
        layout.folder.display()
    );
    let mut children = Children::new(&layout)?;
    children.initialise(own.get_flag("synchronous"))?;
    children.start_all(keepers)?;
    let outcome = watch(own, &layout, &mut children, keepers, &shutdown).await;
    println!("stopping all of it");
    children.stop_all();
    outcome
}

async fn watch(
    own: &ArgMatches,
    layout: &Layout,
    children: &mut Children<'_>,
    keepers: usize,
    shutdown: &Shutdown,
) -> Result<ExitCode, String> {
    let store = stolon_store::open(&layout.store()).map_err(|error| error.to_string())?;
    let mut view = view::View::new(store);
    let began = std::time::Duration::ZERO;
    let mut waited = began;
    while !view.is_up(keepers).await {
        if shutdown.is_requested() {
            return Ok(ExitCode::SUCCESS);
        }
        if waited > START_LIMIT {
            return Err(format!(
                "the cluster did not come up within {START_LIMIT:?}: look at {}",
                layout.folder.join("log").display()
            ));
        }
        children.revive();
        view.tell_changes().await;
        tokio::time::sleep(TICK).await;
        waited += TICK;
    }
    view.tell_changes().await;
    if let Some(command) = own.get_one::<String>("exec") {
        return execute(command, layout);
    }
    println!("{}", view.instructions(layout).await);
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(TICK) => {}
        }
        children.revive();
        view.tell_changes().await;
    }
}

fn execute(command: &str, layout: &Layout) -> Result<ExitCode, String> {
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .envs(layout.connection())
        .env("STOLONCTL_CLUSTER_NAME", layout::CLUSTER)
        .env("STOLONCTL_STORE_BACKEND", "sqlite")
        .env("STOLONCTL_STORE_ENDPOINTS", layout.store_file())
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(crate::FAILED)))
}
