//! End-to-end tests: one binary, one process, one set of servers.

mod api;
mod api_stage;
mod audit;
mod database;
mod entra;
#[cfg(feature = "fail-points")]
mod kills;
mod limiter;
mod messaging;
mod mitigation;
mod okta;
mod outage;
mod servers;
mod service;
mod stack;
mod sync;
mod sync_stage;
mod validator;
mod work;
