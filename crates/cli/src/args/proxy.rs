//! The proxy's flags.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use stolon_core::model::GoDuration;
use stolon_core::proxy::MaxLag;
use stolon_daemons::proxy::config::{Config, Fallback, Keepalive, MOST_THREADS, Reading, Tls};

use super::{Daemon, Flag, Values, common, deprecated_yes_no, text, yes_no};

/// Its command line.
pub const DAEMON: Daemon<Config> = Daemon {
    name: "stolon-proxy",
    about: "Carries clients to the primary, and those who only read to standbys by a port of its own.",
    prefix: "STPROXY",
    own: FLAGS,
    meaning: config,
};

const FLAGS: &[Flag] = &[
    text("listen-address", "127.0.0.1", "address to listen on"),
    text("port", "5432", "port to listen on"),
    text(
        "read-only-port",
        "0",
        "port that leads to standbys, for clients that only read; 0: none",
    ),
    text(
        "read-only-listen-address",
        "",
        "address of that port; without it the one of --listen-address",
    ),
    text(
        "read-only-max-lag",
        "16MB,30s",
        "how far behind the primary a standby may be that clients read from, in bytes and in time",
    ),
    text(
        "read-only-fallback",
        "primary",
        "what becomes of clients that read while no standby is near enough: primary (they go there) or \
         refuse (they wait for --hold-timeout, and are refused)",
    ),
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
        "drain-timeout",
        "0",
        "how long sessions may go on when the proxy is asked to stop, before they are ended; 0: only \
         statements that are under way may still end",
    ),
    text(
        "upgrade-drain-timeout",
        "1h",
        "how long sessions may go on here once a successor has taken over (SIGUSR2)",
    ),
    text(
        "threads",
        "0",
        "threads that carry clients; 0: one for every two processors",
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
    text(
        "proxy-protocol-from",
        "",
        "networks and addresses, separated by commas, whose connections begin with a PROXY protocol \
         header",
    ),
    text(
        "tls-cert-file",
        "",
        "certificate that clients are shown: TLS ends at the proxy, instead of passing through",
    ),
    text("tls-key-file", "", "key of that certificate"),
    text(
        "tls-client-ca-file",
        "",
        "authority of the certificates that clients must show; only with --tls-required",
    ),
    yes_no(
        "tls-required",
        "false",
        "refuse clients that do not ask for TLS, which needs a certificate here",
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
    Ok(Config {
        common,
        listen_address: values.text("listen-address").to_owned(),
        port: values.port("port")?,
        stop_listening: values.is("stop-listening")?,
        hold_timeout: time(values, "hold-timeout")?,
        most_held: values.number("max-held", 0, "a number, 0 or more")?,
        drain_timeout: time(values, "drain-timeout")?,
        upgrade_drain_timeout: time(values, "upgrade-drain-timeout")?,
        threads: threads(values)?,
        keepalive,
        proxy_protocol_from: networks(values)?,
        reading: reading(values)?,
        tls: tls(values)?,
    })
}

fn threads(values: &Values) -> Result<Option<NonZeroUsize>, String> {
    let hint = format!("a number up to {MOST_THREADS}, or 0");
    let threads = values.number::<usize>("threads", 0, &hint)?;
    if threads > MOST_THREADS {
        return Err(values.invalid("threads", &hint));
    }
    Ok(NonZeroUsize::new(threads))
}

fn time(values: &Values, name: &str) -> Result<Duration, String> {
    let time = values.text(name).parse().ok();
    let time = time.filter(|time: &GoDuration| time.as_nanos() >= 0);
    let time = time.ok_or_else(|| values.invalid(name, "a time as 10s, or 0"))?;
    Ok(time.to_std())
}

fn reading(values: &Values) -> Result<Option<Reading>, String> {
    let port = values.number::<u16>("read-only-port", 0, "a port number, or 0 for none")?;
    let max_lag = max_lag(values)?;
    let words = [("primary", Fallback::Primary), ("refuse", Fallback::Refuse)];
    let fallback = values.one_of("read-only-fallback", &words)?;
    let listen_address = values
        .given("read-only-listen-address")
        .unwrap_or_else(|| values.text("listen-address").to_owned());
    if port == 0 {
        return Ok(None);
    }
    if port == values.port("port")? && listen_address == values.text("listen-address") {
        return Err(
            "--read-only-port and --port are the same: clients could not choose".to_owned(),
        );
    }
    Ok(Some(Reading {
        listen_address,
        port,
        max_lag,
        fallback,
    }))
}

fn max_lag(values: &Values) -> Result<MaxLag, String> {
    let refused = || {
        let valid = "a size and a time as 16MB,30s: the size a whole number of kB, MB or GB, the time \
                     more than 0";
        values.invalid("read-only-max-lag", valid)
    };
    let (size, time) = values
        .text("read-only-max-lag")
        .split_once(',')
        .ok_or_else(refused)?;
    let time: GoDuration = time.trim().parse().map_err(|_| refused())?;
    if time.as_nanos() <= 0 {
        return Err(refused());
    }
    Ok(MaxLag {
        bytes: bytes(size.trim()).ok_or_else(refused)?,
        time: time.to_std(),
    })
}

/// A size as PostgreSQL writes it ("Parameter Names and Values": 1kB is 1024 bytes).
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text.get(digits.len()..)?.trim() {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn networks(values: &Values) -> Result<Vec<IpNet>, String> {
    let given = values.text("proxy-protocol-from").split(',').map(str::trim);
    let network = |text: &str| {
        let one = text.parse::<IpAddr>().map(IpNet::from).ok();
        let network = one.or_else(|| text.parse().ok());
        network.ok_or_else(|| {
            let expected =
                format!("networks and addresses as 10.0.0.0/8,192.0.2.1; {text:?} is none");
            values.invalid("proxy-protocol-from", &expected)
        })
    };
    given.filter(|text| !text.is_empty()).map(network).collect()
}

fn tls(values: &Values) -> Result<Option<Tls>, String> {
    let file = |name| values.given(name).map(PathBuf::from);
    let (certificate, key) = (file("tls-cert-file"), file("tls-key-file"));
    let client_authority = file("tls-client-ca-file");
    let required = values.is("tls-required")?;
    if client_authority.is_some() && !required {
        let why = "a client that does not ask for TLS would show no certificate";
        return Err(format!("--tls-client-ca-file needs --tls-required: {why}"));
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls {
            certificate,
            key,
            client_authority,
            required,
        })),
        (None, None) if !required => Ok(None),
        (Some(_) | None, Some(_) | None) => {
            Err("TLS needs both --tls-cert-file and --tls-key-file".to_owned())
        }
    }
}
