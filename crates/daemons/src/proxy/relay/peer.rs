//! Noticing that the other end of a connection is gone (scenario D2), and never taking one that is
//! only slow for it.
//!
//! Keepalive finds the dead peer of an idle connection. Data on its way suspends it, and then the
//! kernel tries for a quarter of an hour and more. `TCP_USER_TIMEOUT` would shorten that, but it also
//! ends a connection whose peer answers every probe and only does not read ("buffered data may
//! remain untransmitted due to zero window size", tcp(7)): a COPY that waits for a lock. So the
//! silence of a peer is measured here: nothing acknowledged although something was asked several
//! times.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stolon_core::time::Instant;

use crate::proxy::config::Keepalive;

/// How long a peer may be silent while data waits, where keepalive flags do not say.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many tries in a row went unanswered before silence means anything. A peer that has not read
/// for long is asked every two minutes only: there it takes up to six to notice.
const LEAST_TRIES: u8 = 3;

/// Sets a socket so that the dead peer of an idle connection is noticed, and small messages are not
/// held back; or one that listens, for those it accepts. A socket without these still works.
pub(super) fn prepare(socket: &impl AsFd, keepalive: Keepalive) {
    let mut settings = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        settings = settings.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        settings = settings.with_interval(interval);
    }
    if let Some(count) = keepalive.count {
        settings = settings.with_retries(count);
    }
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&settings);
}

/// Sets a socket to a server. When it is closed otherwise than at the end of both streams, as by the end of
/// this process, the kernel does not go on to deliver what it still has: the server may be one that is
/// deposed by then (I1).
pub(super) fn prepare_server(socket: &impl AsFd, keepalive: Keepalive) {
    prepare(socket, keepalive);
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// How long a peer may be silent while data waits: as long as when the connection is idle.
pub(super) fn patience(keepalive: Keepalive) -> Duration {
    match (keepalive.idle, keepalive.interval, keepalive.count) {
        (Some(idle), Some(interval), Some(count)) => idle + interval.saturating_mul(count),
        _ => PATIENCE,
    }
}

/// Whether the peer has closed its end, or the connection is gone.
pub(super) fn has_left(stream: &impl AsRawFd) -> bool {
    tcp_info(stream).map_or(true, |[state, ..]| state != ESTABLISHED)
}

/// How many bytes have come from the peer so far.
pub(super) fn received(stream: &impl AsRawFd) -> u64 {
    let info = tcp_info(stream).ok();
    let bytes = info.and_then(|info| info.get(BYTES_RECEIVED..)?.first_chunk().copied());
    bytes.map_or(0, u64::from_ne_bytes)
}

/// What the kernel knows of a peer (`struct tcp_info`, linux/tcp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    /// Data was sent and not acknowledged, or waits for the peer to read.
    waiting: bool,
    /// Retransmissions, or questions whether the peer reads again, without any answer since.
    tries: u8,
    /// How long ago the peer last acknowledged anything.
    answered: Duration,
}

impl Sight {
    fn of(stream: &impl AsRawFd) -> std::io::Result<Self> {
        tcp_info(stream).map(|info| Self::from_info(&info))
    }

    fn from_info(info: &[u8; INFO]) -> Self {
        let number = |at: usize| {
            let bytes = info.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.copied().map_or(0, u32::from_ne_bytes)
        };
        let [_, _, retransmits, probes, ..] = *info;
        // Of the probes only those count that ask whether the peer reads again: there are others,
        // of keepalive, which ends connections by itself.
        let unsent = number(NOTSENT_BYTES) > 0;
        let waiting = number(UNACKED) > 0 || unsent;
        Self {
            waiting,
            tries: retransmits.max(if unsent { probes } else { 0 }),
            answered: Duration::from_millis(u64::from(number(LAST_ACK_RECV))),
        }
    }
}

/// How long a peer has been silent while data waited for it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Silence {
    since: Option<Instant>,
}

impl Silence {
    /// Looks at a peer: whether it has been silent for `patience`.
    pub(super) fn is_too_long(
        &mut self,
        stream: &impl AsRawFd,
        now: Instant,
        patience: Duration,
    ) -> bool {
        // What cannot be looked at ends by itself: its carrying meets the same error.
        Sight::of(stream)
            .is_ok_and(|sight| self.length(now, sight) >= patience && sight.tries >= LEAST_TRIES)
    }

    fn length(&mut self, now: Instant, sight: Sight) -> Duration {
        if !sight.waiting {
            self.since = None;
            return Duration::ZERO;
        }
        let since = *self.since.get_or_insert(now);
        let length = now.since(since);
        if sight.answered < length {
            self.since = Some(now);
            return Duration::ZERO;
        }
        length
    }
}

/// What is read of `struct tcp_info`: up to `tcpi_notsent_bytes`, in Linux since 4.6.
const INFO: usize = 148;
/// `tcpi_state` of a connection that both ends keep open (`TCP_ESTABLISHED`).
const ESTABLISHED: u8 = 1;
const UNACKED: usize = 24;
const LAST_ACK_RECV: usize = 56;
const BYTES_RECEIVED: usize = 128;
const NOTSENT_BYTES: usize = 144;

#[allow(
    unsafe_code,
    reason = "no crate in the tree gives TCP_INFO; the kernel writes at most the length it is told \
              into a buffer of that length, which is valid whatever bytes it holds"
)]
fn tcp_info(stream: &impl AsRawFd) -> std::io::Result<[u8; INFO]> {
    let mut info = [0_u8; INFO];
    let mut length = libc::socklen_t::try_from(INFO).unwrap_or(0);
    // SAFETY: both pointers are to live, writable memory of the sizes told, for the whole call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok(info)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::{INFO, LEAST_TRIES, NOTSENT_BYTES, Sight, Silence, UNACKED};
    use std::time::Duration;
    use stolon_core::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a peer was silent after looks at these seconds, each with what was seen.
    fn silence(looks: &[(u32, bool, u32)]) -> Duration {
        let mut silence = Silence::default();
        let mut length = Duration::ZERO;
        for (at, waiting, answered) in looks {
            let sight = Sight {
                waiting: *waiting,
                tries: LEAST_TRIES,
                answered: SECOND * *answered,
            };
            length = silence.length(Instant::from_boot(SECOND * *at), sight);
        }
        length
    }

    #[test]
    fn silence_counts_from_the_first_look_that_found_data_waiting() {
        assert_eq!(silence(&[(100, true, 90), (110, true, 100)]), 10 * SECOND);
    }

    #[test]
    fn any_answer_ends_a_silence() {
        // A peer that does not read answers each question whether it does.
        let looks = [(100, true, 90), (110, true, 2), (112, true, 4)];
        assert_eq!(silence(&looks), 2 * SECOND);
        let looks = [(100, true, 90), (110, false, 100), (120, true, 110)];
        assert_eq!(silence(&looks), Duration::ZERO);
    }

    #[test]
    fn probes_count_only_when_there_is_something_to_send() {
        let mut info = [0; INFO];
        [info[2], info[3]] = [1, 9];
        info[UNACKED] = 1;
        assert_eq!(Sight::from_info(&info).tries, 1);
        info[NOTSENT_BYTES] = 1;
        assert_eq!(Sight::from_info(&info).tries, 9);
        let idle = [0; INFO];
        assert!(!Sight::from_info(&idle).waiting);
    }
}
