//! Answering a client for whom there is no primary (PostgreSQL manual, "Message Flow", "Start-up").

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// PostgreSQL's own limit on a start-up packet.
pub(crate) const LONGEST_PACKET: u32 = 10_000;
/// What a refused client may still send before it hears so.
pub(crate) const MOST_UNREAD: usize = 64 * 1024;

/// The time between two looks at a client that says little by little how it begins.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

const CANCEL_REQUEST: u32 = 80_877_102;
pub(super) const SSL_REQUEST: u32 = 80_877_103;
pub(super) const GSS_REQUEST: u32 = 80_877_104;
const PROTOCOL_MAJOR: u32 = 3;

/// Why a client is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no primary to go to now, and why.
    NoPrimary(String),
    /// There is no standby to read from now, and why.
    NoStandby(String),
    /// This proxy carries as many clients as it can.
    Full,
    /// It did not ask for TLS, which is required.
    WithoutTls,
}

impl Refusal {
    /// What metrics call it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::NoPrimary(_) => "no-primary",
            Self::NoStandby(_) => "no-standby",
            Self::Full => "full",
            Self::WithoutTls => "without-tls",
        }
    }

    /// The SQLSTATE and the message.
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::NoPrimary(why) => ("57P03", format!("no primary is open: {why}")),
            Self::NoStandby(why) => ("57P03", format!("no standby may be read from: {why}")),
            Self::Full => (
                "53300",
                "this proxy has too many clients already".to_owned(),
            ),
            Self::WithoutTls => (
                "28000",
                "this proxy takes connections by TLS only (sslmode=require, or higher)".to_owned(),
            ),
        }
    }
}

/// Refuses a client with a proper error: SQLSTATE 57P03 `cannot_connect_now`, or 53300
/// `too_many_connections`. A client that is slow or talks nonsense is just left, after `patience` at
/// the latest.
pub(super) async fn refuse(mut client: TcpStream, why: &Refusal, patience: Duration) {
    let _ = tokio::time::timeout(patience, answer(&mut client, why)).await;
}

/// Answers what a client sends first. Little is read of it, whatever it is.
pub(crate) async fn answer(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    why: &Refusal,
) -> std::io::Result<()> {
    // Encryption may be asked for once in each kind before the start-up message.
    for _ in 0..3 {
        match packet(client).await? {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
            CANCEL_REQUEST => return Ok(()),
            code if code >> 16 == PROTOCOL_MAJOR => {
                let (code, text) = why.words();
                client.write_all(&error_message(code, &text)).await?;
                client.shutdown().await?;
                return hear_out(client).await;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Whether a packet with this code asks to cancel a statement.
pub(super) fn is_cancel(code: u32) -> bool {
    code == CANCEL_REQUEST
}

/// Whether what a client has sent so far is a request to cancel a statement; nothing is taken.
pub(super) fn is_cancel_request(client: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut start = [0; 8];
    let peeked = recv(
        client,
        &mut start[..],
        RecvFlags::PEEK | RecvFlags::DONTWAIT,
    );
    let whole = peeked.is_ok_and(|(count, _)| count == start.len());
    whole && start.ends_with(&CANCEL_REQUEST.to_be_bytes())
}

/// Whether a client begins by a request to cancel a statement, which is waited for; nothing is taken.
pub(super) async fn asks_to_cancel(client: &TcpStream, patience: Duration) -> bool {
    let begins = async {
        // Whoever sends its first eight bytes one by one is looked at again as each of them comes.
        for _ in 0..8 {
            client.readable().await.ok()?;
            let mut start = [0; 8];
            let count = client.peek(&mut start).await.ok()?;
            if count == 0 || count == start.len() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Some(is_cancel_request(client))
    };
    let begins = tokio::time::timeout(patience, begins).await;
    begins.is_ok_and(|cancels| cancels.unwrap_or(false))
}

/// Reads what the client had already sent: closing a socket with something unread resets it, and a
/// reset may reach the client before the error that it is to read.
async fn hear_out(client: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut buffer = [0; 512];
    for _ in 0..MOST_UNREAD / buffer.len() {
        if client.read(&mut buffer).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads a start-up packet and returns its code.
async fn packet(client: &mut (impl AsyncRead + Unpin)) -> std::io::Result<u32> {
    let length = client.read_u32().await?;
    if !(8..=LONGEST_PACKET).contains(&length) {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
    }
    let code = client.read_u32().await?;
    let mut rest = u64::from(length - 8);
    let mut buffer = [0; 512];
    while rest > 0 {
        let wanted = usize::try_from(rest)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(space) = buffer.get_mut(..wanted) else {
            break;
        };
        let count = client.read(space).await?;
        if count == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        rest = rest.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(code)
}

/// The last message of a session that this proxy ends: SQLSTATE 57P01, as of a server that shuts down.
pub(super) fn farewell(why: &str) -> Vec<u8> {
    error_message("57P01", &format!("terminating connection: {why}"))
}

/// An `ErrorResponse` (PostgreSQL manual, "Error and Notice Message Fields").
fn error_message(code: &str, text: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (kind, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', text)] {
        fields.push(kind);
        fields.extend_from_slice(value.replace('\0', " ").as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![b'E'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&fields);
    message
}
