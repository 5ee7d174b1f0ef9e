//! The command line of all four programs, by the real binary where it matters.

#[path = "cli/arguments.rs"]
mod arguments;
#[path = "cli/names.rs"]
mod names;
#[path = "cli/program.rs"]
mod program;
