//! Who a client is: its own address, or the one that a load balancer before this proxy names in a
//! header of the PROXY protocol, version 1 or 2 (HAProxy's `proxy-protocol.txt`).

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// What both versions have at the least; version 1 goes on to the end of its line.
const LEAST: usize = 12;
/// The fixed part of version 2: its signature, what it is, and how long the rest is.
const FIXED: usize = 16;
/// The longest header of version 1, by the specification.
const LONGEST_LINE: usize = 107;
/// The longest header that is read: addresses of version 2 take 216 bytes at most, what is beyond are
/// extensions such as the client's certificate.
pub(crate) const LONGEST: usize = 4096;

/// The networks whose connections begin with a header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Introducers(Vec<IpNet>);

impl Introducers {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    /// Whether connections from there begin with a header.
    pub(super) fn include(&self, peer: IpAddr) -> bool {
        // A socket that takes both kinds shows IPv4 clients by addresses of IPv6.
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }

    /// The client's address. Of a connection that begins with a header that is read, and nothing after
    /// it; of any other nothing is.
    ///
    /// # Errors
    ///
    /// When a connection that is to begin with a header does not, within `patience`.
    pub(super) async fn client(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: SocketAddr,
        patience: Duration,
    ) -> std::io::Result<SocketAddr> {
        if !self.include(peer.ip()) {
            return Ok(peer);
        }
        let named = timeout(patience, named(stream)).await??;
        Ok(named.unwrap_or(peer))
    }
}

/// Reads a header: the client that it names; none: it is the balancer's own connection, or one that it
/// has no address of.
pub(crate) async fn named(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<Option<SocketAddr>> {
    let first = stream.read_u8().await?;
    if first != b'P' && first != b'\r' {
        // At once: a client of PostgreSQL begins with less than a header, and waits for the answer.
        return Err(malformed("something else"));
    }
    let mut header = vec![first];
    header.resize(LEAST, 0);
    stream
        .read_exact(header.get_mut(1..).unwrap_or_default())
        .await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED, 0);
        stream
            .read_exact(header.get_mut(LEAST..).unwrap_or_default())
            .await?;
        let rest = match header.get(FIXED - 2..) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        if FIXED + rest > LONGEST {
            return Err(malformed(&format!("{rest} bytes long")));
        }
        header.resize(FIXED + rest, 0);
        stream
            .read_exact(header.get_mut(FIXED..).unwrap_or_default())
            .await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LONGEST_LINE {
                return Err(malformed("a line without an end"));
            }
            // Nothing that follows the line may be taken.
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(malformed("something else"));
    }
    // What follows this word up to the end of the line has no meaning.
    if header.starts_with(b"PROXY UNKNOWN") {
        return Ok(None);
    }
    understood(&header)
}

fn understood(header: &[u8]) -> std::io::Result<Option<SocketAddr>> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
            v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
                Some((ip.source_address, ip.source_port).into())
            }
            (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
                Some((ip.source_address, ip.source_port).into())
            }
            (v2::Command::Local, _) | (_, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => {
                None
            }
        }),
        HeaderResult::V1(Err(error)) => Err(malformed(&error.to_string())),
        HeaderResult::V2(Err(error)) => Err(malformed(&error.to_string())),
    }
}

fn malformed(what: &str) -> Error {
    let text = format!("a header of the PROXY protocol was to come, here is {what}");
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{Introducers, LONGEST_LINE, named};
    use ppp::v2;

    async fn read(sent: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let mut stream = sent;
        let named = named(&mut stream).await;
        (named.map_err(|error| error.to_string()), stream.to_vec())
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn binary(command: v2::Command, from: &str, to: &str, extension: &[u8]) -> Vec<u8> {
        let addresses = (address(from), address(to));
        let kind = v2::Version::Two | command;
        let builder = v2::Builder::with_addresses(kind, v2::Protocol::Stream, addresses);
        let builder = builder.write_tlv(v2::Type::NoOp, extension).expect("room");
        builder.build().expect("a header")
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_nothing_after_it_is_taken() {
        let start_up = b"\0\0\0\x08\0\x03\0\0";
        let with = |header: &[u8]| [header, start_up].concat();
        let (v4, v6) = ("10.1.2.3:41000", "[2001:db8::7]:41000");
        let proxied = v2::Command::Proxy;
        for (header, expected) in [
            (
                b"PROXY TCP4 10.1.2.3 10.0.0.1 41000 5432\r\n".to_vec(),
                Some(v4),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 41000 5432\r\n".to_vec(),
                Some(v6),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (
                b"PROXY UNKNOWN what it is is nobody's business\r\n".to_vec(),
                None,
            ),
            (binary(proxied, v4, "10.0.0.1:5432", &[]), Some(v4)),
            (
                binary(proxied, v6, "[2001:db8::1]:5432", &[7; 900]),
                Some(v6),
            ),
            (binary(v2::Command::Local, v4, "10.0.0.1:5432", &[]), None),
        ] {
            let (named, rest) = read(&with(&header)).await;
            assert_eq!(named, Ok(expected.map(address)), "{header:?}");
            assert_eq!(rest, start_up, "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_said_and_little_of_it_is_read() {
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 1000]].concat();
        let long = binary(v2::Command::Proxy, "10.1.2.3:1", "10.0.0.1:2", &[7; 5000]);
        for (sent, words) in [
            (b"\0\0\0\x0e\0\x03\0\0user\0\0".as_slice(), "something else"),
            (b"PROXY TCP9 a b c d\r\n", "PROXY protocol was to come"),
            (
                b"PROXY TCP4 10.1.2.3 10.0.0.1 99999 1\r\n",
                "PROXY protocol was to come",
            ),
            (&endless, "a line without an end"),
            (&long, "bytes long"),
            (b"PROXY TCP4 10.1", "end of file"),
            (b"", "end of file"),
        ] {
            let (named, rest) = read(sent).await;
            assert!(
                named.as_ref().is_err_and(|error| error.contains(words)),
                "{named:?}"
            );
            assert!(sent.len() - rest.len() <= LONGEST_LINE, "{words}");
        }
    }

    #[tokio::test]
    async fn only_networks_that_are_named_introduce_clients() {
        let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network"));
        let introducers = Introducers::new(&networks);
        let header = b"PROXY TCP4 192.168.7.7 10.0.0.1 5 6\r\n".as_slice();
        let limit = std::time::Duration::from_secs(20);
        for (peer, expected) in [
            ("10.9.9.9:1", "192.168.7.7:5"),
            ("[::ffff:10.9.9.9]:1", "192.168.7.7:5"),
            ("[2001:db8::9]:1", "192.168.7.7:5"),
            ("11.9.9.9:1", "11.9.9.9:1"),
            ("[::1]:1", "[::1]:1"),
        ] {
            let (mut stream, peer) = (header, address(peer));
            let client = introducers.client(&mut stream, peer, limit).await;
            assert_eq!(client.expect("a client"), address(expected));
            assert_eq!(stream.is_empty(), address(expected) != peer, "{peer}");
        }
    }

    #[tokio::test]
    async fn who_is_silent_is_not_waited_for() {
        let introducers = Introducers::new(&["127.0.0.1/32".parse().expect("a network")]);
        let (mut silent, _other) = tokio::io::duplex(64);
        let patience = std::time::Duration::from_millis(20);
        let client = introducers.client(&mut silent, address("127.0.0.1:1"), patience);
        let error = client.await.expect_err("it says nothing");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
