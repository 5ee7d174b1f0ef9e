//! Handing listening sockets to a newer process of the same program, so that clients meet no moment
//! in which nobody listens.
//!
//! At SIGUSR2 the running process starts its program anew, by the name, arguments and environment
//! that it was started with itself. The two share a socket pair, which is the successor's standard
//! input: the sockets are in it before the successor begins, and the successor says there when it
//! takes over. Each sees the end of the other as the end of that stream.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::passed::{self, MOST, Passed, VARIABLES};

/// Tells a process that it succeeds another.
const SUCCEEDS: &str = "STOLON_SUCCEEDS";
/// What the successor says when it takes over.
const READY: &[u8] = b"ready\n";
/// The longest list of names.
const LONGEST_LIST: usize = 1024;
/// How long a successor may take to take over.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Says when a successor is wanted.
#[derive(Debug)]
pub struct Wanted(Option<Signal>);

impl Wanted {
    /// At SIGUSR2, which does not end the program from now on.
    pub fn on_signal() -> Self {
        let wanted = signal(SignalKind::user_defined2());
        if let Err(error) = &wanted {
            tracing::warn!(%error, "a SIGUSR2 will end this program");
        }
        Self(wanted.ok())
    }

    /// Waits until one is.
    pub async fn requested(&mut self) {
        let received = match &mut self.0 {
            Some(wanted) => wanted.recv().await,
            None => None,
        };
        if received.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// A process that is to take over. Dropped, it is ended.
#[derive(Debug)]
pub struct Successor {
    child: Option<Child>,
    channel: tokio::net::UnixStream,
}

impl Successor {
    /// Starts it with these sockets.
    ///
    /// # Errors
    ///
    /// When the program cannot be started any more by the name that this process was started by.
    pub fn start(sockets: &[Passed]) -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        send(&ours, sockets)?;
        ours.set_nonblocking(true)?;
        let channel = tokio::net::UnixStream::from_std(ours)?;
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(&program);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        let child = command
            .args(words)
            .env(SUCCEEDS, std::process::id().to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|error| Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        Ok(Self {
            child: Some(child),
            channel,
        })
    }

    /// Waits until it takes over, for [`LIMIT`] at most; its process.
    ///
    /// # Errors
    ///
    /// When it does not; then it is ended.
    pub async fn takes_over(mut self) -> Result<Child, String> {
        let mut said = [0; READY.len()];
        let heard = tokio::time::timeout(LIMIT, self.channel.read_exact(&mut said)).await;
        match heard {
            Ok(Ok(_)) if said == *READY => {}
            Ok(_) => return Err("it ended before it was ready".to_owned()),
            Err(_) => return Err(format!("it had no way to a primary within {LIMIT:?}")),
        }
        let child = self.child.take();
        child.ok_or_else(|| "it was ended".to_owned())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Gone already is as good; the runtime reaps it.
            let _ = child.start_kill();
        }
    }
}

/// The process that this one is to succeed.
#[derive(Debug)]
pub struct Predecessor {
    channel: tokio::net::UnixStream,
}

impl Predecessor {
    /// The predecessor, and its sockets; none: this process succeeds nobody.
    ///
    /// # Errors
    ///
    /// When this process is told that it is a successor, and gets no sockets.
    pub fn of_this_process() -> Result<Option<(Self, Vec<Passed>)>, passed::Error> {
        if std::env::var_os(SUCCEEDS).is_none() {
            return Ok(None);
        }
        let failed = |error: Error| passed::Error(format!("{SUCCEEDS} is set: {error}"));
        let taken = || {
            let channel = std::io::stdin().as_fd().try_clone_to_owned()?;
            if sockopt::socket_domain(&channel)? != AddressFamily::UNIX {
                return Err(Error::from(ErrorKind::InvalidInput));
            }
            let channel = UnixStream::from(channel);
            let sockets = receive(&channel)?;
            channel.set_nonblocking(true)?;
            Ok((channel, sockets))
        };
        let (channel, sockets) = taken().map_err(failed)?;
        for Passed { name, socket, .. } in &sockets {
            passed::listens(name, socket)?;
        }
        let channel = tokio::net::UnixStream::from_std(channel).map_err(failed)?;
        Ok(Some((Self { channel }, sockets)))
    }

    /// Tells it that this process takes over.
    pub fn take_over(self) {
        // One that is gone does not need to know.
        let told = self.channel.try_write(READY);
        tracing::debug!(?told, "taking over");
    }

    /// Waits for its end.
    pub async fn gone(&mut self) {
        // It says nothing.
        let _ = self.channel.read(&mut [0; 1]).await;
    }
}

/// Sends sockets, with a line for each: what it is for, and whether somebody else keeps it.
fn send(channel: &UnixStream, sockets: &[Passed]) -> std::io::Result<()> {
    let line = |passed: &Passed| format!("{} {}\n", u8::from(passed.kept), passed.name);
    let lines: String = sockets.iter().map(line).collect();
    if lines.is_empty() || lines.len() > LONGEST_LIST || sockets.len() > MOST {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    let files: Vec<BorrowedFd<'_>> = sockets.iter().map(|passed| passed.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    let bytes = [IoSlice::new(lines.as_bytes())];
    // The stream is empty, and has room for all of it.
    sendmsg(channel, &bytes, &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives what [`send`] sent.
fn receive(channel: &UnixStream) -> std::io::Result<Vec<Passed>> {
    let mut lines = [0; LONGEST_LIST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut lines)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let files = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<OwnedFd> = files.flatten().collect();
    let lines = String::from_utf8_lossy(lines.get(..got.bytes).unwrap_or_default());
    let names: Vec<(&str, &str)> = lines
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    if names.is_empty() || names.len() != files.len() {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    let passed = |((kept, name), socket): ((&str, &str), OwnedFd)| Passed {
        name: name.to_owned(),
        kept: kept == "1",
        socket,
    };
    Ok(names.into_iter().zip(files).map(passed).collect())
}

#[cfg(test)]
mod tests {
    use super::{Passed, receive, send};
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sockets_arrive_with_what_they_are_for() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a socket");
        let sockets = [listener(), listener()];
        let addresses = sockets
            .each_ref()
            .map(|socket| socket.local_addr().expect("an address"));
        let [clients, metrics] = sockets;
        let passed = |name: &str, kept, socket: TcpListener| Passed {
            name: name.to_owned(),
            kept,
            socket: socket.into(),
        };
        let sent = [
            passed("stolon-proxy.socket", true, clients),
            passed("metrics", false, metrics),
        ];
        send(&ours, &sent).expect("sent");
        // Here they may be closed: they are on their way.
        drop(sent);
        let got = receive(&theirs).expect("received");
        let seen: Vec<_> = got
            .into_iter()
            .map(|Passed { name, kept, socket }| {
                (
                    name,
                    kept,
                    TcpListener::from(socket).local_addr().expect("an address"),
                )
            })
            .collect();
        let expected = [
            ("stolon-proxy.socket".to_owned(), true, addresses[0]),
            ("metrics".to_owned(), false, addresses[1]),
        ];
        assert_eq!(seen, expected);
        assert!(receive(&theirs).is_err(), "nothing more is there");
    }
}
