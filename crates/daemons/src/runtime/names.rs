//! Chance: new names.

use stolon_core::model::{BootUuid, InfoUid};

/// A name for one publication.
pub fn info_uid() -> InfoUid {
    InfoUid::new(short())
}

/// 8 hexadecimal digits.
pub fn short() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// A name for one start of a keeper.
pub fn boot_uuid() -> BootUuid {
    BootUuid::new(uuid::Uuid::new_v4().to_string())
}

/// Chance for decisions.
pub fn entropy() -> u64 {
    fastrand::u64(..)
}
