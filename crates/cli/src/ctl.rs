//! `stolonctl`: one command a file.
//!
//! Data go to stdout, talk to stderr. Exit status: 0 done, 1 failed, 3 refused because it would
//! replace a cluster that has data.

mod clusterdata;
mod init;
mod keepers;
mod promote;
mod session;
mod spec;
pub mod status;
mod update;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};

use crate::args::{self, Flag, common};
use crate::{FAILED, VERSION};

const PREFIX: &str = "STOLONCTL";

/// What a command failed with.
#[derive(Debug)]
pub enum Failure {
    /// One line for stderr; exit status 1.
    Error(String),
    /// One line for stderr; exit status 3.
    WouldReplace(String),
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
        .about("Steers a stolon cluster.")
        .after_help(
            "Examples:\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 init\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 status\n  \
             stolonctl --cluster-name c1 --store-backend etcdv3 update -p '{\"synchronousReplication\": true}'\n  \
             stolonctl dev --keepers 3\n\n\
             Exit status: 0 done, 1 failed, 3 refused because it would replace a cluster that has data.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(args::arguments(common::STORE, PREFIX).into_iter().map(|arg| arg.global(true)))
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
                .arg(Arg::new("format").short('f').long("format").default_value("text").help("text or json")),
        )
        .subcommand(command("promote", "Promote a standby cluster to a master cluster").arg(yes()))
        .subcommand(command("failkeeper", "Force a keeper to be failed for once").arg(uid.clone()))
        .subcommand(command("removekeeper", "Remove a keeper and its db from the cluster").arg(uid))
        .subcommand(
            command("clusterdata", "Read or write the cluster data")
                .subcommand_required(true)
                .subcommand(command("read", "Print the cluster data").arg(
                    Arg::new("pretty").long("pretty").action(ArgAction::SetTrue).help("indented"),
                ))
                .subcommand(command("write", "Write cluster data into a store").arg(file()).arg(yes())),
        )
        .subcommand(command("register", "Register the cluster in service discovery"))
        .subcommand(crate::dev::command())
        .subcommand(command("version", "Print the version"))
}

/// Runs `stolonctl`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let failed = error.use_stderr();
            // Nothing helps when not even this can be printed.
            let _ = error.print();
            return if failed {
                ExitCode::from(FAILED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let Some((name, own)) = matches.subcommand() else {
        return ExitCode::from(FAILED);
    };
    match name {
        "version" => return crate::print(&format!("stolonctl version {VERSION}")),
        "dev" => return crate::dev::main(own),
        "register" => {
            return crate::refuse(
                "register is not in this version: it comes with the Consul store",
            );
        }
        _ => {}
    }
    let flags: &[Flag] = common::STORE;
    let values = args::values(flags, &matches, PREFIX, &args::environment);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return crate::refuse(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(run(name, own, &values));
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Error(error)) => crate::refuse(&error),
        Err(Failure::WouldReplace(error)) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

async fn run(name: &str, own: &clap::ArgMatches, values: &args::Values) -> Result<(), Failure> {
    let (_, config) = common::store(values)?;
    let session = session::Session::open(&config)?;
    match name {
        "init" => init::run(&session, own).await,
        "update" => update::run(&session, own).await,
        "spec" => spec::run(&session, own).await,
        "status" => status::run(&session, own).await,
        "promote" => promote::run(&session, own).await,
        "failkeeper" => keepers::fail(&session, own).await,
        "removekeeper" => keepers::remove(&session, own).await,
        "clusterdata" => clusterdata::run(&session, own).await,
        other => Err(Failure::Error(format!("no such command: {other}"))),
    }
}
