//! Chance: a generator for each component, all from one seed.
//!
//! Written here and not taken from a crate because a seed that is kept must mean the same for years;
//! the generators of crates may change with any release. The algorithm is `SplitMix64` (Steele, Lea,
//! Flood: "Fast splittable pseudorandom number generators", 2014).

use std::time::Duration;

/// One component's chance. A draw in one component does not change another's.
#[derive(Debug, Clone)]
pub struct Chance(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Chance {
    /// The chance of the component of this name and number.
    pub fn of(seed: u64, component: &str, number: u64) -> Self {
        let mut state = mixed(seed.wrapping_add(STEP));
        for byte in component.bytes() {
            state = mixed(state ^ u64::from(byte));
        }
        Self(mixed(state ^ number.wrapping_mul(STEP)))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.any() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// So many milliseconds, with microseconds drawn too, so that few things happen at one moment.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }

    /// Whether something happens that happens so many times in a thousand.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// An index into something of this length, which is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}
