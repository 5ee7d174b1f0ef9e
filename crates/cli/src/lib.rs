//! What users type: one program under four names.
//!
//! `stolon-keeper`, `stolon-sentinel`, `stolon-proxy` and `stolonctl` are links to it; under its own
//! name `stolon` the first argument says which it is.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod ctl;
pub mod dev;
mod output;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use stolon_daemons::runtime::logging;
use stolon_daemons::runtime::shutdown::Shutdown;
use stolon_daemons::{keeper, proxy, sentinel};

/// The version of this program.
pub const VERSION: &str = stolon_daemons::config::VERSION;

/// The exit status of a command that failed.
const FAILED: u8 = 1;

/// The names of the programs, by the first argument of `stolon`.
const PROGRAMS: [(&str, &str); 4] = [
    ("keeper", "stolon-keeper"),
    ("sentinel", "stolon-sentinel"),
    ("proxy", "stolon-proxy"),
    ("ctl", "stolonctl"),
];

const USAGE: &str = "\
Keeps a PostgreSQL service writable, and its data safe.

Usage: stolon keeper|sentinel|proxy|ctl [ARGUMENTS]

  keeper    runs one PostgreSQL instance as the cluster data say (stolon-keeper)
  sentinel  watches the cluster, and decides while it leads (stolon-sentinel)
  proxy     carries clients to the primary (stolon-proxy)
  ctl       steers a cluster (stolonctl)

Each is also a program of its own under the name in brackets, a link to this file.
To try it: stolon ctl dev. More: stolon keeper --help, and so on.";

/// Runs the program that the name it was called by says, or the first argument.
pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    let called = arguments.first().cloned().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    let by_name = |(_, name): &&(&str, &str)| called == *name;
    if let Some((_, program)) = PROGRAMS.iter().find(by_name) {
        return run(program, &arguments);
    }
    let first = arguments.get(1).cloned().unwrap_or_default();
    let first = first.to_string_lossy();
    if let Some((_, program)) = PROGRAMS.iter().find(|(word, _)| *word == first) {
        arguments.remove(0);
        return run(program, &arguments);
    }
    match first.as_ref() {
        "--version" | "version" => print(&format!("stolon version {VERSION}")),
        "--help" | "-h" | "help" => print(USAGE),
        "" => refuse(USAGE),
        other => refuse(&format!(
            "no such program: {other:?}, it is keeper, sentinel, proxy or ctl; see stolon --help"
        )),
    }
}

fn run(program: &str, arguments: &[OsString]) -> ExitCode {
    let environment = &args::environment;
    match program {
        "stolon-keeper" => daemon(
            args::keeper::DAEMON.parse(arguments, environment),
            |config| config.common.log,
            keeper::run,
        ),
        "stolon-sentinel" => daemon(
            args::sentinel::DAEMON.parse(arguments, environment),
            |config| config.common.log,
            sentinel::run,
        ),
        "stolon-proxy" => daemon(
            args::proxy::DAEMON.parse(arguments, environment),
            |config| config.common.log,
            proxy::run,
        ),
        _ => ctl::main(arguments),
    }
}

/// What parsing a command line came to.
#[derive(Debug)]
pub enum Parsed<T> {
    /// Run with this.
    Run(Box<T>),
    /// Print this and end well: help or the version.
    Print(String),
    /// Print this as an error and fail.
    Refuse(String),
}

fn print(text: &str) -> ExitCode {
    match output::line(text.trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("cannot write to stdout: {error}")),
    }
}

fn refuse(text: &str) -> ExitCode {
    output::talk(text.trim_end());
    ExitCode::from(FAILED)
}

fn daemon<C, E, F>(
    parsed: Parsed<C>,
    log: impl Fn(&C) -> logging::LogConfig,
    run: impl FnOnce(C, Shutdown) -> F,
) -> ExitCode
where
    E: std::fmt::Display,
    F: Future<Output = Result<(), E>>,
{
    let config = match parsed {
        Parsed::Run(config) => *config,
        Parsed::Print(text) => return print(&text),
        Parsed::Refuse(text) => return refuse(&text),
    };
    logging::init(log(&config));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(|error| error.to_string())?;
        run(config, shutdown)
            .await
            .map_err(|error| error.to_string())
    });
    // A call to a store or disk that hangs must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(fatal = true, "{error}");
            logging::flush();
            ExitCode::from(FAILED)
        }
    }
}
