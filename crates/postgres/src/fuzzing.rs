//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes, and every
//! writer of what PostgreSQL parses: one function each. `make fuzz` searches for bytes that break
//! one (docs/testing.md); the test below runs them over what it has kept.

mod programs;
mod reading;
mod written;

pub use programs::{
    basebackup_progress, control_data, parameter_complaints, pid_file, postgres_version,
    process_stat, timeline_history,
};
pub use written::{configuration, conninfo, password_file};

#[path = "../../../fuzz/pieces.rs"]
mod pieces;
#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_over_its_corpus() {
        super::replay::corpora(
            &[
                ("basebackup_progress", super::basebackup_progress),
                ("configuration", super::configuration),
                ("conninfo", super::conninfo),
                ("control_data", super::control_data),
                ("parameter_complaints", super::parameter_complaints),
                ("password_file", super::password_file),
                ("pid_file", super::pid_file),
                ("postgres_version", super::postgres_version),
                ("process_stat", super::process_stat),
                ("timeline_history", super::timeline_history),
            ],
            None,
        );
    }
}
