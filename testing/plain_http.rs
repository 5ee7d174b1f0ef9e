//! One question to a server of a test by plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// What it answers, without the headers; none: not in five seconds, or with another status than 200
/// or 201. `address`: host and port.
pub(crate) fn ask(address: &str, method: &str, path: &str, body: &str) -> Option<String> {
    let limit = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(limit).ok()?;
    // Version 1.0: the answer is not cut into pieces, and the connection ends with it.
    let question = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, rest) = answer.split_once("\r\n\r\n")?;
    let done = [" 200 ", " 201 "].iter().any(|s| head.contains(s));
    done.then(|| rest.to_owned())
}
