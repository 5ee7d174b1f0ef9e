//! Handing listening sockets to a newer process of the same program, so that clients meet no moment
//! in which nobody listens.
//!
//! At SIGUSR2 the running process starts its program anew, by the name, arguments and environment
//! that it was started with itself. The two share a socket pair, which is the successor's standard
//! input: the sockets are in it before the successor begins, and the successor says there when it
//! takes over, before it accepts anybody. Each sees the end of the other as the end of that stream.

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, sockopt,
};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

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

/// A process that is to take over. Dropped before it does, it is ended.
#[derive(Debug)]
pub struct Successor {
    child: Option<Child>,
    channel: tokio::net::UnixStream,
    /// What it has said so far.
    said: Vec<u8>,
    until: Instant,
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
            .map_err(|error| {
                let program = program.display().to_string();
                let place = if program.contains('/') {
                    ""
                } else {
                    ", looked for in PATH"
                };
                Error::new(error.kind(), format!("{program}{place}: {error}"))
            })?;
        Self::new(child, ours)
    }

    fn new(child: Child, channel: UnixStream) -> std::io::Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self {
            child: Some(child),
            channel: tokio::net::UnixStream::from_std(channel)?,
            said: Vec::new(),
            until: Instant::now() + LIMIT,
        })
    }

    /// Waits until it takes over, for [`LIMIT`] after its start at most. One that is waited for no more has
    /// said nothing that another call would miss.
    ///
    /// # Errors
    ///
    /// When it does not; then it is to be dropped.
    pub async fn takes_over(&mut self) -> Result<(), String> {
        loop {
            let is_readable = tokio::time::timeout_at(self.until, self.channel.readable()).await;
            if is_readable.is_err() && self.withdraw() {
                return Ok(());
            }
            if is_readable.is_err() {
                return Err(format!("it had no way to a primary within {LIMIT:?}"));
            }
            match self.hear() {
                Heard::Ready => return Ok(()),
                Heard::Nothing => {}
                Heard::End => return Err("it ended before it was ready".to_owned()),
            }
        }
    }

    /// Its process, once it has taken over: it may not be ended any more. None: it cannot take over any
    /// more, and is to be dropped.
    ///
    /// Whoever it accepted after it said so is served by it, whether that was heard or not. What it says from
    /// now on it is told that nobody hears.
    pub fn taken_over(&mut self) -> Option<Child> {
        if self.withdraw() {
            self.child.take()
        } else {
            None
        }
    }

    /// Takes nothing more from it; whether it has said before that it takes over.
    fn withdraw(&mut self) -> bool {
        // What was said before is still there.
        let closed = rustix::net::shutdown(&self.channel, Shutdown::Read);
        tracing::debug!(?closed, "hearing no successor any more");
        while self.said != READY {
            match self.channel_read() {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }

    fn hear(&mut self) -> Heard {
        let (channel, said) = (&self.channel, &mut self.said);
        let heard = channel.try_io(Interest::READABLE, || read(channel, said));
        match heard {
            Ok(_) if self.said == READY => Heard::Ready,
            Ok(0) => Heard::End,
            Ok(_) => Heard::Nothing,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    fn channel_read(&mut self) -> std::io::Result<usize> {
        read(&self.channel, &mut self.said)
    }
}

/// What a look for a successor's word came to.
enum Heard {
    Ready,
    Nothing,
    End,
}

/// Reads some of [`READY`], whatever the runtime knows of the channel.
fn read(channel: &tokio::net::UnixStream, said: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut bytes = [0; READY.len()];
    let missing = READY.len().saturating_sub(said.len());
    let bytes = bytes.get_mut(..missing).unwrap_or_default();
    let got = rustix::net::recv(channel, &mut *bytes, RecvFlags::DONTWAIT)?.0;
    said.extend_from_slice(bytes.get(..got).unwrap_or_default());
    Ok(got)
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.child.is_none() || self.withdraw() {
            return;
        }
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

    /// Tells it that this process takes over, which is to accept nobody before: only whoever has said so is
    /// left alive. False: it does not hear that. Then it has ended or ends this process, and [`Self::gone`]
    /// tells which.
    pub fn take_over(&self) -> bool {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // The channel is empty, and has room for all of it.
        let told = rustix::net::send(&self.channel, READY, flags);
        tracing::debug!(?told, "taking over");
        told.is_ok()
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
    use super::{Passed, Predecessor, Successor, receive, send};
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    /// A successor, as the process before it sees it, and what that is to the successor.
    fn both() -> (Successor, Predecessor) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut command = tokio::process::Command::new("sleep");
        let child = command.arg("60").kill_on_drop(true).spawn();
        let successor = Successor::new(child.expect("a process"), ours).expect("a successor");
        theirs.set_nonblocking(true).expect("set");
        let channel = tokio::net::UnixStream::from_std(theirs).expect("a channel");
        (successor, Predecessor { channel })
    }

    #[tokio::test]
    async fn a_successor_that_has_said_that_it_takes_over_is_not_ended_unheard() {
        let (mut successor, predecessor) = both();
        assert!(predecessor.take_over());
        let mut child = successor.taken_over().expect("it took over");
        drop(successor);
        assert_eq!(child.try_wait().expect("a process"), None);
    }

    #[tokio::test]
    async fn a_successor_that_is_wanted_no_more_can_not_take_over() {
        let (mut successor, mut predecessor) = both();
        assert!(successor.taken_over().is_none());
        assert!(!predecessor.take_over());
        // It accepts nobody before it knows that the one before it is gone.
        let mut gone = std::pin::pin!(predecessor.gone());
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(gone.as_mut().poll(context).is_pending())
        });
        assert!(waits.await);
        drop(successor);
        gone.await;
    }

    #[tokio::test]
    async fn a_successor_takes_over_once() {
        let (mut successor, predecessor) = both();
        assert!(predecessor.take_over());
        assert_eq!(successor.takes_over().await, Ok(()));
        assert!(successor.taken_over().is_some());
        let (mut successor, predecessor) = both();
        drop(predecessor);
        assert!(successor.takes_over().await.is_err());
        assert!(successor.taken_over().is_none());
    }

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
