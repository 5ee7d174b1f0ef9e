//! The decisions of stolon: pure functions from facts to effects.
//!
//! Nothing here reads a clock, draws a random number, logs, waits or fails with an IO error. Each
//! role is one state machine, `handle(now, Event) -> Vec<Effect>`, and runs unchanged in the daemons
//! and in the simulated world. Start reading at [`model`] (what the store holds), then
//! [`sentinel`], [`keeper`] and [`proxy`].
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::wildcard_enum_match_arm
    )
)]

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod invariants;
pub mod keeper;
pub mod model;
pub mod proxy;
pub mod reason;
pub mod sentinel;
pub mod time;
