//! Single values: durations, moments, positions.

use crate::model::{GoDuration, Lsn};
use crate::time::Timestamp;

/// A Go duration that is read is printed as something that reads as the same.
pub fn go_duration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<GoDuration>() {
        Ok(duration) => {
            let printed = duration.to_string();
            assert_eq!(printed.parse(), Ok(duration), "{text:?} as {printed:?}");
            let std = duration.to_std();
            assert!(duration.as_nanos() < 0 || GoDuration::from(std) == duration);
        }
        Err(error) => names(&error, &text),
    }
    if let Some(nanos) = bytes.first_chunk() {
        let duration = GoDuration::from_nanos(i64::from_le_bytes(*nanos));
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
}

/// A moment that is read is printed as something that reads as the same moment, with the offset it
/// was written with.
pub fn timestamp(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Timestamp::try_from(text.clone().into_owned()) {
        Ok(stamp) => {
            let printed = stamp.to_string();
            let again = Timestamp::try_from(printed.clone());
            assert_eq!(again, Ok(stamp), "{text:?} as {printed:?}");
            assert_eq!(stamp.since(stamp), std::time::Duration::ZERO);
            // In whatever order, the distance of two stamps is a length of time.
            let _ = (
                stamp.since(Timestamp::ZERO),
                Timestamp::ZERO.since(stamp),
                stamp.is_zero(),
            );
        }
        Err(error) => names(&error, &text),
    }
}

/// A WAL position that is read is printed as something that reads as the same.
pub fn wal_position(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Lsn>() {
        Ok(lsn) => assert_eq!(lsn.to_string().parse(), Ok(lsn), "{text:?}"),
        Err(error) => names(&error, &text),
    }
    if let Some(number) = bytes.first_chunk() {
        let lsn = Lsn(u64::from_le_bytes(*number));
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
}

/// An error says which value it is about, so that it shows in a log what cannot be seen otherwise.
fn names(error: &dyn std::error::Error, text: &str) {
    let told = error.to_string();
    assert!(told.contains(&format!("{text:?}")), "{text:?}: {told}");
}
