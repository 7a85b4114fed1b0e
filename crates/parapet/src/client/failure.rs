//! A failure as people and programs want it: what went wrong, in which field, what helps, and an exit code.

use std::fmt;

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::login::NotLoggedIn;

/// What a command failed with.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
    #[serde(skip)]
    exit_code: u8,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Detail {
    about: String,
    text: String,
}

impl Failure {
    /// Reads the cause out of an error.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.chain().find_map(|cause| cause.downcast_ref::<Status>()) {
            Some(status) => Self::of_status(status),
            None => Self {
                error: format!("{error:#}"),
                code: None,
                details: Vec::new(),
                exit_code: if error.chain().any(<dyn std::error::Error>::is::<tonic::transport::Error>) {
                    3
                } else if error.is::<NotLoggedIn>() {
                    4
                } else {
                    1
                },
            },
        }
    }

    fn of_status(status: &Status) -> Self {
        Self {
            error: if status.message().is_empty() {
                status.code().to_string()
            } else {
                status.message().to_owned()
            },
            code: Some(code_name(status.code()).to_owned()),
            details: details(&status.get_error_details()),
            exit_code: exit_code(status.code()),
        }
    }

    /// The exit code that `parapet --help` documents.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.error)?;
        for Detail { about, text } in &self.details {
            // A single violation is the message itself.
            if self.error == format!("{about}: {text}") {
                continue;
            }
            writeln!(f, "  {about}: {text}")?;
        }
        Ok(())
    }
}

fn details(details: &ErrorDetails) -> Vec<Detail> {
    let mut all = Vec::new();
    let mut add = |about: &str, text: &str| {
        if !text.is_empty() {
            all.push(Detail { about: about.to_owned(), text: text.to_owned() });
        }
    };
    for violation in details.bad_request().iter().flat_map(|d| &d.field_violations) {
        add(&violation.field, &violation.description);
    }
    for violation in details.precondition_failure().iter().flat_map(|d| &d.violations) {
        add(&violation.subject, &violation.description);
    }
    for violation in details.quota_failure().iter().flat_map(|d| &d.violations) {
        add(&violation.subject, &violation.description);
    }
    if let Some(resource) = details.resource_info() {
        add(&resource.resource_type, &format!("{} {}", resource.resource_name, resource.description));
    }
    if let Some(info) = details.error_info() {
        add("reason", &info.reason);
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        for (key, value) in metadata {
            add(key, value);
        }
    }
    if let Some(message) = details.localized_message() {
        add("remedy", &message.message);
    }
    for link in details.help().iter().flat_map(|d| &d.links) {
        add("help", format!("{} {}", link.description, link.url).trim());
    }
    if let Some(delay) = details.retry_info().and_then(|d| d.retry_delay) {
        add("try again in", &format!("{delay:?}"));
    }
    all
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::Ok => 0,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => 1,
        Code::Unavailable | Code::DeadlineExceeded => 3,
        Code::Unauthenticated | Code::PermissionDenied => 4,
        Code::NotFound => 5,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Aborted => 6,
        Code::ResourceExhausted => 7,
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_refusal_names_the_field_and_the_remedy() {
        let details = ErrorDetails::with_bad_request_violation(
            "integration.name",
            "is taken; choose another or update that one",
        );
        let status = Status::with_error_details(Code::InvalidArgument, "the request is not valid", details);
        let error = Err::<(), _>(status).context("cannot add the integration").unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(failure.exit_code(), 6);
        let text = failure.to_string();
        assert!(text.contains("integration.name: is taken; choose another"), "{text}");
    }

    #[test]
    fn a_failure_without_status_tells_its_whole_chain() {
        let error = anyhow::anyhow!("no such file").context("cannot read the feed");
        let failure = Failure::of(&error);
        assert_eq!(failure.to_string(), "error: cannot read the feed: no such file\n");
        assert_eq!(failure.exit_code(), 1);
    }
}
