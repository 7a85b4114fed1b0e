//! Bytes as a message from the broker.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| e2e::outside::message(bytes));
