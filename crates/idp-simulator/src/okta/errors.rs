//! Refusals in Okta's words (okta.md §1.4, §2, §6).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::wire::{self, Request};

/// Code, status and summary.
const CODES: &[(&str, u16, &str)] = &[
    ("E0000001", 400, "Api validation failed"),
    ("E0000003", 400, "The request body was not well-formed."),
    ("E0000004", 401, "Authentication failed"),
    ("E0000006", 403, "You do not have permission to perform the requested action"),
    ("E0000007", 404, "Not found"),
    ("E0000008", 404, "The requested path was not found"),
    ("E0000009", 500, "Internal Server Error"),
    ("E0000010", 503, "Service is in read only mode"),
    ("E0000011", 401, "Invalid token provided"),
    ("E0000015", 401, "You do not have permission to access the feature you are requesting"),
    ("E0000016", 403, "Activation failed because the user is already active"),
    ("E0000022", 405, "The endpoint does not support the provided HTTP method"),
    ("E0000028", 400, "The request is missing a required parameter."),
    ("E0000031", 400, "Invalid search criteria."),
    ("E0000032", 403, "Unlock is not allowed for this user."),
    ("E0000038", 403, "This operation is not allowed in the user's current status."),
    ("E0000047", 429, "API call exceeded rate limit due to too many requests."),
    ("E0000053", 400, "Invalid filter"),
    ("E0000064", 401, "Password is expired and must be changed."),
    ("E0000069", 403, "User Locked"),
    ("E0000085", 403, "You do not have permission to access your account at this time."),
    ("E0000023", 403, "Operation failed because user profile is mastered under another system"),
    ("E0000093", 400, "Target count limit exceeded"),
    ("E0000100", 503, "Unable to perform search query."),
    (
        "E0000124",
        400,
        "Could not create user. To create a user and expire their password immediately, a password must be specified",
    ),
    (
        "E0000125",
        400,
        "Could not create user. To create a user and expire their password immediately, \"activate\" must be true",
    ),
    ("E0000207", 401, "The username and/or the password you entered is incorrect. Please try again."),
    ("E0000215", 410, "This endpoint has been deprecated."),
    ("E0000231", 412, "ETag not matched"),
    ("E0000259", 403, "Login not allowed at this time. Reset your password."),
];

/// A management error with its catalogue text.
pub fn error(code: &str) -> Response<Bytes> {
    because(code, "", &[])
}

/// A management error with what it is about and its causes.
pub fn because(code: &str, about: &str, causes: &[&str]) -> Response<Bytes> {
    let (_, status, summary) =
        CODES.iter().find(|row| row.0 == code).copied().unwrap_or((code, 400, "Unknown error"));
    let summary = if about.is_empty() { summary.to_owned() } else { format!("{summary}: {about}") };
    let causes: Vec<Value> = causes.iter().map(|cause| json!({"errorSummary": cause})).collect();
    let id = format!("oae{}", uuid::Uuid::new_v4().simple());
    wire::json(
        StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        &json!({"errorCode": code, "errorSummary": summary, "errorLink": code, "errorId": id, "errorCauses": causes}),
    )
}

/// Rewrites the causes of a refusal to an object, as some of Okta's documentation shows them.
pub fn causes_as_object(response: &mut Response<Bytes>) {
    let Ok(mut body) = serde_json::from_slice::<Value>(response.body()) else { return };
    let Some(causes) = body.get_mut("errorCauses") else { return };
    let first = causes.as_array().and_then(|causes| causes.first()).cloned();
    *causes = first.unwrap_or_else(|| json!({}));
    *response.body_mut() = Bytes::from(body.to_string());
}

/// 404 for a user.
pub fn no_user(key: &str) -> Response<Bytes> {
    because("E0000007", &format!("Resource not found: {key} (User)"), &[])
}

/// An error of the token endpoint.
pub fn oauth(status: u16, error: &str, description: &str) -> Response<Bytes> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    wire::json(status, &json!({"error": error, "error_description": description}))
}

/// The OAuth layer in front of the API: no body, only a challenge.
pub fn challenge(
    request: &Request,
    scheme: &str,
    status: u16,
    error: &str,
    description: &str,
    scope: &str,
) -> Response<Bytes> {
    let mut response = wire::empty(StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED));
    // Okta writes http:// here.
    let root = request.base.replacen("https://", "http://", 1);
    let scope = if scope.is_empty() { String::new() } else { format!(" scope=\"{scope}\",") };
    let value = format!(
        "{scheme} authorization_uri=\"{root}/oauth2/v1/authorize\", realm=\"{root}\",{scope} error=\"{error}\", \
         error_description=\"{description}\", resource=\"{}\"",
        request.path
    );
    wire::set_header(&mut response, "www-authenticate", &value);
    response
}
