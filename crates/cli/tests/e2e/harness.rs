//! Real clusters for the tests: the daemons as processes of the built program, real PostgreSQL, a
//! real store, and a client that records what was acknowledged to it.
//!
//! Everything a cluster starts ends with it, also when a test fails.

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod consul;
mod disk;
pub(crate) mod etcd;
#[path = "../../../../testing/free_port.rs"]
mod free_port;
pub(crate) mod hosts;
mod kubernetes;
#[path = "../../../../testing/plain_http.rs"]
pub(crate) mod plain_http;
pub(crate) mod process;
#[path = "../../../../testing/shared_memory.rs"]
mod shared_memory;
pub(crate) mod writer;

pub(crate) use free_port::free_port;

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Bound on what a test waits for; far beyond what it takes, because machines are slow and noisy.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(LIMIT, what, look)
}

/// The same with a limit of its own.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Asserts that something holds for a while: for what must not happen.
#[track_caller]
pub(crate) fn stays(period: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        assert!(holds(), "did not stay so for {period:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Whether this test can make network namespaces. A test that cannot says so where nothing captures
/// it, and `make test` counts it.
pub(crate) fn can_make_hosts(test: &str) -> bool {
    is_root_for(test, "make network namespaces")
}

/// Whether this test can make file systems.
pub(crate) fn can_mount(test: &str) -> bool {
    is_root_for(test, "mount file systems")
}

/// Whether this test can make file systems that hang.
pub(crate) fn can_freeze(test: &str) -> bool {
    let can = rustix::process::geteuid().is_root()
        && std::path::Path::new("/dev/loop-control").exists()
        && std::path::Path::new("/usr/sbin/fsfreeze").exists();
    if !can {
        let why = "only root can freeze file systems, with loop devices and fsfreeze";
        let told = writeln!(std::io::stderr(), "not run: {test}: {why}");
        drop(told);
    }
    can
}

fn is_root_for(test: &str, what: &str) -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        let told = writeln!(std::io::stderr(), "not run: {test}: only root can {what}");
        drop(told);
    }
    can
}
