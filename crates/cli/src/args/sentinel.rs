//! The sentinel's flags.

use std::ffi::OsString;

use stolon_core::model::wire;
use stolon_daemons::sentinel::config::Config;

use super::{Flag, Kind, Values, common, text};
use crate::Parsed;

const PREFIX: &str = "STSENTINEL";

const FLAGS: &[Flag] = &[
    text(
        "initial-cluster-spec",
        "",
        "file with the spec to initialise with when the store holds no cluster",
    ),
    text(
        "max-failovers",
        "3",
        "automatic failovers within 10 minutes after which the next one waits for an operator",
    ),
    Flag {
        name: "debug",
        kind: Kind::Deprecated("--log-level=debug"),
        default: "bool",
        help: "debug",
    },
];

/// Parses a sentinel's command line.
pub fn parse(arguments: &[OsString]) -> Parsed<Config> {
    let flags: Vec<Flag> = [common::STORE, common::DAEMON, FLAGS].concat();
    let about = "Watches the cluster, and decides what it should be while it leads.";
    let values = super::daemon_values(
        "stolon-sentinel",
        about,
        &flags,
        PREFIX,
        arguments,
        &super::environment,
    );
    super::finish(values, config)
}

fn config(values: &Values) -> Result<Config, String> {
    let common = common::daemon(values)?;
    let initial_spec = match values.given("initial-cluster-spec") {
        None => None,
        Some(file) => {
            let bytes = std::fs::read(&file).map_err(|error| {
                format!("cannot read provided initial cluster config file: {error}")
            })?;
            let (spec, warnings) = wire::read_spec(&bytes)
                .map_err(|error| format!("invalid initial cluster spec {file}: {error}"))?;
            for warning in warnings {
                eprintln!("initial cluster spec {file}: {warning}");
            }
            Some(spec)
        }
    };
    let most_failovers = values.number("max-failovers", "a number")?;
    Ok(Config {
        common,
        initial_spec,
        most_failovers,
    })
}
