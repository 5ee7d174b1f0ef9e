//! A real server for the tests: ended when it is dropped.

#[path = "../../../../testing/free_port.rs"]
mod free_port;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use free_port::free_port;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use stolon_store::{Access, Backend, Config, Key, Kube, Store, Tls};

/// Bound on everything a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One server.
pub(crate) struct Server {
    child: Child,
    command: Command,
    pub(crate) endpoint: String,
}

/// Waits until a store can be read.
pub(crate) async fn ready(store: &Arc<dyn Store>) {
    eventually("the store answers", || async {
        store.get(&Key::ClusterData).await.ok()
    })
    .await;
}

/// How to reach a cluster's store at these endpoints.
pub(crate) fn reach(backend: Backend, endpoints: Vec<String>, timeout: Duration) -> Config {
    Config {
        backend,
        endpoints,
        prefix: "stolon/cluster".to_owned(),
        cluster_name: "test".to_owned(),
        timeout,
        tls: Tls::default(),
        access: Access::default(),
        kube: Kube::default(),
    }
}

fn log_to(command: &mut Command, path: &Path) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log");
    command.stderr(log);
}

impl Server {
    /// Starts it; what it says goes to the file.
    pub(crate) fn start(mut command: Command, log: &Path, endpoint: String) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        log_to(&mut command, log);
        let child = command.spawn().expect("the server's program");
        Self {
            child,
            command,
            endpoint,
        }
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the server is ours");
    }

    /// It no longer answers when this returns, and its connections stay open.
    pub(crate) fn freeze(&self) {
        self.send(Signal::STOP);
        // Told when its last thread has stopped.
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let stopped = waitpid(Pid::from_raw(pid), WaitOptions::UNTRACED).expect("a child");
        let (_, status) = stopped.expect("a change");
        assert!(status.stopped(), "{status:?}");
    }

    /// It goes on where it was frozen.
    pub(crate) fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.send(Signal::KILL);
        self.child.wait().expect("it ends");
    }

    /// Starts it again, with the data it had.
    pub(crate) fn restart(&mut self) {
        self.child = self.command.spawn().expect("the server again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is lost when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
