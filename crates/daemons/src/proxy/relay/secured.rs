//! A client whose TLS ends here. What it says goes on to the primary as it was before it was
//! encrypted, under the same permit as the bytes of others: looked at before each hand-over to a socket.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::greeting;
use super::super::tls::{Termination, Wish};
use super::doors::{Connection, Door};
use super::hold::Left;
use super::peer::{self, Silence};
use super::permit::Permit;
use super::serve::{REFUSAL_LIMIT, admitted, may_be_told};
use super::session::{BROKEN, CLIENT, DRAIN, Guest, SERVER, SILENT_AFTER};
use super::{Shared, abort};
use crate::runtime::clock;

/// What is taken at a time: what fits into one TLS record (RFC 8446, 5.1).
const BUFFER: usize = 16 * 1024;
/// The longest time between two looks whether a peer is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Serves one client that is to speak TLS from here on.
pub(super) async fn serve(
    client: TcpStream,
    (from, place): (SocketAddr, OwnedSemaphorePermit),
    (wish, door): (Wish, Door),
    tls: &Termination,
    shared: &Arc<Shared>,
) {
    let client = Arc::new(client);
    let wire = Wire::new(client.clone());
    let shaken = timeout(REFUSAL_LIMIT, tls.acceptor().accept(wire)).await;
    let shaken = shaken.map_err(Error::from).flatten().and_then(|stream| {
        // Without a name for what is to follow, another protocol's server could be mistaken for this.
        let is_named = stream.get_ref().1.alpn_protocol().is_some();
        let named = is_named || wish != Wish::DirectTls;
        named
            .then_some(stream)
            .ok_or_else(|| Error::other("no ALPN"))
    });
    let mut stream = match shaken {
        Ok(stream) => stream,
        Err(error) => {
            shared.metrics.handshakes_failed.inc();
            return tracing::debug!(client = %from, %error, "a TLS handshake failed");
        }
    };
    match admitted(&client, shared, door).await {
        Ok((permit, server)) => {
            tracing::debug!(client = %from, "letting a client through, by TLS until here");
            match begin(&client, &server, &permit, shared, (from, place)) {
                Ok(Some(_guest)) => carry_both(stream, client, server, &permit, shared).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, client = %from, "cannot carry a client"),
            }
        }
        Err(Left::Refused(why)) => {
            let why = door.refusal(why);
            tracing::debug!(client = %from, ?why, "refusing a client");
            if let Some(_place) = may_be_told(&why, shared).await {
                drop(timeout(REFUSAL_LIMIT, greeting::answer(&mut stream, &why)).await);
            }
        }
        Err(Left::Gone) => tracing::debug!(client = %from, "a client did not wait"),
    }
}

/// Enters a session, unless its permit has ended meanwhile.
fn begin(
    client: &TcpStream,
    server: &TcpStream,
    permit: &Arc<Permit>,
    shared: &Arc<Shared>,
    (from, place): (SocketAddr, OwnedSemaphorePermit),
) -> std::io::Result<Option<Guest>> {
    let held = |stream: &TcpStream| {
        let held = stream.as_fd().try_clone_to_owned()?;
        Ok::<_, Error>(Arc::new(std::net::TcpStream::from(held)))
    };
    let connection = Connection {
        #[cfg(test)]
        client: held(client)?,
        server: held(server)?,
        permit: permit.clone(),
    };
    let Some(id) = shared.doors.enter(connection) else {
        abort(server);
        abort(client);
        return Ok(None);
    };
    Ok(Some(Guest::new(
        shared.clone(),
        (id, permit.clone()),
        from,
        place,
    )))
}

async fn carry_both(
    stream: TlsStream<Wire>,
    client: Arc<TcpStream>,
    server: TcpStream,
    permit: &Arc<Permit>,
    shared: &Shared,
) {
    stream.get_ref().0.bind(permit.clone());
    let (from_client, to_client) = tokio::io::split(stream);
    let server = Arc::new(server);
    let (from_server, to_server) = (Wire::new(server.clone()), Wire::new(server.clone()));
    to_server.bind(permit.clone());
    let never = CancellationToken::new();
    let (last, metrics) = (&shared.last, &shared.metrics);
    let first = OnceLock::new();
    let up = async {
        carry(from_client, to_server, last, &metrics.to_server).await?;
        first.get_or_init(|| if last.is_cancelled() { DRAIN } else { CLIENT });
        Ok(())
    };
    let down = async {
        carry(from_server, to_client, &never, &metrics.to_client).await?;
        first.get_or_init(|| SERVER);
        Ok::<(), Error>(())
    };
    let both = async { tokio::try_join!(up, down) };
    let whole = tokio::select! {
        both = both => {
            if both.is_ok() || permit.holds() {
                let by = both.ok().and(first.get());
                metrics.ended(by.copied().unwrap_or(BROKEN));
                by.is_some()
            } else {
                false
            }
        }
        () = gone([&client, &server], permit, peer::patience(shared.keepalive)) => {
            if permit.holds() {
                shared.metrics.closed("peer-lost");
            }
            false
        }
    };
    if !whole {
        // One side is broken or gone, or the permit ended: neither may believe that it goes on.
        abort(&*server);
        abort(&*client);
    }
}

/// Returns when one of the peers is gone; notes once whether the server says anything at all.
async fn gone([client, server]: [&TcpStream; 2], permit: &Permit, patience: Duration) {
    let mut silences = [Silence::default(); 2];
    let mut answer_due = Some(clock::now().after(SILENT_AFTER));
    loop {
        tokio::time::sleep((patience / 4).min(LONGEST_PAUSE)).await;
        let now = clock::now();
        if answer_due.take_if(|due| *due <= now).is_some() && peer::received(client) > 0 {
            permit.reach.answered(peer::received(server) > 0);
        }
        for (stream, silence) in [client, server].into_iter().zip(&mut silences) {
            if silence.is_too_long(stream, now, patience) {
                return;
            }
        }
    }
}

/// Carries bytes one way until the end of the stream, or until `last` says that nothing more is to
/// be taken; then the end is passed on.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    last: &CancellationToken,
    carried: &Counter,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            () = last.cancelled() => break,
            read = from.read(&mut buffer) => read,
        };
        let count = match read {
            Ok(0) => break,
            Ok(count) => count,
            // Many clients close without the word of TLS that it is the end. PostgreSQL's own
            // messages have lengths: what was cut short is not taken for a whole one.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        };
        carried.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        to.write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        to.flush().await?;
    }
    to.shutdown().await
}

/// A socket that others may close, and that takes bytes only while its permit holds.
struct Wire {
    stream: Arc<TcpStream>,
    /// None yet: nothing of a session is said so far.
    permit: OnceLock<Arc<Permit>>,
}

impl Wire {
    fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            permit: OnceLock::new(),
        }
    }

    /// From now on it takes bytes only while this permit holds.
    fn bind(&self, permit: Arc<Permit>) {
        // It is bound once.
        let _ = self.permit.set(permit);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            // By the clock and not by what others have noticed: this process may have been paused.
            if self.permit.get().is_some_and(|permit| !permit.holds()) {
                return Poll::Ready(Err(ErrorKind::PermissionDenied.into()));
            }
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let ended = rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write);
        Poll::Ready(ended.map_err(Error::from))
    }
}
