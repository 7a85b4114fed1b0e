//! The `integration-api` process.
fn main() {}
