//! The only place that reads the clock, signals and the environment.

pub mod clock;
pub mod descendants;
pub mod files;
pub mod http;
pub mod logging;
pub mod names;
pub mod notify;
pub mod passed;
pub mod reread;
pub mod shutdown;
pub mod store;
pub mod succession;
