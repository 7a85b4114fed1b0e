//! Error bodies of the token endpoint and of Graph (entra.md §3 and §7.2).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::wire::{self, Request};

/// `(code, HTTP status, error, suberror, text)` as entra.md §3.2 and §5 list them.
#[rustfmt::skip]
#[expect(clippy::unreadable_literal, reason = "these are names, read digit by digit")]
const CODES: &[(u32, u16, &str, &str, &str)] = &[
    (16003, 400, "invalid_grant", "", "Application requested a user session which does not match any account in the tenant."),
    (50012, 401, "invalid_client", "", "Authentication failed."),
    (50020, 400, "invalid_grant", "", "User account from identity provider does not exist in tenant and cannot access the application."),
    (50034, 400, "invalid_grant", "", "The user account {EmailHidden} does not exist in the directory. To sign into this application, the account must be added to the directory."),
    (50049, 400, "invalid_instance", "", "Unknown or invalid instance."),
    (50053, 400, "invalid_grant", "", "The account is locked, you've tried to sign in too many times with an incorrect user ID or password."),
    (50055, 400, "invalid_grant", "user_password_expired", "The password is expired."),
    (50056, 400, "invalid_grant", "", "Invalid or null password: password does not exist in the directory for this user."),
    (50057, 400, "invalid_grant", "", "The user account is disabled."),
    (50059, 400, "invalid_request", "", "No tenant-identifying information found in either the request or implied by any provided credentials."),
    (50076, 400, "invalid_grant", "basic_action", "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access the resource."),
    (50079, 400, "invalid_grant", "basic_action", "Due to a configuration change made by your administrator, or because you moved to a new location, you must enroll in multi-factor authentication to access the resource."),
    (50105, 400, "invalid_grant", "", "Your administrator has configured the application to block users unless they are specifically granted access to the application."),
    (50126, 400, "invalid_grant", "", "Error validating credentials due to invalid username or password."),
    (50142, 400, "invalid_grant", "", "Password change is required due to a conditional access policy."),
    (50144, 400, "invalid_grant", "user_password_expired", "The user's Active Directory password has expired."),
    (50158, 400, "invalid_grant", "", "External security challenge not satisfied."),
    (53000, 400, "invalid_grant", "message_only", "Device is not in required device state: compliant."),
    (53003, 400, "invalid_grant", "message_only", "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance."),
    (50173, 400, "invalid_grant", "bad_token", "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have changed or reset their password."),
    (65001, 400, "invalid_grant", "consent_required", "The user or administrator has not consented to use the application."),
    (70003, 400, "unsupported_grant_type", "", "The app requested an unsupported grant type."),
    (70011, 400, "invalid_scope", "", "The provided request must include a 'scope' input parameter. The provided value is not valid."),
    (80001, 400, "invalid_grant", "", "Authentication Agent unable to connect to Active Directory."),
    (80002, 400, "invalid_grant", "", "Authentication Agent timed out connecting to Active Directory."),
    (80014, 400, "invalid_grant", "", "Validation request responded after maximum elapsed time exceeded."),
    (90002, 400, "invalid_tenant", "", "Tenant not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."),
    (500011, 400, "invalid_resource", "", "The resource principal was not found in the tenant."),
    (500208, 400, "invalid_grant", "", "The domain is not a valid login domain for the account type."),
    (700005, 400, "invalid_grant", "", "The provided Authorization Code or Refresh Token is intended to be used against another tenant or application."),
    (700016, 400, "unauthorized_client", "", "Application was not found in the directory. This can happen if the application has not been installed by the administrator of the tenant."),
    (700025, 401, "invalid_client", "", "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."),
    (700027, 401, "invalid_client", "", "The certificate with identifier used to sign the client assertion is not registered on application."),
    (700038, 400, "unauthorized_client", "", "The application id is not a valid application identifier."),
    (900023, 400, "invalid_request", "", "Specified tenant identifier is neither a valid DNS name, nor a valid external domain."),
    (900144, 400, "invalid_request", "", "The request body must contain a required parameter that is missing."),
    (1002012, 400, "invalid_scope", "", "The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."),
    (7000112, 400, "unauthorized_client", "", "Application is disabled."),
    (7000215, 401, "invalid_client", "", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to the app."),
    (7000218, 401, "invalid_client", "", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."),
    (7000222, 401, "invalid_client", "", "The provided client secret keys are expired."),
    (9001023, 400, "invalid_request", "", "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or tenant-specific endpoint."),
    (9002313, 400, "invalid_request", "", "Invalid request. Request is malformed or invalid."),
];

/// Codes whose live answers carried no `error_uri`.
const WITHOUT_URI: [u32; 2] = [70003, 700_038];

/// An error of the token endpoint. Codes not in the table are answered as `400 invalid_grant`.
pub fn oauth(request: &Request, now: OffsetDateTime, code: u32, detail: &str) -> Response<Bytes> {
    let known = CODES.iter().find(|(known, ..)| *known == code);
    let (status, error, suberror, text) = known
        .map_or((400, "invalid_grant", "", "Sign-in was interrupted."), |(_, s, e, sub, t)| {
            (*s, *e, *sub, *t)
        });
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let timestamp = now.format(format).unwrap_or_default();
    let trace_id = uuid::Uuid::new_v4().to_string();
    let correlation_id = request
        .header("client-request-id")
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), ToString::to_string);
    let detail = if detail.is_empty() { String::new() } else { format!(" [Reason - {detail}]") };
    let mut body = json!({
        "error": error,
        "error_description": format!("AADSTS{code}: {text}{detail} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"),
        "error_codes": [code],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
    });
    if let Some(body) = body.as_object_mut() {
        if !suberror.is_empty() {
            body.insert("suberror".into(), suberror.into());
        }
        if !WITHOUT_URI.contains(&code) {
            body.insert("error_uri".into(), format!("{}/error?code={code}", request.base).into());
        }
    }
    let mut response = wire::json(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &body);
    no_store(&mut response);
    response
}

