//! Carrying bytes one way.

use std::io::{Error, ErrorKind};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::permit::Permit;

/// What is carried at a time.
const BUFFER: usize = 16 * 1024;
/// How often in a row one connection may carry before others, timers and the store get their turn.
/// The sockets of a fast transfer are always ready, and waiting for a ready socket never yields.
const TURN: u32 = 16;

/// Carries bytes one way until the end of the stream, or until `last` says that nothing more is to
/// be taken; then the end is passed on.
pub(super) async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    permit: &Permit,
    last: &CancellationToken,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut in_a_row = 0;
    loop {
        in_a_row += 1;
        if in_a_row >= TURN {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            () = last.cancelled() => break,
            ready = from.readable() => ready?,
        }
        let count = match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        hand_over(buffer.get(..count).unwrap_or_default(), to, permit).await?;
    }
    rustix::net::shutdown(to, rustix::net::Shutdown::Write).map_err(Error::from)
}

async fn hand_over(mut bytes: &[u8], to: &TcpStream, permit: &Permit) -> std::io::Result<()> {
    while !bytes.is_empty() {
        // By the clock and not by what others have noticed: this process may have been paused. That
        // it is paused between this look and the write is all that is left to chance.
        if !permit.holds() {
            return Err(Error::from(ErrorKind::PermissionDenied));
        }
        match to.try_write(bytes) {
            Ok(0) => return Err(Error::from(ErrorKind::WriteZero)),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
