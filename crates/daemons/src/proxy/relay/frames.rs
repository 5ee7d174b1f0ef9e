//! Where in the server's messages a session stands (PostgreSQL manual, "Message Flow", "Message
//! Formats"): only between two messages may one more be put to a client.
//!
//! Only lengths are followed, over bytes that are carried anyway. Whatever is not exactly as expected,
//! and everything encrypted, is unknown from there on; nothing is guessed.

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const PROTOCOL_MAJOR: u32 = 3;
/// PostgreSQL's own limit on a start-up packet.
const LONGEST_PACKET: u32 = 10_000;
/// The length and the code of a start-up packet.
const PACKET_HEADER: usize = 8;
/// The kind and the length of a message.
const HEADER: usize = 5;

/// How far a session has come.
#[derive(Debug)]
pub(super) enum Frames {
    /// The client begins: a packet's header so far.
    StartUp(Vec<u8>),
    /// The client goes on with its start-up message, for so many bytes.
    Saying(u32),
    /// It has asked for encryption.
    Asked,
    /// Messages of the server.
    Messages(Message),
    Unknown,
}

/// A message of the server: what came of its header, and how much of the rest is to come.
#[derive(Debug, Default)]
pub(super) struct Message {
    header: [u8; HEADER],
    begun: usize,
    rest: usize,
}

impl Frames {
    /// A session that begins.
    pub(super) const fn new() -> Self {
        Self::StartUp(Vec::new())
    }

    /// Whether the server is between two messages.
    pub(super) fn is_between(&self) -> bool {
        matches!(self, Self::Messages(message) if message.begun == 0 && message.rest == 0)
    }

    /// Takes what the client says.
    pub(super) fn client_says(&mut self, bytes: &[u8]) {
        let next = match self {
            Self::Messages(_) | Self::Unknown => return,
            Self::Asked => Self::Unknown,
            Self::Saying(rest) => still(*rest, bytes.len()),
            Self::StartUp(header) => {
                let missing = PACKET_HEADER.saturating_sub(header.len());
                let (start, rest) = bytes.split_at(missing.min(bytes.len()));
                header.extend_from_slice(start);
                match header.as_slice().try_into() {
                    Ok(header) => begun(header, rest.len()),
                    Err(_) => return,
                }
            }
        };
        *self = next;
    }

    /// Takes what the server says.
    pub(super) fn server_says(&mut self, bytes: &[u8]) {
        let next = match self {
            Self::Messages(message) => match message.take(bytes) {
                Some(()) => return,
                None => Self::Unknown,
            },
            // Encryption is not to be had: the client begins anew.
            Self::Asked if bytes == b"N" => Self::new(),
            Self::Asked | Self::StartUp(_) | Self::Saying(_) | Self::Unknown => Self::Unknown,
        };
        *self = next;
    }
}

/// What follows on a packet's header with so many bytes after it.
fn begun(header: [u8; PACKET_HEADER], after: usize) -> Frames {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let header = u32::try_from(PACKET_HEADER).unwrap_or(0);
    match u32::from_be_bytes([c0, c1, c2, c3]) {
        SSL_REQUEST | GSS_REQUEST if length == header && after == 0 => Frames::Asked,
        code if code >> 16 == PROTOCOL_MAJOR && (header..=LONGEST_PACKET).contains(&length) => {
            still(length - header, after)
        }
        _ => Frames::Unknown,
    }
}

/// The client still had so many bytes of its start-up message to say, and said some.
fn still(rest: u32, said: usize) -> Frames {
    match u32::try_from(said)
        .ok()
        .map(|said| (rest.checked_sub(said), said == rest))
    {
        Some((_, true)) => Frames::Messages(Message::default()),
        Some((Some(rest), false)) => Frames::Saying(rest),
        // It does not wait for the answer. That is legal, and nobody does it.
        Some((None, false)) | None => Frames::Unknown,
    }
}

