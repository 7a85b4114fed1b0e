//! Bytes as a file of leaked credentials.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| e2e::outside::feed_file(bytes));
