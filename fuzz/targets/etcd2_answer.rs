//! Run by `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stolon_store::fuzzing::etcd2_answer(bytes));
