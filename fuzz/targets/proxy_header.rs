//! Run by `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stolon_daemons::fuzzing::proxy_header(bytes));
