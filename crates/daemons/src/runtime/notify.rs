//! Telling the service manager what it cannot see (`sd_notify`(3)).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that another process is the service's from now on. Nothing happens without a manager.
pub fn main_process(pid: u32) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
    .and_then(|address| {
        let text = format!("MAINPID={pid}");
        UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, pid, "cannot tell the service manager of the new main process");
    }
}
