//! Bytes as an access token, its claims, or a key set.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| e2e::outside::token(bytes));
