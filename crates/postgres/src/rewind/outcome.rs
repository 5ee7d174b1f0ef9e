//! What came of a rewind (scenario C4): `pg_rewind` has been seen to find nothing to do where there
//! was something, and to leave data that cannot start.

use stolon_core::model::{Lsn, TimelineId, TimelineSwitch};

use super::{Rewind, wal};
use crate::controldata::{self, ClusterState, ControlData};
use crate::{Error, Installation, data_dir, history};

/// What says where recovery is to begin (PostgreSQL manual, "Making a Base Backup").
pub(super) const LABEL: &str = "backup_label";

/// Where recovery begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at: Lsn,
    /// The WAL file that lies in.
    pub(crate) file: String,
    timeline: TimelineId,
}

/// Looks whether the data are an earlier state of the source and have the WAL to go on from.
pub(super) async fn check(
    installation: &Installation,
    rewind: &Rewind<'_>,
    kept: &wal::Kept,
) -> Result<(), Error> {
    let target = rewind.target;
    let failed = |why: String| Err(Error::Rewound(why));
    let path = target.join(LABEL);
    if !data_dir::exists(&path)? {
        return failed("it found nothing to undo in data that are not known to follow".to_owned());
    }
    let label = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let Some(start) = parse_start(&label) else {
        return Err(Error::Malformed {
            what: LABEL,
            text: label,
        });
    };
    let control = controldata::read(installation, target).await?;
    let source = rewind.timeline;
    let switches = history::read(target, source);
    let left_at = leads_to(source, &start, &control, &switches).map_err(Error::Rewound)?;
    if let Some(left_at) = left_at {
        kept.put_back(target, start.timeline, start.at, left_at)?;
    }
    let mut timelines: Vec<TimelineId> = switches.iter().map(|s| s.timeline_id).collect();
    timelines.push(source);
    let missing = match rewind.restore_command {
        None => wal::gap(target, start.at, &timelines)?,
        // Where it has not got it either the instance says so, and its data are replaced.
        Some(_) => None,
    };
    match missing {
        None => Ok(()),
        Some(position) => failed(format!(
            "recovery is to begin at {}, and neither the old data nor the source has the WAL from \
             {position} on any more",
            start.at
        )),
    }
}

/// Whether a recovery from `start` on ends on the source's timeline, and begins in its history: where that
/// left the timeline of the beginning, when it did.
fn leads_to(
    source: TimelineId,
    start: &Start,
    control: &ControlData,
    switches: &[TimelineSwitch],
) -> Result<Option<Lsn>, String> {
    if control.state != ClusterState::InRecovery || control.min_recovery_timeline != source {
        return Err(format!(
            "the data are {:?} on timeline {} after the rewind, and not on the source's {source}",
            control.state, control.min_recovery_timeline
        ));
    }
    let switch = switches.iter().find(|s| s.timeline_id == start.timeline);
    let left_at = switch.map(|switch| switch.switch_point);
    if start.timeline == source || left_at.is_some_and(|point| start.at <= point) {
        return Ok(left_at);
    }
    Err(format!(
        "recovery is to begin at {} on timeline {}, which is not in the source's history",
        start.at, start.timeline
    ))
}

/// Reads `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`.
pub(crate) fn parse_start(label: &str) -> Option<Start> {
    let line = label
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    let (at, file) = line.split_once(" (file ")?;
    let file = file.trim().strip_suffix(')')?;
    let timeline = u64::from_str_radix(file.get(..8)?, 16).ok()?;
    Some(Start {
        at: at.trim().parse().ok()?,
        file: file.to_owned(),
        timeline: TimelineId(timeline),
    })
}

#[cfg(test)]
mod tests {
    use super::{Start, leads_to, parse_start};
    use crate::controldata::{ClusterState, ControlData};
    use stolon_core::model::{Lsn, TimelineId, TimelineSwitch};

    /// Data after a rewind to a source on timeline 3, that left 1 at 100 and 2 at 200.
    fn judged(
        at: u64,
        timeline: u64,
        state: ClusterState,
        ends_on: u64,
    ) -> Result<Option<Lsn>, String> {
        let start = Start {
            at: Lsn(at),
            file: String::new(),
            timeline: TimelineId(timeline),
        };
        let control = ControlData {
            system_id: String::new(),
            state,
            checksums: false,
            wal_log_hints: true,
            checkpoint: Lsn(at),
            timeline: TimelineId(timeline),
            min_recovery: Lsn(500),
            min_recovery_timeline: TimelineId(ends_on),
            least_parameters: std::collections::BTreeMap::new(),
        };
        let switch = |number: u64| TimelineSwitch {
            timeline_id: TimelineId(number),
            switch_point: Lsn(number * 100),
            ..TimelineSwitch::default()
        };
        leads_to(TimelineId(3), &start, &control, &[switch(1), switch(2)])
    }

    #[test]
    fn data_that_do_not_lead_to_the_source_are_refused() {
        let recovers = ClusterState::InRecovery;
        assert_eq!(judged(90, 1, recovers, 3), Ok(Some(Lsn(100))));
        assert_eq!(judged(200, 2, recovers, 3), Ok(Some(Lsn(200))));
        assert_eq!(judged(400, 3, recovers, 3), Ok(None));
        let refused = |found: Result<Option<Lsn>, String>, why: &str| {
            let error = found.expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        // Nothing was undone: they are as they were stopped.
        refused(judged(90, 1, ClusterState::ShutDown, 0), "ShutDown");
        refused(judged(90, 1, ClusterState::InProduction, 3), "InProduction");
        refused(judged(90, 1, recovers, 2), "on timeline 2");
        // Recovery would begin in what the source does not have.
        let parted = "not in the source's history";
        refused(judged(101, 1, recovers, 3), parted);
        refused(judged(201, 2, recovers, 3), parted);
        refused(judged(90, 4, recovers, 3), parted);
    }

    #[test]
    fn the_start_is_read() {
        let label = "START WAL LOCATION: 0/2000028 (file 0000000A0000000000000002)\n\
            CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: pg_rewind\n";
        let start = parse_start(label).expect("a start");
        assert_eq!((start.at.0, start.timeline.0), (0x200_0028, 10));
        assert_eq!(start.file, "0000000A0000000000000002");
        assert_eq!(parse_start("BACKUP METHOD: pg_rewind\n"), None);
        assert_eq!(parse_start("START WAL LOCATION: 0/1 (file é)"), None);
    }
}
