//! Listening sockets that a process is started with: by a service manager, as `sd_listen_fds`(3) has
//! it, or by the process that it succeeds.

use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, sockopt};

/// The first of the passed sockets (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More are not taken.
pub(super) const MOST: usize = 16;
/// What a service manager sets, for one process alone.
pub(super) const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A listening socket.
#[derive(Debug)]
pub struct Passed {
    /// What it is for.
    pub name: String,
    /// Whether somebody else has it open too, and goes on listening when this process does not.
    pub kept: bool,
    /// The socket.
    pub socket: OwnedFd,
}

impl Passed {
    /// One more hold of a socket that this process listens on, to pass it on.
    ///
    /// # Errors
    ///
    /// When no more files can be opened.
    pub fn share(listener: &impl AsFd, name: &str, kept: bool) -> std::io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            kept,
            socket: listener.as_fd().try_clone_to_owned()?,
        })
    }

    /// The socket, to accept with; it does not block.
    ///
    /// # Errors
    ///
    /// When that cannot be had.
    pub fn listener(self) -> std::io::Result<TcpListener> {
        let socket = TcpListener::from(self.socket);
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// What was passed cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the sockets that this process was started with: {0}")]
pub struct Error(pub String);

/// The sockets that a service manager passed to this process. The second call finds none.
///
/// # Errors
///
/// When one is not a TCP socket that listens.
pub fn by_manager() -> Result<Vec<Passed>, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let ours = variable(VARIABLES[0]) == std::process::id().to_string();
    if !ours || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let count = variable(VARIABLES[1]);
    let count = count.parse().ok().filter(|count| *count <= MOST);
    let count = count.ok_or_else(|| Error(format!("LISTEN_FDS is not a number up to {MOST}")))?;
    let names = variable(VARIABLES[2]);
    let mut names = names.split(':');
    (FIRST..)
        .take(count)
        .map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = adopt(number);
            let set = fcntl_setfd(&socket, FdFlags::CLOEXEC);
            set.map_err(|error| Error(format!("descriptor {number}: {error}")))?;
            listens(&name, &socket)?;
            Ok(Passed {
                name,
                kept: true,
                socket,
            })
        })
        .collect()
}

#[allow(
    unsafe_code,
    reason = "a descriptor that a process is started with has no owner in it; taking it over is the \
              protocol of sd_listen_fds(3)"
)]
fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID says that this number is this process's and is to be taken over; it is taken
    // once. One that is not open after all fails the first call that is made with it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Refuses what no client of PostgreSQL can come to.
pub(super) fn listens(name: &str, socket: &OwnedFd) -> Result<(), Error> {
    let refused = |why: &str| Err(Error(format!("{name:?} {why}")));
    match sockopt::socket_domain(socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => {}
        Ok(_) => return refused("is not a TCP socket (ListenStream= with a port is expected)"),
        Err(error) => return refused(&format!("is not a socket: {error}")),
    }
    match sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => refused("does not listen (Accept=no is expected)"),
        Err(error) => refused(&format!("cannot be looked at: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::listens;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_listening_tcp_sockets_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let client = client.expect("a client").into();
        let datagram = UdpSocket::bind("127.0.0.1:0").expect("a socket").into();
        let folder = tempfile::tempdir().expect("a folder");
        let local = UnixListener::bind(folder.path().join("s")).expect("a socket");
        let file = std::fs::File::open("/dev/null").expect("a file").into();
        for (socket, words) in [
            (client, "does not listen"),
            (datagram, "does not listen"),
            (local.into(), "not a TCP socket"),
            (file, "not a socket"),
        ] {
            let refused = listens("x", &socket).expect_err("refused").to_string();
            assert!(refused.contains(words), "{refused}");
        }
        listens("x", &listener.into()).expect("taken");
    }
}
