//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes, and every
//! writer of what PostgreSQL parses: one function each. `make fuzz` searches for bytes that break
//! one (docs/testing.md); the test below runs them over what it has kept.

mod foreign;
mod programs;
mod reading;
mod written;

pub use foreign::{base_configuration, outside_answer, outside_conninfo};
pub use programs::{
    basebackup_progress, control_data, parameter_complaints, pid_file, postgres_version,
    process_stat, rewind_label, timeline_history,
};
pub use written::{configuration, conninfo, password_file};

#[path = "../../../fuzz/pieces.rs"]
mod pieces;
#[cfg(test)]
#[macro_use]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
every_target_holds!(None;
    base_configuration,
    basebackup_progress,
    configuration,
    conninfo,
    control_data,
    outside_answer,
    outside_conninfo,
    parameter_complaints,
    password_file,
    pid_file,
    postgres_version,
    process_stat,
    rewind_label,
    timeline_history,
);
