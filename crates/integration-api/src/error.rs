//! What can go wrong in a call, and the one place where it becomes a status.

use std::{collections::HashMap, time::Duration};

use shared::{db::StoreError, sealing::SealError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "parapet";

/// A field at fault and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request.
    pub field: String,
    /// What to change.
    pub remedy: String,
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No valid token.
    #[error("{message}")]
    Unauthenticated {
        /// Stable reason.
        reason: &'static str,
        /// For the caller.
        message: &'static str,
    },
    /// The caller may not.
    #[error("{message}")]
    Denied {
        /// Stable reason.
        reason: &'static str,
        /// For the caller.
        message: String,
    },
    /// The tenant has no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// Fields are wrong.
    #[error("the request has wrong fields")]
    Invalid(Vec<Violation>),
    /// The package does not include it.
    #[error("the package does not include {entitlement}; ask {contact}")]
    NotEntitled {
        /// What is missing.
        entitlement: String,
        /// Whom to ask.
        contact: String,
    },
    /// A cap of the package is reached.
    #[error("the package allows {limit} {cap}; ask {contact}")]
    CapReached {
        /// What is capped.
        cap: &'static str,
        /// How many are allowed.
        limit: i64,
        /// Whom to ask.
        contact: String,
    },
    /// It is not in the state for it.
    #[error("{message}")]
    Precondition {
        /// Stable reason.
        reason: &'static str,
        /// For the caller, with the remedy.
        message: String,
    },
    /// It is taken.
    #[error("{message}")]
    Exists {
        /// Stable reason.
        reason: &'static str,
        /// For the caller.
        message: String,
    },
    /// Somebody else changed it meanwhile.
    #[error("{message}")]
    Stale {
        /// Stable reason.
        reason: &'static str,
        /// For the caller.
        message: &'static str,
    },
    /// Too much is under way.
    #[error("{0}")]
    Busy(&'static str),
    /// Something this call needs is away.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A bug of ours; the text is for the log.
    #[error("{0}")]
    Internal(&'static str),
}

impl ApiError {
    /// One wrong field.
    pub fn field(field: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.into(), remedy: remedy.into() }])
    }
}

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(3);

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        let message = error.to_string();
        let mut info = |reason: &str, facts: HashMap<String, String>| {
            details.set_error_info(reason, DOMAIN, facts);
        };
        let code = match &error {
            ApiError::Unauthenticated { reason, .. } => {
                info(reason, HashMap::new());
                Code::Unauthenticated
            }
            ApiError::Denied { reason, .. } => {
                info(reason, HashMap::new());
                Code::PermissionDenied
            }
            ApiError::NotFound(what) => {
                info("NOT_FOUND", HashMap::from([("resource".to_owned(), (*what).to_owned())]));
                Code::NotFound
            }
            ApiError::Invalid(violations) => {
                for Violation { field, remedy } in violations {
                    details.add_bad_request_violation(field, remedy);
                }
                let text =
                    violations.iter().map(|v| format!("{}: {}", v.field, v.remedy)).collect::<Vec<_>>();
                return Self::with_error_details(Code::InvalidArgument, text.join("; "), details);
            }
            ApiError::NotEntitled { entitlement, contact } => {
                info(
                    "NOT_ENTITLED",
                    HashMap::from([
                        ("entitlement".to_owned(), entitlement.clone()),
                        ("contact".to_owned(), contact.clone()),
                    ]),
                );
                Code::FailedPrecondition
            }
            ApiError::CapReached { cap, limit, contact } => {
                info(
                    "CAP_REACHED",
                    HashMap::from([
                        ("cap".to_owned(), (*cap).to_owned()),
                        ("limit".to_owned(), limit.to_string()),
                        ("contact".to_owned(), contact.clone()),
                    ]),
                );
                Code::FailedPrecondition
            }
            ApiError::Precondition { reason, .. } => {
                info(reason, HashMap::new());
                Code::FailedPrecondition
            }
            ApiError::Exists { reason, .. } => {
                info(reason, HashMap::new());
                Code::AlreadyExists
            }
            ApiError::Stale { reason, .. } => {
                info(reason, HashMap::new());
                Code::Aborted
            }
            ApiError::Busy(_) => {
                info("BUSY", HashMap::new());
                details.set_retry_info(Some(LATER));
                Code::ResourceExhausted
            }
            ApiError::Unavailable(_) => {
                info("UNAVAILABLE", HashMap::new());
                details.set_retry_info(Some(SOON));
                Code::Unavailable
            }
            ApiError::Store(store) if store.is_transient() => {
                tracing::warn!(error = %store, "request failed for now");
                info("UNAVAILABLE", HashMap::new());
                details.set_retry_info(Some(SOON));
                return Self::with_error_details(Code::Unavailable, "try again soon", details);
            }
            // Internals never reach the caller.
            ApiError::Store(_) | ApiError::Seal(_) | ApiError::Internal(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "request failed");
                return Self::internal("internal error");
            }
        };
        Self::with_error_details(code, message, details)
    }
}

/// Collects wrong fields, so that a caller learns of all of them at once.
#[derive(Debug, Default)]
pub struct Check(Vec<Violation>);

impl Check {
    /// Notes a wrong field unless the condition holds.
    pub fn require(&mut self, holds: bool, field: impl Into<String>, remedy: impl Into<String>) {
        if !holds {
            self.0.push(Violation { field: field.into(), remedy: remedy.into() });
        }
    }
    /// Notes the fault of a part that was checked elsewhere.
    pub fn take<T>(&mut self, part: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
        match part {
            Ok(value) => Ok(Some(value)),
            Err(ApiError::Invalid(violations)) => {
                self.0.extend(violations);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
    /// Every wrong field, as one error.
    pub fn done(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_entitlement_and_a_missing_role_are_different_answers() {
        let package =
            Status::from(ApiError::NotEntitled { entitlement: "okta".into(), contact: "sales@x".into() });
        let role = Status::from(ApiError::Denied { reason: "ROLE_MISSING", message: "needs analyst".into() });
        assert_eq!((package.code(), role.code()), (Code::FailedPrecondition, Code::PermissionDenied));
        let details = package.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["contact"].as_str()), ("NOT_ENTITLED", "sales@x"));
    }

    #[test]
    fn every_wrong_field_is_named_with_its_remedy() {
        let mut check = Check::default();
        check.require(false, "name", "give 1 to 120 characters");
        check.require(true, "id", "never");
        check.require(false, "okta.host", "give a host like acme.okta.com");
        let status = Status::from(check.done().unwrap_err());
        let fields: Vec<_> = status
            .get_error_details()
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|v| v.field.clone())
            .collect();
        assert_eq!(fields, ["name", "okta.host"]);
    }

    #[test]
    fn internals_never_reach_the_caller() {
        let status = Status::from(ApiError::Store(StoreError::Corrupt("column x of row y".into())));
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    }
}
