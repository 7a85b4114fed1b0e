//! The `audit-writer` process.
fn main() {}
