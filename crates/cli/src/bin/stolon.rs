//! One program under four names.
fn main() {}
