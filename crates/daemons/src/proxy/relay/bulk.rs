//! Streams of much in one direction, as COPY, a dump, or a large result: PostgreSQL hands them to its
//! socket in pieces of 8 KiB, and to hear of each piece costs more than to carry it. So once much has come
//! in a row, the kernel is to tell of it only when there is much at once (`SO_RCVLOWAT`, socket(7)), and
//! what is less than that is looked for by the clock.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// So much has come in a row before it counts as a bulk: the last of it may come later by two ticks, which
/// is to be little beside the time that the whole took.
const BULK: usize = 8 * 1024 * 1024;
/// Of less than this at once nothing is heard before the next tick.
const LEAST: libc::c_int = 64 * 1024;
/// How often it is looked whether there is less.
pub(super) const TICK: Duration = Duration::from_micros(500);

/// How much one way carries while nothing goes the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// So many bytes so far.
    Short(usize),
    /// A bulk: whether something has come since the last tick.
    Bulk { moved: bool },
}

impl Default for Run {
    fn default() -> Self {
        Self::Short(0)
    }
}

impl Run {
    pub(super) const fn is_bulk(self) -> bool {
        matches!(self, Self::Bulk { .. })
    }

    /// This way has carried so many bytes from its socket, and the other way so many.
    pub(super) fn goes_on(&mut self, own: usize, other: usize, from: &TcpStream) {
        match self {
            _ if other > 0 => self.ends(from),
            Self::Short(bytes) => {
                *bytes = bytes.saturating_add(own);
                if *bytes >= BULK && tell_of(from, LEAST) {
                    *self = Self::Bulk { moved: true };
                }
            }
            Self::Bulk { moved } => *moved |= own > 0,
        }
    }

    /// A tick: whether to look what has come, because the kernel has told of nothing since the last one.
    /// Then the bulk is over.
    pub(super) fn ticks(&mut self, from: &TcpStream) -> bool {
        match self {
            Self::Short(_) => false,
            Self::Bulk { moved: true } => {
                *self = Self::Bulk { moved: false };
                false
            }
            Self::Bulk { moved: false } => {
                self.ends(from);
                true
            }
        }
    }

    fn ends(&mut self, from: &TcpStream) {
        if self.is_bulk() {
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
