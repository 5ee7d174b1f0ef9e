//! The sentinel's flags.

use stolon_core::model::wire;
use stolon_daemons::sentinel::config::Config;

use super::{Daemon, Flag, Values, common, deprecated_yes_no, text};

/// Its command line.
pub const DAEMON: Daemon<Config> = Daemon {
    name: "stolon-sentinel",
    about: "Watches the cluster, and decides what it should be while it leads.",
    prefix: "STSENTINEL",
    own: FLAGS,
    meaning: config,
};

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
    deprecated_yes_no("debug", "--log-level=debug"),
];

fn config(values: &Values) -> Result<Config, String> {
    let common = common::daemon(values)?;
    let initial_spec = match values.given("initial-cluster-spec") {
        None => None,
        Some(file) => {
            let bytes = std::fs::read(&file)
                .map_err(|error| format!("cannot read --initial-cluster-spec {file}: {error}"))?;
            let (spec, warnings) = wire::read_spec(&bytes)
                .map_err(|error| format!("invalid initial cluster spec {file}: {error}"))?;
            for warning in warnings {
                crate::output::talk(&format!("initial cluster spec {file}: {warning}"));
            }
            Some(spec)
        }
    };
    let most_failovers = values.number("max-failovers", 0, "a number, 0 or more")?;
    Ok(Config {
        common,
        initial_spec,
        most_failovers,
    })
}
