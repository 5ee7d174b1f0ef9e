//! How far behind a standby may be that clients read from.

use std::time::Duration;

use crate::model::GoDuration;

/// A bound on bytes and on time; what is not given is not bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of WAL that the primary has and the standby has not replayed.
    pub bytes: Option<u64>,
    /// How long ago the standby was last known to show everything.
    pub time: Option<Duration>,
}

/// Why a text is not a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected bytes as 32MB, a time as 30s, or both as 32MB,30s")]
pub struct LagError;

/// PostgreSQL's units of memory (manual, "Parameter Names and Values").
const UNITS: [(&str, u32); 5] = [("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40), ("B", 0)];

impl std::str::FromStr for Lag {
    type Err = LagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lag = Self {
            bytes: None,
            time: None,
        };
        for part in text.split(',').map(str::trim) {
            if let Some(found) = bytes(part) {
                lag.bytes = Some(found).filter(|_| lag.bytes.is_none());
                lag.bytes.ok_or(LagError)?;
            } else {
                lag.time = Some(time(part)?).filter(|_| lag.time.is_none());
                lag.time.ok_or(LagError)?;
            }
        }
        Ok(lag)
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    let number: u64 = number.trim().parse().ok()?;
    number.checked_mul(1 << shift)
}

fn time(text: &str) -> Result<Duration, LagError> {
    let time: GoDuration = text.parse().map_err(|_| LagError)?;
    if time.as_nanos() > 0 {
        Ok(time.to_std())
    } else {
        Err(LagError)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lag, LagError};
    use std::time::Duration;

    #[test]
    fn bytes_time_or_both_are_read() {
        let lag = |bytes, seconds: Option<u64>| {
            Ok(Lag {
                bytes,
                time: seconds.map(Duration::from_secs),
            })
        };
        for (text, expected) in [
            ("32MB,30s", lag(Some(32 << 20), Some(30))),
            ("1m, 512 kB", lag(Some(512 << 10), Some(60))),
            ("0B", lag(Some(0), None)),
            ("2TB", lag(Some(2 << 40), None)),
            ("1h30m", lag(None, Some(5400))),
            ("", Err(LagError)),
            ("32", Err(LagError)),
            ("32MB,", Err(LagError)),
            ("1s,2s", Err(LagError)),
            ("1MB,2MB", Err(LagError)),
            ("0s", Err(LagError)),
            ("-5s", Err(LagError)),
            ("-5MB", Err(LagError)),
            ("99999999999999TB", Err(LagError)),
        ] {
            assert_eq!(text.parse::<Lag>(), expected, "{text}");
        }
    }
}
