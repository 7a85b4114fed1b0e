//! The services of `parapet.v1`: wire in, decisions and store in between, wire out.

pub mod audit;
mod audit_stream;
mod budget;
mod client_keys;
mod convert;
pub mod daily_max;
mod edit;
pub mod exposure;
pub mod identity;
pub mod ingest;
#[cfg(feature = "fuzzing")]
pub use ingest_record::fuzzed as record_fuzzed;
mod ingest_record;
pub mod installation;
pub mod integration;
mod integration_draft;
mod integration_events;
mod integration_server;
mod integration_view;
mod integration_warnings;
mod integration_write;
pub mod keys;
pub mod mitigation;
mod mitigation_approval;
mod mitigation_cancel;
mod mitigation_plan;
mod mitigation_policy;
mod mitigation_request;
mod mitigation_undo;
mod mitigation_warnings;
mod organization;
mod overview;
pub mod removal;
mod stops;
pub mod tenant;
mod tenant_deletion;
mod triage;
pub mod validation;
pub mod validation_end;
mod validation_server;
pub mod watch;

use std::str::FromStr;

use crate::error::ApiError;

/// Reads an id.
pub(crate) fn id<T: FromStr>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::field(field, "give an id (UUID)"))
}

/// Reads an id that may be left out.
pub(crate) fn optional_id<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, ApiError> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// A person's text: not empty, not too long, printable.
pub(crate) fn is_text(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
}
