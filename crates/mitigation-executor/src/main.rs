//! The `mitigation-executor` process.
fn main() {}
