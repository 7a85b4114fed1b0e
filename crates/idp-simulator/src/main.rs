//! The simulator process.
fn main() {}
