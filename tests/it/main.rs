//! End-to-end tests: one binary, one process, one set of servers.

mod okta;
mod servers;
mod stack;
