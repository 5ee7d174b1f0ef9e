//! One program under four names.

fn main() -> std::process::ExitCode {
    stolon_cli::main(std::env::args_os().collect())
}
