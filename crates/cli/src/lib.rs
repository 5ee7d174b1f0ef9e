//! What users type: one program under four names.
//!
//! `stolon-keeper`, `stolon-sentinel`, `stolon-proxy` and `stolonctl` are links to it; under its own
//! name `stolon` the first argument says which it is.

pub mod args;
pub mod ctl;
pub mod dev;

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

/// Runs the program that the first argument names.
pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    let called = arguments.first().cloned().unwrap_or_default();
    let called = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let role = match called.as_str() {
        "stolon-keeper" | "stolon-sentinel" | "stolon-proxy" | "stolonctl" => called,
        _ => {
            let first = arguments
                .get(1)
                .map(|word| word.to_string_lossy().into_owned());
            let role = match first.as_deref() {
                Some("keeper") => "stolon-keeper",
                Some("sentinel") => "stolon-sentinel",
                Some("proxy") => "stolon-proxy",
                Some("ctl") => "stolonctl",
                Some("--version") => return print(&format!("stolon version {VERSION}")),
                _ => {
                    eprintln!(
                        "usage: stolon keeper|sentinel|proxy|ctl ARGUMENTS\n\
                         (or by the names stolon-keeper, stolon-sentinel, stolon-proxy, stolonctl)"
                    );
                    return ExitCode::from(FAILED);
                }
            };
            arguments.remove(0);
            role.to_owned()
        }
    };
    match role.as_str() {
        "stolon-keeper" => daemon(
            args::keeper::parse(&arguments),
            |config| config.common.log,
            keeper::run,
        ),
        "stolon-sentinel" => daemon(
            args::sentinel::parse(&arguments),
            |config| config.common.log,
            sentinel::run,
        ),
        "stolon-proxy" => daemon(
            args::proxy::parse(&arguments),
            |config| config.common.log,
            proxy::run,
        ),
        _ => ctl::main(&arguments),
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
    println!("{}", text.trim_end());
    ExitCode::SUCCESS
}

fn refuse(text: &str) -> ExitCode {
    eprintln!("{}", text.trim_end());
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
