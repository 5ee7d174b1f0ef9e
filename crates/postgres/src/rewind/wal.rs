//! The WAL of data that are rewound.
//!
//! Up to where the histories part it is as good as the source's, and the next start reads it from the
//! last checkpoint before that. `pg_rewind` removes what the source does not have any more; versions
//! before 14 also what that start needs.

use std::path::{Path, PathBuf};

use stolon_core::model::{Lsn, TimelineId};

use crate::{Error, data_dir};

/// Links to the WAL files that were there before.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
}

/// Has every WAL file kept under a second name beside the data.
///
/// Where there can be no such name, since `pg_wal` lies on another file system, none is kept.
pub(super) fn keep(target: &Path) -> Result<Kept, Error> {
    let folder = super::kept_wal(target);
    data_dir::remove_all(&folder)?;
    std::fs::create_dir(&folder).map_err(Error::file("make", &folder))?;
    for name in files(target) {
        let link = folder.join(&name);
        if let Err(error) = std::fs::hard_link(target.join("pg_wal").join(&name), &link) {
            tracing::warn!(%error, "the WAL of the old data cannot be kept during the rewind");
            break;
        }
    }
    Ok(Kept { folder })
}

impl Kept {
    /// Puts back what is missing of `timeline` from `start` up to where the source's history left it.
    pub(super) fn put_back(
        &self,
        target: &Path,
        timeline: TimelineId,
        start: Lsn,
        left_at: Lsn,
    ) -> Result<(), Error> {
        let mut is_changed = false;
        for name in names(&self.folder) {
            let (kept, place) = (self.folder.join(&name), target.join("pg_wal").join(&name));
            let size = std::fs::metadata(&kept).map_err(Error::file("look at", &kept))?;
            let begin = Lsn::of_wal_file(&name, size.len());
            let end = begin.0.saturating_add(size.len());
            let is_needed =
                timeline_of(&name) == Some(timeline) && end > start.0 && end <= left_at.0;
            if is_needed && !data_dir::exists(&place)? {
                std::fs::hard_link(&kept, &place).map_err(Error::file("put back", &place))?;
                tracing::info!(name, "a WAL file that the next start needs is put back");
                is_changed = true;
            }
        }
        // pg_rewind has flushed what it left itself.
        if is_changed {
            data_dir::sync_folder(&target.join("pg_wal"))?;
        }
        Ok(())
    }
}

/// Up to where the WAL from `start` on is there, on `timelines`, when there is more of it after that or
/// none at all. What comes after the last file comes from the source.
pub(super) fn gap(
    target: &Path,
    start: Lsn,
    timelines: &[TimelineId],
) -> Result<Option<Lsn>, Error> {
    let mut spans = Vec::new();
    for name in files(target) {
        if !timeline_of(&name).is_some_and(|timeline| timelines.contains(&timeline)) {
            continue;
        }
        let file = target.join("pg_wal").join(&name);
        let size = std::fs::metadata(&file).map_err(Error::file("look at", &file))?;
        let begin = Lsn::of_wal_file(&name, size.len()).0;
        spans.push((begin, begin.saturating_add(size.len())));
    }
    spans.sort_unstable();
    let mut reached = start.0;
    for (begin, end) in &spans {
        if *begin <= reached && reached < *end {
            reached = *end;
        }
    }
    let last = spans.iter().map(|(_, end)| *end).max().unwrap_or(0);
    Ok((reached == start.0 || reached < last).then_some(Lsn(reached)))
}

fn files(target: &Path) -> Vec<String> {
    names(&target.join("pg_wal"))
}

/// The WAL files in a folder: 24 hexadecimal digits.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_wal_file(name)).collect();
    names.sort();
    names
}

fn is_wal_file(name: &str) -> bool {
    name.len() == 24 && name.chars().all(|c| c.is_ascii_hexdigit())
}

fn timeline_of(name: &str) -> Option<TimelineId> {
    let digits = name.get(..8)?;
    u64::from_str_radix(digits, 16).ok().map(TimelineId)
}

#[cfg(test)]
mod tests {
    use super::{gap, keep, names};
    use stolon_core::model::{Lsn, TimelineId};

    /// Files of one KiB, so that each number is a KiB of WAL.
    fn wal(target: &std::path::Path, file: &str) {
        std::fs::create_dir_all(target.join("pg_wal")).expect("a folder");
        std::fs::write(target.join("pg_wal").join(file), [0; 1024]).expect("written");
    }

    #[test]
    fn only_what_the_histories_share_and_the_start_needs_is_put_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("postgres.new");
        for number in 1..=5 {
            wal(&target, &format!("0000000100000000{number:08X}"));
        }
        wal(&target, "000000020000000000000002");
        let kept = keep(&target).expect("kept");
        std::fs::remove_dir_all(target.join("pg_wal")).expect("removed");
        wal(&target, "000000020000000000000004");
        let (start, left_at) = (Lsn(2 * 1024 + 10), Lsn(4 * 1024 + 10));
        kept.put_back(&target, TimelineId(1), start, left_at)
            .expect("put back");
        let found = names(&target.join("pg_wal"));
        let expected = [
            "000000010000000000000002",
            "000000010000000000000003",
            "000000020000000000000004",
        ];
        assert_eq!(found, expected);
        let both = [TimelineId(1), TimelineId(2)];
        let found = |start, timelines: &[TimelineId]| gap(&target, start, timelines);
        assert_eq!(found(start, &both).expect("files"), None);
        assert_eq!(found(Lsn(4 * 1024), &both).expect("files"), None);
        assert_eq!(found(Lsn(1024), &both).expect("files"), Some(Lsn(1024)));
        assert_eq!(found(start, &[TimelineId(2)]).expect("files"), Some(start));
        wal(&target, "000000020000000000000006");
        let missing = Some(Lsn(5 * 1024));
        assert_eq!(found(start, &both).expect("files"), missing);
    }
}
