//! The shells around the decisions: they read facts, hand them to core, and carry out its effects.
//!
//! [`keeper`], [`sentinel`] and [`proxy`] each have `run(config, shutdown)`. Only [`runtime`] reads
//! the clock, signals and the environment.

pub mod config;
mod document;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod keeper;
pub mod proxy;
pub mod runtime;
pub mod sentinel;
mod settings;
