//! Durations as Go reads and prints them: `5s`, `1m30s`, `48h0m0s`, `500ms`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A signed duration in nanoseconds, a string on the wire (Go's `time.Duration`: `ParseDuration`
/// in, `String` out).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct GoDuration(i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form Go accepts.
    #[error(
        "invalid duration {0:?}: expected numbers with units (ns, us, ms, s, m, h), for example 1m30s"
    )]
    Malformed(String),
    /// More than 2562047h47m16.854775807s, which is all that 64 bits of nanoseconds hold.
    #[error("duration {0:?} is too long: at most 2562047h47m16.854775807s")]
    TooLong(String),
}

impl GoDuration {
    /// The duration of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The duration of so many seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds, negative ones included.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As a length of time; zero when negative.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl std::str::FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(DurationError::Malformed(text.to_owned()));
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (nanos, after) =
                component(rest).ok_or_else(|| DurationError::Malformed(text.to_owned()))?;
            total = total.saturating_add(nanos);
            rest = after;
        }
        let signed = if negative {
            total.saturating_neg()
        } else {
            total
        };
        i64::try_from(signed)
            .map(Self)
            .map_err(|_| DurationError::TooLong(text.to_owned()))
    }
}

/// One number with its unit at the start of `text`, in nanoseconds, and what follows it.
fn component(text: &str) -> Option<(i128, &str)> {
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // 2^63 ns has 19 digits: more than 25 digits are too long whatever the unit.
    let whole: i128 = if whole.is_empty() {
        0
    } else if whole.trim_start_matches('0').len() > 25 {
        i128::from(i64::MAX).saturating_mul(2)
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(scale)?;
    let mut part = scale;
    for digit in fraction.bytes() {
        part /= 10;
        nanos = nanos.checked_add(part.checked_mul(i128::from(digit.saturating_sub(b'0')))?)?;
    }
    Some((nanos, rest))
}

impl TryFrom<String> for GoDuration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GoDuration> for String {
    fn from(duration: GoDuration) -> Self {
        duration.to_string()
    }
}

impl std::fmt::Display for GoDuration {
    /// As Go prints it: the largest unit that leaves a whole part, every smaller one after it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            let (scale, digits, unit) = match nanos {
                0..1_000 => (1, 0, "ns"),
                1_000..1_000_000 => (1_000, 3, "µs"),
                _ => (1_000_000, 6, "ms"),
            };
            return write!(f, "{}{unit}", decimal(nanos / scale, nanos % scale, digits));
        }
        let seconds = nanos / 1_000_000_000;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(seconds, nanos % 1_000_000_000, 9))
    }
}

/// A number with a fraction of `digits` digits, trailing zeros left out.
fn decimal(whole: u64, fraction: u64, digits: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}
