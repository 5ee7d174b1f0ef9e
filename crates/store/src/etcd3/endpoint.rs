//! The addresses of etcd as given, and as meant.

use std::sync::Arc;
use std::time::Duration;

use tonic::codegen::http::uri::Authority;
use tonic::transport::Endpoint;

use crate::{Config, Error, tls};

/// Where etcd listens when nothing is said (contract, section 1).
const DEFAULT: &str = "http://127.0.0.1:2379";
const DEFAULT_PORT: u16 = 2379;
/// etcd closes connections that ping more often than every 5 s, and those that ping while they
/// carry no stream (`--grpc-keepalive-min-time`; measured, dependencies.md 3.5).
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(3);

/// The endpoints of a store, each with its address as shown in messages.
pub(super) fn endpoints(
    config: &Config,
    connect_timeout: Duration,
) -> Result<Vec<(String, Endpoint)>, Error> {
    let addresses = addresses(&config.endpoints)?;
    let secure = addresses
        .first()
        .is_some_and(|address| address.starts_with("https:"));
    let tls = if secure {
        Some(tls::load(&config.tls)?)
    } else {
        if config.tls != crate::Tls::default() {
            tracing::warn!(
                "the store's certificates are not used: its endpoints are http, not https"
            );
        }
        None
    };
    let build = |address: String| {
        let refused = |error: &dyn std::error::Error| {
            let cause = super::failure::innermost(error);
            Error::Config(format!("--store-endpoints {address:?}: {cause}"))
        };
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| refused(&error))?;
        let endpoint = match &tls {
            None => endpoint,
            Some(tls) => match &tls.verifier {
                Some(verifier) => endpoint
                    .tls_config_with_verifier(tls.client.clone(), Arc::clone(verifier))
                    .map_err(|error| refused(&error))?,
                None => endpoint
                    .tls_config(tls.client.clone())
                    .map_err(|error| refused(&error))?,
            },
        };
        let endpoint = endpoint
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(false);
        Ok((address, endpoint))
    };
    addresses.into_iter().map(build).collect()
}

/// The addresses with scheme and port, without paths: `http://10.0.0.1:2379`.
pub(crate) fn addresses(given: &[String]) -> Result<Vec<String>, Error> {
    if given.is_empty() {
        return Ok(vec![DEFAULT.to_owned()]);
    }
    let addresses: Vec<String> = given
        .iter()
        .map(|text| address(text))
        .collect::<Result<_, _>>()?;
    let secure = addresses
        .iter()
        .filter(|address| address.starts_with("https:"));
    match secure.count() {
        0 => Ok(addresses),
        all if all == addresses.len() => Ok(addresses),
        _ => Err(Error::Config(format!(
            "--store-endpoints {:?}: all of them are http or all of them https",
            given.join(",")
        ))),
    }
}

fn address(given: &str) -> Result<String, Error> {
    let refused = |why: &str| {
        Err(Error::Config(format!(
            "--store-endpoints {given:?}: {why}, for example https://etcd1.example.com:2379"
        )))
    };
    let (scheme, rest) = match given.split_once("://") {
        None => ("http", given),
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return refused("an endpoint begins with http:// or https://"),
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return refused("an endpoint has no user or password");
    }
    let Ok(authority) = host.parse::<Authority>() else {
        return refused("an endpoint is a host and a port");
    };
    if authority.host().is_empty() {
        return refused("an endpoint is a host and a port");
    }
    match host.strip_prefix(authority.host()) {
        Some("") => Ok(format!("{scheme}://{host}:{DEFAULT_PORT}")),
        Some(port) if port.strip_prefix(':').is_some_and(is_port) => {
            Ok(format!("{scheme}://{host}"))
        }
        _ => refused("a port is a number between 1 and 65535"),
    }
}

fn is_port(text: &str) -> bool {
    // Rust's numbers may have a sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    fn check(given: &[&str], expected: &str) {
        let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
        let found = match addresses(&given) {
            Ok(addresses) => addresses.join(" "),
            Err(error) => format!("refused: {error}"),
        };
        assert!(found.starts_with(expected), "{given:?}: {found}");
    }

    #[test]
    fn addresses_are_completed() {
        check(&[], "http://127.0.0.1:2379");
        check(&["10.0.0.1:4001"], "http://10.0.0.1:4001");
        check(&["etcd1"], "http://etcd1:2379");
        check(&["[::1]:2379"], "http://[::1]:2379");
        check(
            &["https://a:1/path?x", "https://b"],
            "https://a:1 https://b:2379",
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        check(&["unix:///tmp/x"], "refused: --store-endpoints \"unix");
        check(&["http://"], "refused: ");
        check(&["http://:2379"], "refused: ");
        check(&["a:"], "refused: ");
        check(&["a:70000"], "refused: ");
        check(&["a::2379"], "refused: ");
        check(&["[::1]2379"], "refused: ");
        check(&["http://user:secret@a:2379"], "refused: ");
        check(&["http://a b"], "refused: ");
        check(&["a:1", "https://b:1"], "refused: ");
    }
}
