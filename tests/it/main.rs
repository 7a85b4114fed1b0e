//! End-to-end tests: one binary, one process, one set of servers.

mod database;
mod entra;
mod messaging;
mod mitigation;
mod okta;
mod outage;
mod servers;
mod service;
mod stack;
mod work;
