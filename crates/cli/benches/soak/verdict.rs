//! What a soak is held to: what processes use must not grow.

/// What one process uses at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Memory, in KiB.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    /// Sockets whose other end has closed, and that the process has not.
    pub(crate) half_closed: u64,
}

/// A lower number of samples, after those of the warm-up, says nothing.
const FEWEST: usize = 16;
/// Descriptors, threads and half-closed sockets may be more by this at the end: numbers of sessions
/// sway.
const MORE: u64 = 16;

/// What is judged of samples: its name, its value, and what it may be at the end for what it was.
type Judged = (&'static str, fn(&Sample) -> u64, fn(u64) -> u64);

const JUDGED: [Judged; 4] = [
    // A fifth, and 4 MiB.
    (
        "KiB of memory",
        |s| s.memory,
        |first| first + first / 5 + 4096,
    ),
    ("descriptors", |s| s.descriptors, |first| first + MORE),
    ("threads", |s| s.threads, |first| first + MORE),
    (
        "sockets in CLOSE_WAIT",
        |s| s.half_closed,
        |first| first + MORE,
    ),
];

/// What one process's samples showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Each figure, from the first quarter to the last.
    pub(crate) told: String,
    /// What grew beyond its bound.
    pub(crate) beyond: Vec<String>,
}

/// Compares the last quarter of the time with the first one after the warm-up, by what is exceeded
/// in a quarter of the samples: in a failover sessions are missing, and that is not what it is about.
/// None where the process did not live for long enough.
pub(crate) fn growth(samples: &[Sample], warm_up: usize) -> Option<Growth> {
    let samples = samples.get(warm_up..)?;
    if samples.len() < FEWEST {
        return None;
    }
    let quarter = samples.len() / 4;
    let first = &samples[..quarter];
    let last = &samples[samples.len() - quarter..];
    let mut told = Vec::new();
    let mut beyond = Vec::new();
    for (name, value, bound) in JUDGED {
        let (before, after) = (upper_quartile(first, value), upper_quartile(last, value));
        told.push(format!("{name} {before} -> {after}"));
        if after > bound(before) {
            let bound = bound(before);
            beyond.push(format!("{name} {before} -> {after}, beyond {bound}"));
        }
    }
    Some(Growth {
        told: told.join(", "),
        beyond,
    })
}

fn upper_quartile(samples: &[Sample], value: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(value).collect();
    values.sort_unstable();
    values
        .get(values.len() * 3 / 4)
        .copied()
        .unwrap_or_default()
}
