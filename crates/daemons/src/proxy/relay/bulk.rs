//! Streams of much in one direction, as COPY, a dump, or a large result: PostgreSQL hands them to its
//! socket in pieces of 8 KiB, and to hear of each piece costs more than to carry it. So once much has come
//! in a row, the kernel is to tell of it only when there is much at once (`SO_RCVLOWAT`, socket(7)), and
//! what is less than that is looked for after a pause.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use stolon_core::time::Instant;

/// So much has come in a row before it counts as a bulk: the last of it may come later by a pause, or nearly two, which
/// is to be little beside the time that the whole took.
const BULK: usize = 8 * 1024 * 1024;
/// Of less than this at once nothing is heard.
const TOLD: libc::c_int = 256 * 1024;
/// After so long without a byte it is looked whether there is less.
const PAUSE: Duration = Duration::from_millis(1);
/// A bulk that has brought less than this in such a pause is one no more.
const LITTLE: usize = 16 * 1024;

/// How much one way carries while nothing goes the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// So many bytes so far.
    Short(usize),
    /// A bulk: when to look what there is, unless something comes before.
    Bulk { due: Instant },
}

impl Default for Run {
    fn default() -> Self {
        Self::Short(0)
    }
}

impl Run {
    /// When to look what there is, because the kernel may have told of nothing.
    pub(super) const fn due(self) -> Option<Instant> {
        match self {
            Self::Short(_) => None,
            Self::Bulk { due } => Some(due),
        }
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// This way has carried so many bytes from its socket, and the other way so many.
    pub(super) fn goes_on(&mut self, own: usize, other: usize, from: &TcpStream, now: Instant) {
        match self {
            _ if other > 0 => self.ends(from),
            Self::Short(bytes) => {
                *bytes = bytes.saturating_add(own);
                if *bytes >= BULK && tell_of(from, TOLD) {
                    let due = now.after(PAUSE);
                    *self = Self::Bulk { due };
                }
            }
            Self::Bulk { due } if own < LITTLE && *due <= now => self.ends(from),
            Self::Bulk { due } if own > 0 => *due = now.after(PAUSE),
            Self::Bulk { .. } => {}
        }
    }

    /// Whatever is there by now, the kernel tells of at once.
    pub(super) fn ends(&mut self, from: &TcpStream) {
        if self.due().is_some() {
            tell_of(from, 1);
        }
        *self = Self::default();
    }
}

/// Has the kernel tell of a socket when so many bytes are there; false when it does not.
#[allow(
    unsafe_code,
    reason = "no crate in the tree sets SO_RCVLOWAT; the kernel reads an int of the length it is told"
)]
fn tell_of(socket: &TcpStream, bytes: libc::c_int) -> bool {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer is to a live int of the length told, for the whole call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    done == 0
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::{BULK, LITTLE, PAUSE, Run, TOLD};
    use crate::runtime::clock;

    fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a server");
        TcpStream::connect(listener.local_addr().expect("an address")).expect("a client")
    }

    #[allow(unsafe_code, reason = "as in what is tested")]
    fn told_of(socket: &TcpStream) -> libc::c_int {
        let (mut bytes, mut length) = (0, 4);
        // SAFETY: the pointers are to a live int and its length, for the whole call.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw mut bytes).cast(),
                &raw mut length,
            )
        };
        assert_eq!((done, length), (0, 4));
        bytes
    }

    #[test]
    fn a_bulk_goes_on_through_pauses_that_bring_enough_and_ends_with_one_that_does_not() {
        let (socket, begun) = (socket(), clock::now());
        let mut run = Run::default();
        run.goes_on(BULK - 1, 0, &socket, begun);
        assert_eq!((run.due(), told_of(&socket)), (None, 1));
        run.goes_on(1, 0, &socket, begun);
        let due = begun.after(PAUSE);
        assert_eq!((run.due(), told_of(&socket)), (Some(due), TOLD));
        // Nothing, before it is due.
        run.goes_on(0, 0, &socket, begun);
        assert_eq!(run.due(), Some(due));
        run.goes_on(LITTLE, 0, &socket, due);
        assert_eq!(run.due(), Some(due.after(PAUSE)));
        run.goes_on(LITTLE - 1, 0, &socket, due.after(PAUSE));
        assert_eq!((run, told_of(&socket)), (Run::default(), 1));
    }

    #[test]
    fn a_bulk_ends_when_something_goes_the_other_way() {
        let (socket, begun) = (socket(), clock::now());
        let mut run = Run::default();
        run.goes_on(BULK, 0, &socket, begun);
        assert_eq!(told_of(&socket), TOLD);
        run.goes_on(0, 1, &socket, begun);
        assert_eq!((run, told_of(&socket)), (Run::default(), 1));
    }
}
