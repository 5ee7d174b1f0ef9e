//! Timeline history files, `pg_wal/NNNNNNNN.history`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use stolon_core::model::{Lsn, TimelineId, TimelineSwitch, Unknown};

use crate::Error;

/// What the file of a timeline that is passed over says for a reason.
const PASSED_OVER: &str = "passed over by stolon: another primary may have begun this timeline";

/// The switches that led to `timeline`, oldest first; none when there is no file, as for the first.
pub fn read(pgdata: &Path, timeline: TimelineId) -> Vec<TimelineSwitch> {
    std::fs::read_to_string(file(pgdata, timeline))
        .map(|text| parse(&text))
        .unwrap_or_default()
}

/// Has a promotion of this instance begin none of these timelines.
///
/// A promotion takes the first number above its own for which there is no history file (xlog.c,
/// `findNewestTimeLine`). The files say that their timeline was left before any position, so that no
/// running recovery follows one ("new timeline forked off before current recovery point").
/// They stay: a standby that comes asks for each file up to the primary's timeline (walreceiver.c).
///
/// # Errors
///
/// When a file cannot be written.
pub fn pass_over(pgdata: &Path, timelines: &[TimelineId]) -> Result<(), Error> {
    let Some(highest) = timelines.iter().max() else {
        return Ok(());
    };
    let folder = pgdata.join("pg_wal");
    let new = folder.join("stolon-passed-over");
    write_whole(&new).map_err(Error::file("write", &new))?;
    for timeline in timelines {
        let file = file(pgdata, *timeline);
        // Never over one that is there, which is passed over as it is.
        match std::fs::hard_link(&new, &file) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::file("write", &file)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::remove_file(&new).map_err(Error::file("remove", &new))?;
    let synced = File::open(&folder).and_then(|folder| folder.sync_all());
    synced.map_err(Error::file("sync", &folder))?;
    tracing::info!(%highest, "timelines that another primary may have begun are passed over");
    Ok(())
}

fn write_whole(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "1\t0/1\t{PASSED_OVER}")?;
    file.sync_all()
}

/// Removes what [`pass_over`] wrote for a promotion that did not come: an instance that starts as a
/// standby would take the highest timeline there is for its aim, and end.
///
/// # Errors
///
/// When a file cannot be removed.
pub fn forget_passed_over(pgdata: &Path) -> Result<(), Error> {
    let folder = pgdata.join("pg_wal");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("read", &folder)(error)),
    };
    let timeline = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name();
        let number = name.to_str()?.strip_suffix(".history")?;
        Some(TimelineId(u64::from_str_radix(number, 16).ok()?))
    };
    let mut timelines: Vec<TimelineId> = entries.filter_map(timeline).collect();
    timelines.sort_unstable_by(|a, b| b.cmp(a));
    for timeline in timelines {
        // Below one that was begun they belong to its promotion.
        if !read(pgdata, timeline)
            .iter()
            .any(|switch| switch.reason == PASSED_OVER)
        {
            break;
        }
        let file = file(pgdata, timeline);
        std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
    }
    Ok(())
}

fn file(pgdata: &Path, timeline: TimelineId) -> PathBuf {
    pgdata
        .join("pg_wal")
        .join(format!("{:08X}.history", timeline.0))
}

/// Reads lines of `TIMELINE<tab>LSN<tab>REASON`; others, as comments, are passed over.
pub fn parse(text: &str) -> Vec<TimelineSwitch> {
    let switch = |line: &str| {
        let mut words = line.trim().splitn(3, '\t');
        let timeline_id = TimelineId(words.next()?.trim().parse().ok()?);
        let switch_point: Lsn = words.next()?.trim().parse().ok()?;
        let reason = words.next().unwrap_or_default().trim().to_owned();
        Some(TimelineSwitch {
            timeline_id,
            switch_point,
            reason,
            unknown: Unknown::new(),
        })
    };
    text.lines().filter_map(switch).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn switches_are_read_and_noise_is_passed_over() {
        let text = "# a comment\n1\t0/3000000\tno recovery target specified\n\nx\ty\tz\n2\t0/5000148\tpromoted\n";
        let switches = parse(text);
        let found: Vec<_> = switches
            .iter()
            .map(|s| (s.timeline_id.0, s.switch_point.0, s.reason.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (1, 0x300_0000, "no recovery target specified"),
                (2, 0x500_0148, "promoted")
            ]
        );
    }
}
