//! The `credential-validator` process.
fn main() {}
