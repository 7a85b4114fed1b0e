//! Bytes as an answer of a directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| e2e::outside::answer(bytes));