/// The caching headers of every token endpoint answer.
pub fn no_store(response: &mut Response<Bytes>) {
    response.headers_mut().remove(http::header::CACHE_CONTROL);
    wire::set_header(response, "cache-control", "no-store, no-cache");
    wire::set_header(response, "pragma", "no-cache");
}

/// An error of Graph.
pub fn graph(
    request: &Request,
    now: OffsetDateTime,
    status: u16,
    code: &str,
    message: &str,
) -> Response<Bytes> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let inner = json!({
        "date": now.format(format).unwrap_or_default(),
        "request-id": uuid::Uuid::new_v4().to_string(),
        "client-request-id": request.header("client-request-id").map_or_else(|| uuid::Uuid::new_v4().to_string(), ToString::to_string),
    });
    let body: Value = json!({"error": {"code": code, "message": message, "innerError": inner}});
    wire::json(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &body)
}

/// 400 for a write the directory does not accept.
pub fn bad(request: &Request, now: OffsetDateTime, message: &str) -> Response<Bytes> {
    graph(request, now, 400, "Request_BadRequest", message)
}

/// 400 for writing what is mastered in AD.
pub fn mastered(request: &Request, now: OffsetDateTime) -> Response<Bytes> {
    let message = "Unable to update the specified properties for on-premises mastered Directory Sync objects or \
        objects currently undergoing migration.";
    bad(request, now, message)
}

/// 403 for a missing permission or a protected target.
pub fn denied(request: &Request, now: OffsetDateTime) -> Response<Bytes> {
    graph(
        request,
        now,
        403,
        "Authorization_RequestDenied",
        "Insufficient privileges to complete the operation.",
    )
}

/// 404 for an object that is not there.
pub fn not_found(request: &Request, now: OffsetDateTime, id: &str) -> Response<Bytes> {
    let message = format!(
        "Resource '{id}' does not exist or one of its queried reference-property objects are not present."
    );
    graph(request, now, 404, "Request_ResourceNotFound", &message)
}

/// 400 in the words Graph uses for queries it does not support.
pub fn unsupported(request: &Request, now: OffsetDateTime, message: &str) -> Response<Bytes> {
    graph(request, now, 400, "Request_UnsupportedQuery", message)
}

/// An error of the token endpoint, without particulars.
pub fn oauth_refusal(request: &Request, now: OffsetDateTime, code: u32) -> Response<Bytes> {
    oauth(request, now, code, "")
}

/// An error of Graph that says no more than its code.
pub fn graph_refusal(request: &Request, now: OffsetDateTime, status: u16, code: &str) -> Response<Bytes> {
    graph(request, now, status, code, "The service cannot answer this request.")
}
