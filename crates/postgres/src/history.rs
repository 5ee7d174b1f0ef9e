//! Timeline history files, `pg_wal/NNNNNNNN.history`.

use std::path::Path;

use stolon_core::model::{Lsn, TimelineId, TimelineSwitch, Unknown};

/// The switches that led to `timeline`, oldest first; none when there is no file, as for the first.
pub fn read(pgdata: &Path, timeline: TimelineId) -> Vec<TimelineSwitch> {
    let file = pgdata
        .join("pg_wal")
        .join(format!("{:08X}.history", timeline.0));
    std::fs::read_to_string(file)
        .map(|text| parse(&text))
        .unwrap_or_default()
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
