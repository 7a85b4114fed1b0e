//! The `identity-sync-worker` process.
fn main() {}
