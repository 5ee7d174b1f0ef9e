//! One local PostgreSQL instance: its programs, files, processes and queries.
//!
//! No decisions here: the keeper's core decides, this crate does and observes. Every effect can be
//! repeated after a crash at any point.
//!
//! * [`installation`] finds PostgreSQL's programs; [`initdb`], [`basebackup`], [`rewind`] and
//!   [`restore`] make data
//! * [`data_dir`] and [`controldata`] look at data at rest; [`config_files`] writes configuration
//! * [`process`] owns a running postmaster; [`query`] talks to it
//! * [`conninfo`] writes connection strings; [`outside`] reads those of operators, and asks the servers that
//!   they lead to

pub mod base_config;
pub mod basebackup;
pub mod check;
pub mod config_files;
pub mod conninfo;
pub mod controldata;
pub mod data_dir;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod history;
pub mod initdb;
pub mod installation;
pub mod outside;
pub mod process;
pub mod query;
pub mod receiver;
pub mod restore;
pub mod rewind;
pub mod tls;
mod watched;

pub use error::Error;
pub use installation::Installation;
