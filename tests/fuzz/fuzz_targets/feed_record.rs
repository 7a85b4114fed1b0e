//! Bytes as a record that a feed writer sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| e2e::outside::feed_record(bytes));
