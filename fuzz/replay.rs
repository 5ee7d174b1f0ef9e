//! Runs the targets of a crate over their corpora, as an ordinary test: a module of every crate
//! that has targets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a parser must satisfy, for any bytes.
type Target = fn(&[u8]);

/// Bound on one input, on a busy machine: the largest takes some milliseconds.
const LONGEST: Duration = Duration::from_secs(5);
/// Every corpus is small enough to be run by every `make test`.
const MOST_INPUTS: usize = 600;

/// The test of a crate: each of its targets holds over its corpus and over the `more` seeds.
macro_rules! every_target_holds {
    ($more:expr; $($target:ident),+ $(,)?) => {
        #[test]
        fn every_target_holds_over_its_corpus() {
            replay::corpora(&[$((stringify!($target), $target)),+], $more);
        }
    };
}

/// Runs each target over its corpus in `fuzz/corpus/NAME` and over `more` seeds, and over what is
/// left of each input when it is cut.
pub(crate) fn corpora(targets: &[(&str, Target)], more: Option<&Path>) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, target) in targets {
        assert!(
            fuzz.join(format!("targets/{name}.rs")).is_file(),
            "{name} has no program in fuzz/targets"
        );
        let mut inputs = files(&fuzz.join("corpus").join(name));
        assert!(!inputs.is_empty(), "fuzz/corpus/{name} holds nothing");
        assert!(
            inputs.len() <= MOST_INPUTS,
            "fuzz/corpus/{name} holds {} inputs: minimise it (scripts/fuzz --merge)",
            inputs.len()
        );
        inputs.extend(more.map(files).unwrap_or_default());
        for input in &inputs {
            replay(name, *target, input);
        }
    }
}

fn replay(name: &str, target: Target, input: &Path) {
    let bytes = std::fs::read(input).expect("an input");
    let began = Instant::now();
    let outcome = std::panic::catch_unwind(|| {
        target(&bytes);
        for part in 1..4 {
            target(&bytes[..bytes.len() * part / 4]);
        }
    });
    assert!(outcome.is_ok(), "{name} fails on {}", input.display());
    let took = began.elapsed();
    assert!(took < LONGEST, "{name} on {}: {took:?}", input.display());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}
