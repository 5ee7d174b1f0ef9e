//! Shared memory that killed PostgreSQL servers leave behind.
//!
//! A server that is started again on its data removes what the one before left (PostgreSQL manual,
//! "Shared Memory and Semaphores"). Tests kill servers and remove their data: nobody would, and the
//! kernel allows 4096 segments.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Younger files may belong to a server that is about to map them.
const LEAST_AGE: Duration = Duration::from_mins(1);

/// Removes what nobody uses any more.
pub(crate) fn remove_leftovers() {
    for segment in unused_segments() {
        // Another test may have been faster.
        drop(Command::new("ipcrm").args(["-m", &segment]).output());
    }
    let used = mapped_files();
    for file in read_folder("/dev/shm") {
        let name = file.to_string_lossy().into_owned();
        let is_old = || {
            let written = std::fs::metadata(&file).and_then(|data| data.modified());
            written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEAST_AGE))
        };
        if name.starts_with("/dev/shm/PostgreSQL.") && !used.contains(&name) && is_old() {
            drop(std::fs::remove_file(&file));
        }
    }
}

/// The size of PostgreSQL's segments: their header, which says whose they are (`PGShmemHeader`).
const SEGMENT: &str = "56";

/// The segments that no process has attached, and whose maker is gone: proc(5), `/proc/sysvipc/shm`.
fn unused_segments() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let unused = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (segment, size) = (*words.get(1)?, *words.get(3)?);
        let (maker, attached) = (*words.get(4)?, *words.get(6)?);
        let is_unused =
            size == SEGMENT && attached == "0" && !Path::new("/proc").join(maker).exists();
        is_unused.then(|| segment.to_owned())
    };
    table.lines().skip(1).filter_map(unused).collect()
}

fn mapped_files() -> BTreeSet<String> {
    let processes = read_folder("/proc");
    let maps = processes.filter_map(|process| std::fs::read_to_string(process.join("maps")).ok());
    let file = |line: &str| Some(line.get(line.find("/dev/shm/")?..)?.to_owned());
    maps.flat_map(|maps| maps.lines().filter_map(file).collect::<Vec<_>>())
        .collect()
}

fn read_folder(folder: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
