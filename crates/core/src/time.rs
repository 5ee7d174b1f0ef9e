//! Moments: the boot clock that decisions run on, and the wall clock that documents carry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on this machine's boot clock (`CLOCK_BOOTTIME`, which goes on while the machine
/// sleeps). Only differences mean anything, and only between moments of the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The moment `since_boot` after the machine started.
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long after the start of the machine this moment is.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this moment is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` later, or the last representable one.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// A wall-clock moment with the offset it was written with, as RFC 3339 in the store.
///
/// The offset is kept so that a document read and printed back stays the same text; two stamps
/// compare by the moment first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp {
    moment: jiff::Timestamp,
    offset_seconds: i32,
}

/// Seconds from `0001-01-01T00:00:00Z`, Go's zero time, to the Unix epoch.
const ZERO_TIME_UNIX_SECONDS: i64 = -62_135_596_800;

impl Timestamp {
    /// Go's zero time, `0001-01-01T00:00:00Z`: "never".
    pub const ZERO: Self = Self {
        moment: jiff::Timestamp::constant(ZERO_TIME_UNIX_SECONDS, 0),
        offset_seconds: 0,
    };

    /// The moment in UTC.
    pub const fn from_utc(moment: jiff::Timestamp) -> Self {
        Self {
            moment,
            offset_seconds: 0,
        }
    }

    /// Whether this is the zero time, which stands for "never".
    pub fn is_zero(self) -> bool {
        self.moment == Self::ZERO.moment
    }

    /// The moment, whatever offset it was written with.
    pub const fn moment(self) -> jiff::Timestamp {
        self.moment
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.moment.duration_since(earlier.moment)).unwrap_or(Duration::ZERO)
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

/// Why a text is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {text:?}: {cause}; expected RFC 3339, for example 2023-09-06T12:02:01.5Z")]
pub struct TimestampError {
    text: String,
    cause: String,
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let refused = |cause: &str| TimestampError {
            text: text.clone(),
            cause: cause.to_owned(),
        };
        let moment: jiff::Timestamp = text
            .parse()
            .map_err(|e: jiff::Error| refused(&e.to_string()))?;
        let pieces = jiff::fmt::temporal::Pieces::parse(&text)
            .map_err(|e: jiff::Error| refused(&e.to_string()))?;
        let offset_seconds = pieces
            .to_numeric_offset()
            .map_or(0, jiff::tz::Offset::seconds);
        // ISO 8601 has more than RFC 3339: what could not be printed back would be another moment,
        // or none, to whoever reads the document next.
        if offset_seconds % 60 != 0 {
            return Err(refused("the offset is not of whole minutes"));
        }
        let offset = jiff::tz::Offset::from_seconds(offset_seconds)
            .map_err(|e: jiff::Error| refused(&e.to_string()))?;
        if !(0..=9999).contains(&offset.to_datetime(moment).year()) {
            return Err(refused("the year is not of four digits"));
        }
        Ok(Self {
            moment,
            offset_seconds,
        })
    }
}

impl From<Timestamp> for String {
    fn from(stamp: Timestamp) -> Self {
        stamp.to_string()
    }
}

impl std::fmt::Display for Timestamp {
    /// As Go's `RFC3339Nano`: no trailing zeros in the fraction, `Z` for UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let offset =
            jiff::tz::Offset::from_seconds(self.offset_seconds).unwrap_or(jiff::tz::Offset::UTC);
        let local = offset.to_datetime(self.moment);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            local.year(),
            local.month(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second()
        )?;
        let nanos = local.subsec_nanosecond();
        if nanos != 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        if self.offset_seconds == 0 {
            return f.write_str("Z");
        }
        let sign = if self.offset_seconds < 0 { '-' } else { '+' };
        let minutes = self.offset_seconds.unsigned_abs() / 60;
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}
