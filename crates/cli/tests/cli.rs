//! The command line of all four programs, by the real binary where it matters.

#[path = "cli/arguments.rs"]
mod arguments;
#[path = "cli/changes.rs"]
mod changes;
#[path = "cli/cluster.rs"]
mod cluster;
#[path = "cli/deploy.rs"]
mod deploy;
#[path = "cli/init.rs"]
mod init;
#[path = "cli/names.rs"]
mod names;
#[path = "cli/program.rs"]
mod program;
#[path = "cli/status.rs"]
mod status;
