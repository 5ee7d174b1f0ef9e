//! Ports for the servers of tests: a module of everything that starts some.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that Linux gives to connections (`ip_local_port_range` begins at 32768), so that
/// none takes the port before its server does, and below those of `stolonctl dev`.
const FIRST: u16 = 10_000;
const COUNT: u16 = 15_000;

/// A port of 127.0.0.1 that nobody listens on, and that this process is not given again.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side begin at different places.
    let process = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let offset = (u32::from(process) * 101 + u32::from(given)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).unwrap_or(0);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}
