//! `stolonctl dev`: a whole cluster on this machine, to try and to break.
use std::process::ExitCode;
/// The command.
pub fn command() -> clap::Command {
    clap::Command::new("dev").about("Run a whole cluster on this machine")
}
/// Runs it.
pub fn main(_own: &clap::ArgMatches) -> ExitCode {
    ExitCode::SUCCESS
}
