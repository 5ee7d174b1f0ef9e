//! Positions in the write-ahead log.

use serde::{Deserialize, Serialize};

/// A byte position in the WAL (`pg_lsn`). 0 is "unknown"; JSON holds the plain number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);

    /// The usual size of a WAL file (`wal_segment_size`), the only one that the Go program knows.
    pub const WAL_FILE: u64 = 16 << 20;

    /// Where a WAL file begins, by its name: the timeline, the upper half of the position, and the
    /// number of the segment in the lower half, each of eight hexadecimal digits (PostgreSQL's
    /// `xlog_internal.h`); unknown when it is no such name.
    pub fn of_wal_file(name: &str, segment: u64) -> Self {
        let number = |from: usize| {
            let digits = name.get(from..from.saturating_add(8))?;
            u64::from_str_radix(digits, 16).ok()
        };
        let begin = || (number(8)? << 32).checked_add(number(16)?.checked_mul(segment)?);
        begin().map_or(Self::UNKNOWN, Self)
    }

    /// Bytes from `behind` up to this position; 0 when `behind` is not behind.
    pub const fn bytes_ahead_of(self, behind: Self) -> u64 {
        self.0.saturating_sub(behind.0)
    }
}

/// Why a text is not a WAL position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL position {0:?}: expected two hexadecimal numbers, for example 16/B374D848")]
pub struct LsnError(String);

impl std::str::FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || LsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(refused)?;
        let half = |part: &str| {
            let hex = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
            if hex {
                u32::from_str_radix(part, 16).ok()
            } else {
                None
            }
        };
        let (high, low) = (
            half(high).ok_or_else(refused)?,
            half(low).ok_or_else(refused)?,
        );
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A WAL timeline. 0 is "unknown"; the first real one is 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u64);

impl std::fmt::Display for TimelineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Lsn;

    /// Scenario C6: as PostgreSQL's `pg_walfile_name` names them with files of each size.
    #[test]
    fn a_file_begins_where_its_size_says() {
        for (megabytes, name, position) in [
            (1, "000000010000000200000003", "2/300000"),
            (1, "000000010000000200000FFF", "2/FFF00000"),
            (16, "0000000100000002000000FF", "2/FF000000"),
            (64, "00000001000000020000003F", "2/FC000000"),
            (1024, "000000010000000200000003", "2/C0000000"),
        ] {
            let found = Lsn::of_wal_file(name, megabytes << 20);
            assert_eq!(found.to_string(), position, "{name} of {megabytes} MB");
        }
        assert_eq!(Lsn::of_wal_file("backup_label", 1 << 20), Lsn::UNKNOWN);
    }
}
