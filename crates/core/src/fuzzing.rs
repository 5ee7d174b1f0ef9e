//! What every parser of foreign bytes in this crate must satisfy, whatever the bytes: one function a
//! parser. `make fuzz` searches for bytes that break one (docs/testing.md); the test below runs them
//! over what it has kept.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a broken promise is what is looked for, and a panic is how it is told"
)]

mod documents;
mod keepers;
mod texts;

pub use documents::{
    cluster_data, cluster_spec, ext_spec, history, keeper_info, proxy_info, request, sentinel_info,
    spec_patch,
};
pub use keepers::{access_rules, synchronous_standby_names};
pub use texts::{go_duration, timestamp, wal_position};

#[path = "../../../fuzz/pieces.rs"]
mod pieces;
#[cfg(test)]
#[macro_use]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
every_target_holds!(Some(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    access_rules,
    cluster_data,
    cluster_spec,
    ext_spec,
    go_duration,
    history,
    keeper_info,
    proxy_info,
    request,
    sentinel_info,
    spec_patch,
    synchronous_standby_names,
    timestamp,
    wal_position,
);
