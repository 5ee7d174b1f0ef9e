//! What PostgreSQL's programs print, its files say, and the kernel tells.

use std::fmt::Write as _;

use crate::basebackup::{KEPT_OUTPUT, Said, parse_progress};
use crate::controldata::{self, ClusterState, ControlData};
use crate::rewind::parse_start;
use crate::{check, data_dir, history, installation, process};

/// `pg_controldata`'s output: what is read, printed again, reads as the same.
pub fn control_data(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(data) = controldata::parse(&text) else {
        return;
    };
    assert!(data.least_parameters.len() <= 5);
    let printed = print(&data);
    assert_eq!(controldata::parse(&printed), Some(data), "{printed}");
}

/// The lines of `pg_controldata` that are read.
fn print(data: &ControlData) -> String {
    let state = match data.state {
        ClusterState::ShutDown => "shut down",
        ClusterState::ShutDownInRecovery => "shut down in recovery",
        ClusterState::InProduction => "in production",
        ClusterState::InRecovery => "in archive recovery",
        ClusterState::Other => "shutting down",
    };
    let mut text = format!(
        "Database system identifier:           {}\n\
         Database cluster state:               {state}\n\
         Latest checkpoint location:           {}\n\
         Latest checkpoint's TimeLineID:       {}\n\
         Minimum recovery ending location:     {}\n\
         Min recovery ending loc's timeline:   {}\n\
         wal_log_hints setting:                {}\n\
         Data page checksum version:           {}\n",
        data.system_id,
        data.checkpoint,
        data.timeline,
        data.min_recovery,
        data.min_recovery_timeline,
        if data.wal_log_hints { "on" } else { "off" },
        u8::from(data.checksums)
    );
    for (name, value) in &data.least_parameters {
        let name = name.replace("_transaction", "_xact");
        let _ = writeln!(text, "{name} setting:   {value}");
    }
    text
}

/// `backup_label` of a rewind: the file is the one that the position is said to lie in.
pub fn rewind_label(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(start) = parse_start(&text) else {
        return;
    };
    let printed = format!("START WAL LOCATION: {} (file {})\n", start.at, start.file);
    assert_eq!(parse_start(&printed), Some(start), "{printed}");
}

/// What `postgres -C` complains of in a file: parameters that it names or that the file sets, each with
/// a reason.
pub fn parameter_complaints(bytes: &[u8]) {
    let said = String::from_utf8_lossy(bytes);
    let text = "work_mem = '1'\na b = '2'\n";
    for (name, why) in check::complaints(&said, "c", text) {
        let is_set = ["work_mem", "a b"].contains(&name.as_str());
        assert!(is_set || said.contains(&format!("\"{name}\"")), "{name:?}");
        assert!(
            why.len() <= said.len() + 3 * said.lines().count(),
            "{why:?}"
        );
    }
}

/// A timeline history file: what is read, written again, reads as the same, and there is no more of
/// it than lines.
pub fn timeline_history(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let switches = history::parse(&text);
    assert!(switches.len() <= text.lines().count());
    let mut written = String::new();
    for switch in &switches {
        let (timeline, point) = (switch.timeline_id, switch.switch_point);
        let _ = writeln!(written, "{timeline}\t{point}\t{}", switch.reason);
    }
    assert_eq!(history::parse(&written), switches, "{written:?}");
}

/// `pg_basebackup`'s words, however they are cut: little is kept of them, progress never goes beyond
/// the whole, and what is complained of is not progress.
pub fn basebackup_progress(bytes: &[u8]) {
    let mut said = Said::default();
    let size = bytes.first().map_or(1, |first| usize::from(*first).max(1));
    for piece in bytes.chunks(size) {
        if let Some(progress) = said.hear(piece) {
            assert!(progress.percent() <= 100, "{progress:?}");
        }
    }
    let complaint = said.complaint();
    assert!(complaint.len() <= KEPT_OUTPUT, "{}", complaint.len());
    assert!(!complaint.lines().any(|line| parse_progress(line).is_some()));
    let line = String::from_utf8_lossy(bytes);
    if let Some(progress) = parse_progress(&line) {
        let (done, total) = (progress.done_kib, progress.total_kib);
        let printed = format!("{done}/{total} kB (1%), 0/1 tablespace");
        assert_eq!(parse_progress(&printed), Some(progress));
    }
}

/// `postgres --version`: a version is never negative.
pub fn postgres_version(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(version) = installation::parse_version(&text) {
        assert!(version.major >= 0 && version.minor >= 0, "{version:?}");
        let printed = format!("postgres (PostgreSQL) {}.{}", version.major, version.minor);
        assert_eq!(installation::parse_version(&printed), Some(version));
    }
}

/// `postmaster.pid`: a pid that can be sent a signal, and never the whole of a group.
pub fn pid_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(pid) = data_dir::parse_pid(&text) {
        assert!(pid > 0);
        assert_eq!(data_dir::parse_pid(&format!("{pid}\n/data\n")), Some(pid));
    }
}

/// `/proc/pid/stat` of a process with any name.
pub fn process_stat(bytes: &[u8]) {
    let _ = process::parse_stat(bytes);
    let stat = [b"42 (", bytes, b") Z 1 42 42 0 -1 4194304"].concat();
    assert_eq!(process::parse_stat(&stat), Some(('Z', 1)));
}
