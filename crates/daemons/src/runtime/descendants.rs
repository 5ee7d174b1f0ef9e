//! What the children of this process start, when those have ended before it.

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};
use tokio::signal::unix::{SignalKind, signal};

/// From now on what a child leaves behind when it ends becomes a child of this process.
pub fn adopt() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "cannot take over what a successor may start");
    }
}

/// Waits until this process has no child any more. Those that it started itself are to be waited for
/// before, by whoever started them: their ends are not told to anybody here.
pub async fn gone() {
    let Ok(mut ended) = signal(SignalKind::child()) else {
        return;
    };
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                ended.recv().await;
            }
            Err(_) => return,
        }
    }
}
