//! End-to-end tests: one binary, one process, one set of servers.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a test cannot set up or find fails it, loudly and at once"
)]
#![expect(clippy::needless_pass_by_value, reason = "tests hand over JSON literals")]

mod api;
mod api_lists;
mod api_stage;
mod approvals;
mod audit;
mod audit_commands;
mod auditor;
mod callers;
mod canary;
mod cancellation;
mod certificates;
mod changes;
mod client_key_stage;
mod client_keys;
mod commands;
mod conformance;
mod containment;
mod containment_commands;
mod daily_max;
mod database;
mod doctor;
mod entra;
mod feeds;
mod foresight;
mod garbage;
mod hub;
mod installation_doctor;
mod interruptions;
mod kept_plans;
mod key_rotation;
mod keys;
#[cfg(feature = "fail-points")]
mod kills;
mod limiter;
mod malformed;
mod messaging;
mod mitigation;
#[cfg(feature = "fail-points")]
mod mitigation_kills;
mod mitigation_requests;
mod mitigation_stage;
mod okta;
mod outage;
mod outbound;
mod policy;
mod pooler;
mod removals;
mod reopened;
mod requests;
mod retention;
mod roles;
mod rules;
mod scope;
mod separation;
mod servers;
mod service;
mod sign_in_log;
mod simulation;
mod stack;
mod stops;
mod sync;
mod sync_shown;
mod sync_stage;
mod tenants;
mod trust;
mod undo;
mod undo_since;
mod validator;
mod vault;
mod wall_views;
mod walls;
mod work;
