//! The proxy's flags.

use std::time::Duration;

use stolon_core::model::GoDuration;
use stolon_core::proxy::{Fallback, Lag, ReadOnly};
use stolon_daemons::proxy::config::{Config, Keepalive, Listening};

use super::{Daemon, Flag, Values, common, deprecated_yes_no, text, yes_no};

/// Its command line.
pub const DAEMON: Daemon<Config> = Daemon {
    name: "stolon-proxy",
    about: "Carries clients to the primary, and to nothing else.",
    prefix: "STPROXY",
    own: FLAGS,
    meaning: config,
};

/// What `--read-only-max-lag` may be.
const VALID_LAG: &str = "bytes as 32MB, a time as 30s, or both as 32MB,30s";

const FLAGS: &[Flag] = &[
    text("listen-address", "127.0.0.1", "address to listen on"),
    text("port", "5432", "port to listen on"),
    yes_no(
        "stop-listening",
        "true",
        "stop listening while the store cannot be seen",
    ),
    text(
        "hold-timeout",
        "10s",
        "how long a client waits while there is no primary, before it is refused; 0: not at all",
    ),
    text(
        "max-held",
        "1000",
        "clients that may wait at the same time; more are refused at once",
    ),
    text(
        "read-only-port",
        "",
        "port for clients that only read: they are spread over the standbys; off without",
    ),
    text(
        "read-only-listen-address",
        "",
        "address to listen on for clients that only read; that of --listen-address without",
    ),
    text(
        "read-only-max-lag",
        "32MB,30s",
        "how far a standby may be behind that is read from: bytes of WAL, and how long ago it was known to have everything; one alone bounds only that",
    ),
    text(
        "read-only-fallback",
        "primary",
        "where clients that only read go while there is no such standby: primary, or refuse (nowhere)",
    ),
    text(
        "tcp-keepalive-idle",
        "0",
        "seconds of silence before the first keepalive probe; 0: the system's",
    ),
    text(
        "tcp-keepalive-count",
        "0",
        "unanswered probes after which a connection is dead; 0: the system's",
    ),
    text(
        "tcp-keepalive-interval",
        "0",
        "seconds between keepalive probes; 0: the system's",
    ),
    deprecated_yes_no("debug", "--log-level=debug"),
];

fn config(values: &Values) -> Result<Config, String> {
    let common = common::daemon(values)?;
    let number = |name: &str| -> Result<Option<u32>, String> {
        let number = values.number::<u32>(name, 0, "a number, 0 (the system's) or more")?;
        Ok(Some(number).filter(|number| *number > 0))
    };
    let seconds =
        |name: &str| Ok::<_, String>(number(name)?.map(|n| Duration::from_secs(n.into())));
    let keepalive = Keepalive {
        idle: seconds("tcp-keepalive-idle")?,
        count: number("tcp-keepalive-count")?,
        interval: seconds("tcp-keepalive-interval")?,
    };
    let hold_timeout: GoDuration = values
        .text("hold-timeout")
        .parse()
        .ok()
        .filter(|timeout: &GoDuration| timeout.as_nanos() >= 0)
        .ok_or_else(|| values.invalid("hold-timeout", "a time as 10s, or 0"))?;
    Ok(Config {
        common,
        read_only: read_only(values)?,
        listening: Listening {
            address: values.text("listen-address").to_owned(),
            port: values.port("port")?,
        },
        stop_listening: values.is("stop-listening")?,
        hold_timeout: hold_timeout.to_std(),
        most_held: values.number("max-held", 0, "a number, 0 or more")?,
        keepalive,
    })
}

/// The port for clients that only read. What is said of it is looked at also where there is none.
fn read_only(values: &Values) -> Result<Option<(Listening, ReadOnly)>, String> {
    let max_lag: Lag = values
        .text("read-only-max-lag")
        .parse()
        .map_err(|_| values.invalid("read-only-max-lag", VALID_LAG))?;
    let words = [("primary", Fallback::Primary), ("refuse", Fallback::Refuse)];
    let fallback = values.one_of("read-only-fallback", &words)?;
    if values.given("read-only-port").is_none() {
        return Ok(None);
    }
    let address = values
        .given("read-only-listen-address")
        .unwrap_or_else(|| values.text("listen-address").to_owned());
    let port = values.port("read-only-port")?;
    if port == values.port("port")? && address == values.text("listen-address") {
        return Err(values.invalid("read-only-port", "another port than --port"));
    }
    Ok(Some((
        Listening { address, port },
        ReadOnly { max_lag, fallback },
    )))
}
