//! Addresses of a store as given, and as meant.

use tonic::codegen::http::uri::Authority;

use crate::Error;

/// Where etcd listens by default.
pub(crate) const ETCD_PORT: u16 = 2379;
/// Where a Consul agent listens by default.
pub(crate) const CONSUL_PORT: u16 = 8500;

/// The addresses with scheme and port, without paths: `http://10.0.0.1:2379`. `port` is the one
/// that the store has by default; so has the one address that is meant when none is given, this
/// host's (contract, section 1).
pub(crate) fn addresses(given: &[String], port: u16) -> Result<Vec<String>, Error> {
    if given.is_empty() {
        return Ok(vec![format!("http://127.0.0.1:{port}")]);
    }
    let addresses: Vec<String> = given
        .iter()
        .map(|text| address(text, port))
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

fn address(given: &str, default_port: u16) -> Result<String, Error> {
    let refused = |why: &str| {
        Err(Error::Config(format!(
            "--store-endpoints {given:?}: {why}, for example https://store1.example.com:{default_port}"
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
        Some("") => Ok(format!("{scheme}://{host}:{default_port}")),
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
        let found = match addresses(&given, 2379) {
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