impl Message {
    /// Follows the messages; none: these are none.
    fn take(&mut self, mut bytes: &[u8]) -> Option<()> {
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = bytes.get(skipped..)?;
            if bytes.is_empty() {
                return Some(());
            }
            let header = match bytes.split_first_chunk::<HEADER>() {
                Some((header, after)) if self.begun == 0 => {
                    bytes = after;
                    *header
                }
                _ => {
                    let (&byte, after) = bytes.split_first()?;
                    *self.header.get_mut(self.begun)? = byte;
                    self.begun += 1;
                    bytes = after;
                    if self.begun < HEADER {
                        continue;
                    }
                    self.begun = 0;
                    self.header
                }
            };
            let [kind, l0, l1, l2, l3] = header;
            let length = i32::from_be_bytes([l0, l1, l2, l3]);
            // The length counts itself.
            self.rest = usize::try_from(length).ok()?.checked_sub(4)?;
            if !kind.is_ascii_alphanumeric() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    const START_UP: &[u8] = b"\0\0\0\x0e\0\x03\0\0user\0\0";
    const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
    const GSS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
    /// Authentication is over, a parameter, ready for queries.
    const ANSWER: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0Z\0\0\0\x05I";

    fn after(said: &[(bool, &[u8])]) -> Frames {
        let mut frames = Frames::new();
        for (by_client, bytes) in said {
            if *by_client {
                frames.client_says(bytes);
            } else {
                frames.server_says(bytes);
            }
        }
        frames
    }

    #[test]
    fn a_session_is_between_messages_where_it_is_however_they_are_cut() {
        let ends = [9, 18, 24];
        for cut in 0..=ANSWER.len() {
            for packet in 0..=START_UP.len() {
                let (first, second) = START_UP.split_at(packet);
                let (begin, rest) = ANSWER.split_at(cut);
                let mut frames = after(&[(true, first), (true, second), (false, begin)]);
                let between = cut == 0 || ends.contains(&cut);
                assert_eq!(frames.is_between(), between, "{cut} {frames:?}");
                frames.server_says(rest);
                assert!(frames.is_between(), "{cut} {frames:?}");
            }
        }
        let mut frames = after(&[(true, START_UP)]);
        for byte in ANSWER {
            frames.server_says(&[*byte]);
        }
        assert!(frames.is_between());
        // What the client says later is not looked at.
        frames.client_says(b"anything");
        assert!(frames.is_between());
    }

    #[test]
    fn refused_encryption_leaves_the_messages_in_sight_and_any_other_hides_them() {
        let refused = [(true, SSL), (false, b"N".as_slice()), (true, START_UP)];
        assert!(after(&refused).is_between());
        let twice = [
            (true, GSS),
            (false, b"N".as_slice()),
            (true, SSL),
            (false, b"N"),
            (true, START_UP),
        ];
        assert!(after(&twice).is_between());
        for answer in [b"S".as_slice(), b"G", b"E", b"NN", b""] {
            let frames = after(&[
                (true, SSL),
                (false, answer),
                (true, START_UP),
                (false, ANSWER),
            ]);
            assert!(!frames.is_between(), "{answer:?}");
        }
        // A handshake on the heels of the question, or without one.
        let direct = [0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
        for said in [[SSL, &direct].concat(), direct.to_vec()] {
            let frames = after(&[(true, &said), (false, ANSWER)]);
            assert!(!frames.is_between(), "{said:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_never_taken_for_one_again() {
        let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
        let version_2 = [0, 0, 0, 12, 0, 2, 0, 0, b'a', b'b', b'c', 0];
        for said in [
            cancel.as_slice(),
            &version_2,
            b"GET / HTTP/1.1\r\n",
            &[0; 8],
        ] {
            assert!(!after(&[(true, said)]).is_between(), "{said:?}");
        }
        let hasty = [START_UP, b"Q\0\0\0\x05\0"].concat();
        assert!(!after(&[(true, &hasty), (false, ANSWER)]).is_between());
        let early = [(true, START_UP.split_at(5).0), (false, ANSWER)];
        assert!(!after(&early).is_between());
        for nonsense in [
            b"Z\0\0\0\x03".as_slice(),
            b"Z\xff\0\0\x08",
            b"\0\0\0\0\x05I",
        ] {
            let said = [(true, START_UP), (false, nonsense), (false, ANSWER)];
            assert!(!after(&said).is_between(), "{nonsense:?}");
        }
    }
}
