//! `stolonctl`: one command a file.
//!
//! Data go to stdout, talk to stderr. Exit status: 0 done, 1 failed, 3 refused because it would
//! replace a cluster that has data.

mod clusterdata;
mod init;
mod keepers;
mod mixed;
mod promote;
pub mod reasons;
mod register;
mod requests;
mod session;
mod settings;
mod spec;
pub mod status;
mod update;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};
use stolon_daemons::runtime::logging;
use stolon_store::Backend;

use crate::args::{self, Flag, common, text};
use crate::{FAILED, VERSION, output};

/// The prefix of the environment variables.
pub const PREFIX: &str = "STOLONCTL";

/// The exit status of a command that refused to replace a cluster.
const WOULD_REPLACE: u8 = 3;

/// The flags beyond those of the store.
const FLAGS: &[Flag] = &[
    text(
        "kubeconfig",
        "",
        "file for access to Kubernetes (default: $KUBECONFIG, ~/.kube/config, or the pod's service \
         account)",
    ),
    text(
        "kube-context",
        "",
        "context in it (default: its current one)",
    ),
    text(
        "kube-namespace",
        "",
        "namespace in Kubernetes (default: that of the context, or of the pod)",
    ),
];

/// All flags that the commands share.
pub fn flags() -> Vec<Flag> {
    [common::STORE, FLAGS].concat()
}

/// What a command failed with.
#[derive(Debug)]
pub enum Failure {
    /// One line for stderr; exit status 1.
    Error(String),
    /// One line for stderr; exit status 3.
    WouldReplace(String),
}

impl Failure {
    fn text(&self) -> &str {
        match self {
            Self::Error(text) | Self::WouldReplace(text) => text,
        }
    }

    fn exit_status(&self) -> u8 {
        match self {
            Self::Error(_) => FAILED,
            Self::WouldReplace(_) => WOULD_REPLACE,
        }
    }
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}

fn yes() -> Arg {
    Arg::new("yes")
        .short('y')
        .long("yes")
        .action(ArgAction::SetTrue)
        .help("do not ask")
}

fn file() -> Arg {
    Arg::new("file")
        .short('f')
        .long("file")
        .help("read it from this file, - is stdin")
}

fn command() -> Command {
    let command = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let spec = Arg::new("spec").help("the spec, as JSON");
    let uid = Arg::new("uid").required(true).help("uid of the keeper");
    Command::new("stolonctl")
        .bin_name("stolonctl")
        .max_term_width(args::WIDTH)
        .about("Steers a stolon cluster.")
        .after_help(
            "Examples:\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 init\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 status\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 update -p '{\"synchronousReplication\": true}'\n  \
             stolonctl dev --keepers 3\n\n\
             Exit status: 0 done, 1 failed, 3 refused because it would replace a cluster that has data.",
        )
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Print the version"))
        .args(args::arguments(&flags(), PREFIX).into_iter().map(|arg| arg.global(true)))
        .subcommand(
            command("init", "Initialize a new cluster").arg(spec.clone()).arg(file()).arg(yes()).arg(
                Arg::new("replace-cluster").long("replace-cluster").value_name("UID").help(
                    "uid of the present cluster that has data and is to be replaced",
                ),
            ),
        )
        .subcommand(
            command("update", "Update the cluster specification").arg(spec).arg(file()).arg(
                Arg::new("patch").short('p').long("patch").action(ArgAction::SetTrue).help(
                    "merge it into the present spec (JSON merge patch) instead of replacing that",
                ),
            ),
        )
        .subcommand(command("spec", "Show the cluster specification").arg(
            Arg::new("defaults").long("defaults").action(ArgAction::SetTrue).help("with defaults"),
        ))
        .subcommand(
            command("status", "Show the cluster status")
                .arg(Arg::new("format").short('f').long("format").default_value("text").value_parser(["text", "json"]).help("text or json")),
        )
        .subcommand(command("promote", "Promote a standby cluster to a master cluster").arg(yes()))
        .subcommand(command("failkeeper", "Force a keeper to be failed for once").arg(uid.clone()))
        .subcommand(command("removekeeper", "Remove a keeper and its db from the cluster").arg(uid))
        .subcommands(requests::commands())
        .subcommand(
            command("clusterdata", "Read or write the cluster data")
                .subcommand_required(true)
                .subcommand(command("read", "Print the cluster data").arg(
                    Arg::new("pretty").long("pretty").action(ArgAction::SetTrue).help("indented"),
                ))
                .subcommand(command("write", "Write cluster data into a store").arg(file()).arg(yes())),
        )
        .subcommand(register::command())
        .subcommand(crate::dev::command())
        .subcommand(command("version", "Print the version"))
}

/// Runs `stolonctl`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return crate::refuse(&error.to_string()),
        Err(error) => return crate::print(&error.to_string()),
    };
    let version = format!("stolonctl version {VERSION}");
    let (name, own) = match matches.subcommand() {
        _ if matches.get_flag("version") => return crate::print(&version),
        None => return crate::refuse("say what to do: see stolonctl --help"),
        Some(("version", _)) => return crate::print(&version),
        Some(("dev", own)) => return crate::dev::main(own),
        Some(found) => found,
    };
    let values = args::values(&flags(), &matches, PREFIX, &args::environment);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return crate::refuse(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(run(name, own, &values));
    runtime.shutdown_background();
    logging::flush();
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    if name == "status"
        && status::Format::of(own) == status::Format::Json
        && let Ok(text) = status::render_failure(failure.text())
    {
        // The exit status says the rest when not even this can be written.
        let _ = output::data(&text);
    }
    output::talk(failure.text());
    ExitCode::from(failure.exit_status())
}

async fn run(name: &str, own: &clap::ArgMatches, values: &args::Values) -> Result<(), Failure> {
    let (_, config) = common::store(values)?;
    logging::init(common::command_log(values)?);
    check_there(name, own, &config)?;
    let session = session::Session::open(&config)?;
    match name {
        "init" => init::run(&session, own).await,
        "update" => update::run(&session, own).await,
        "spec" => spec::run(&session, own).await,
        "status" => status::run(&session, own).await,
        "promote" => promote::run(&session, own).await,
        "failkeeper" => keepers::fail(&session, own).await,
        "removekeeper" => keepers::remove(&session, own).await,
        "resync" => requests::resync(&session, own).await,
        "restart" => requests::restart(&session, own).await,
        "reload" => requests::reload(&session, own).await,
        "pause" => requests::pause(&session, own).await,
        "resume" => requests::resume(&session, own).await,
        "cancel" => requests::cancel(&session, own).await,
        "clusterdata" => clusterdata::run(&session, own).await,
        "register" => register::run(&session, own, values, &config).await,
        other => Err(Failure::Error(format!("no such command: {other}"))),
    }
}

/// Only what makes a cluster makes a store: anything else would leave an empty file behind, of a
/// user that the daemons may not be, where a word in the path was wrong.
fn check_there(
    name: &str,
    own: &clap::ArgMatches,
    config: &stolon_store::Config,
) -> Result<(), Failure> {
    let makes = name == "init" || (name, own.subcommand_name()) == ("clusterdata", Some("write"));
    let file = config.endpoints.first().map(Path::new);
    match (config.backend, file) {
        (Backend::Sqlite, Some(file)) if !makes && file.is_absolute() && !file.exists() => {
            Err(Failure::Error(format!(
                "there is no store {}: check --store-endpoints, or make a cluster with stolonctl \
                 init",
                file.display()
            )))
        }
        _ => Ok(()),
    }
}
