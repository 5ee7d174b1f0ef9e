//! How an input is several texts: a module of every crate with targets that take some.

/// The texts of an input: 0xFF stands between them, which no UTF-8 text has.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes
        .split(|byte| *byte == 0xFF)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
}
