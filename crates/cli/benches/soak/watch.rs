//! What processes use, as the kernel tells it (proc(5)).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::verdict::Sample;

/// `TCP_CLOSE_WAIT` in the tables of sockets.
const CLOSE_WAIT: &str = "08";

/// The states of this host's TCP sockets, by inode.
pub(crate) struct Sockets(HashMap<String, String>);

impl Sockets {
    pub(crate) fn now() -> Self {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
        let states = texts.iter().flat_map(|text| text.lines().skip(1));
        let states = states.filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(((*words.get(9)?).to_owned(), (*words.get(3)?).to_owned()))
        });
        Self(states.collect())
    }
}

/// What a process uses now; none: it has ended.
pub(crate) fn sample(pid: i32, sockets: &Sockets) -> Option<Sample> {
    let folder = format!("/proc/{pid}");
    let status = std::fs::read_to_string(format!("{folder}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let links = std::fs::read_dir(Path::new(&folder).join("fd")).ok()?;
    let links: Vec<String> = links
        .flatten()
        // One that is closed meanwhile counts, and is no socket.
        .map(|entry| std::fs::read_link(entry.path()).unwrap_or_default())
        .map(|target| target.display().to_string())
        .collect();
    let half_closed = links.iter().filter(|link| {
        let inode = link
            .strip_prefix("socket:[")
            .and_then(|l| l.strip_suffix(']'));
        let state = inode.and_then(|inode| sockets.0.get(inode));
        state.is_some_and(|state| state == CLOSE_WAIT)
    });
    Some(Sample {
        // A process that has ended and was not reaped has none.
        memory: number("VmRSS:")?,
        threads: number("Threads:")?,
        half_closed: half_closed.count().try_into().ok()?,
        descriptors: links.len().try_into().ok()?,
    })
}

/// Sockets of this host that no process has any more, and those that wait out their time.
pub(crate) fn abandoned() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    (after("orphan").unwrap_or(0), after("tw").unwrap_or(0))
}

/// Between two samples.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// The processes that are watched, and what was seen of them.
#[derive(Debug, Default)]
struct Watched {
    alive: BTreeMap<String, i32>,
    samples: BTreeMap<String, Vec<Sample>>,
    ended: Vec<String>,
}

/// Somebody who looks at processes until it is dropped.
pub(crate) struct Watch {
    watched: Arc<Mutex<Watched>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let watched = Arc::<Mutex<Watched>>::default();
        let (stop, stopped) = std::sync::mpsc::channel();
        let shared = watched.clone();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                shared.lock().expect("the processes").look();
            }
        });
        Self {
            watched,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().expect("the processes")
    }

    /// Watches a process from now on.
    pub(crate) fn begin(&self, name: &str, pid: i32) {
        self.watched().alive.insert(name.to_owned(), pid);
    }

    /// Watches it no longer: it is about to be ended.
    pub(crate) fn end(&self, name: &str) {
        self.watched().alive.remove(name);
    }

    /// The last sample of each process that lives.
    pub(crate) fn last(&self) -> Vec<(String, Sample)> {
        let watched = self.watched();
        let alive = watched.alive.keys().filter_map(|name| {
            let last = watched.samples.get(name)?.last()?;
            Some((name.clone(), *last))
        });
        alive.collect()
    }

    /// All samples, by process.
    pub(crate) fn samples(&self) -> BTreeMap<String, Vec<Sample>> {
        self.watched().samples.clone()
    }

    /// The processes that nobody ended.
    pub(crate) fn ended(&self) -> Vec<String> {
        self.watched().ended.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            drop(joined);
        }
    }
}

impl Watched {
    fn look(&mut self) {
        let sockets = Sockets::now();
        for (name, pid) in std::mem::take(&mut self.alive) {
            if let Some(seen) = sample(pid, &sockets) {
                self.samples.entry(name.clone()).or_default().push(seen);
                self.alive.insert(name, pid);
            } else {
                self.ended.push(name);
            }
        }
    }
}
