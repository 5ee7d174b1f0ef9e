//! The simulated world: a whole cluster on one queue of events, with a seed.
//!
//! Core's state machines run as they run in production, in a world that fails as the real one does,
//! only more often; after every event the invariants are checked, and after the last fault the
//! cluster has to become well. The same seed is the same run. Start reading at [`run::run`].
#![allow(
    clippy::indexing_slicing,
    reason = "numbers of keepers, sentinels and proxies come from the same plan as the lists"
)]

pub mod batch;
pub mod broken;
pub mod chance;
pub mod check;
pub mod plan;
pub mod record;
pub mod run;
pub mod shrink;
pub mod story;
pub mod swarm;
pub mod world;
