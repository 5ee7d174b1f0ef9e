//! What the user reads: data on stdout, talk on stderr.
//!
//! Both may be closed at any time, as by `stolonctl status | head -1`: that is no fault of ours and
//! no reason to panic, which the standard library's macros do.

use std::io::{ErrorKind, Write as _};

/// Writes data to stdout. A reader who has seen enough is no error; a full disk is one.
pub(crate) fn data(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line of data to stdout.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    data(&format!("{text}\n"))
}

/// Writes a line to stderr; when nobody listens it is lost.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
