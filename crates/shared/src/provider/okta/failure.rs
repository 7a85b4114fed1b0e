//! What the org's refusals mean, as data (§1.4, §2, §6).

use serde::Deserialize;

use super::rate;
use crate::provider::{Missing, ProviderError, http::Answer};

/// Okta's error body; everything may be missing (§6).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ErrorBody {
    error_code: Option<String>,
}

/// The error code of a management answer, when it has Okta's shape: `E` and seven digits.
pub(super) fn code(answer: &Answer) -> Option<String> {
    let code = answer.json::<ErrorBody>().ok()?.error_code?;
    let digits = code.strip_prefix('E')?;
    (digits.len() == 7 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(code)
}

/// One management refusal: HTTP status, Okta code, our reason, whether a grant is missing, and what to do about it.
type Row = (u16, &'static str, &'static str, bool, &'static str);

/// Refusals that a person has to resolve.
const REFUSALS: &[Row] = &[
    (
        401,
        "E0000011",
        "token_invalid",
        false,
        "Okta refuses the access token; check that the service app is active",
    ),
    (401, "E0000015", "licence_missing", false, "the org does not have the feature this call belongs to"),
    (
        403,
        "E0000005",
        "method_unavailable",
        false,
        "the org does not accept a service app's token for this call",
    ),
    (
        403,
        "E0000006",
        "role_missing",
        true,
        "the service app's admin role does not allow this; assign one under Admin roles of the app, covering all users",
    ),
    (404, "E0000008", "method_unavailable", false, "the org does not offer this call"),
    (405, "E0000022", "method_unavailable", false, "the org does not offer this call"),
    (410, "E0000215", "method_unavailable", false, "the org no longer offers this call"),
];

/// What needs no code to be understood. Okta tells the wait of a 429 in headers of its own.
fn trouble(answer: &Answer) -> Option<ProviderError> {
    match answer.status {
        429 => Some(ProviderError::Throttled { retry_after: Some(rate::throttled_for(answer)) }),
        300..400 => Some(ProviderError::Protocol("a redirect")),
        _ => answer.trouble(),
    }
}

/// Turns a management answer that is not a success into an error.
pub(super) fn of(answer: &Answer) -> ProviderError {
    let code = code(answer);
    if let Some(trouble) = trouble(answer) {
        return trouble;
    }
    if let Some(code) = &code {
        let row = REFUSALS.iter().find(|row| row.0 == answer.status && row.1 == code);
        return row.map_or(ProviderError::Protocol("an error code that does not belong here"), |row| {
            ProviderError::Refused(Missing { reason: row.2, message: row.4.into(), not_granted: row.3 })
        });
    }
    oauth_layer(answer).unwrap_or(ProviderError::Protocol("an error without a code"))
}

/// The OAuth layer answers with an empty body and `WWW-Authenticate` (§1.4).
fn oauth_layer(answer: &Answer) -> Option<ProviderError> {
    let challenge = answer.header("www-authenticate")?;
    let refused = |reason, not_granted, message: String| {
        Some(ProviderError::Refused(Missing { reason, message, not_granted }))
    };
    if challenge.contains("insufficient_scope") {
        let scope = parameter(challenge, "scope").filter(|s| is_scope(s)).unwrap_or("the scope of this call");
        return refused(
            "consent_missing",
            true,
            format!("grant {scope} to the service app under Okta API scopes"),
        );
    }
    if challenge.contains("use_dpop_nonce") {
        return Some(ProviderError::Protocol("the DPoP nonce was refused twice"));
    }
    if challenge.to_ascii_lowercase().contains("dpop") && answer.status == 400 {
        return refused(
            "dpop_refused",
            false,
            "the org refuses our DPoP proof; check the clock of this machine".into(),
        );
    }
    (answer.status == 401).then_some(())?;
    refused(
        "token_invalid",
        false,
        "Okta refuses the access token; check that the service app is active".into(),
    )
}

/// A quoted parameter of a challenge.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b' '))
}

/// Whether a refusal asks for a proof with a (new) nonce (§1.2).
pub(super) fn wants_nonce(answer: &Answer) -> bool {
    matches!(answer.status, 400 | 401)
        && answer.headers.contains_key("dpop-nonce")
        && (answer.header("www-authenticate").is_some_and(|c| c.contains("use_dpop_nonce"))
            || token_error(answer).is_some_and(|e| e.error == "use_dpop_nonce"))
}

/// Whether a token was refused because the org does not know one of the scopes; one that is not granted is none such.
pub(super) fn scope_is_unknown(answer: &Answer) -> bool {
    answer.status == 400 && token_error(answer).is_some_and(|e| e.error == "invalid_scope")
}

/// Whether a refusal means that the access token is dead.
pub(super) fn token_is_dead(answer: &Answer) -> bool {
    answer.status == 401
        && match code(answer) {
            Some(code) => code == "E0000011",
            None => answer.headers.contains_key("www-authenticate"),
        }
}

#[derive(Debug, Deserialize)]
struct TokenError {
    error: String,
    #[serde(default)]
    error_description: String,
}

fn token_error(answer: &Answer) -> Option<TokenError> {
    answer.json().ok()
}

/// What an `invalid_client` description is about: words of the runtime catalogue (§2). They only choose the advice;
/// the decision that the integration is refused stands with the error itself.
const ABOUT: &[(&str, &str, &str)] = &[
    (
        "jwks_uri",
        "jwks_unreachable",
        "Okta cannot use the keys at the integration's JWKS URL; check that the URL is saved in the app and reachable \
         from the Internet",
    ),
    (
        "does not have a JWKSet",
        "key_missing",
        "the service app has no keys; save the integration's JWKS URL in it",
    ),
    (
        "JWT kid",
        "key_unknown",
        "Okta does not know our key yet; check the JWKS URL in the app, or wait for its cache",
    ),
    ("signature", "key_unknown", "Okta holds another key for us; check the JWKS URL in the app"),
    ("JWKSet", "key_missing", "the service app's keys are unusable; save the integration's JWKS URL in it"),
    ("expired", "clock", "the clock of this machine or of the org is wrong"),
    ("too far into the future", "clock", "the clock of this machine is ahead"),
    ("before the current time", "clock", "the clock of this machine is ahead"),
    ("audience", "host_mismatch", "the org answers under another host name; use the org's own name"),
    (
        "token_endpoint_auth_method",
        "client_type",
        "the service app must authenticate its client with a public key / private key",
    ),
    ("application_type", "client_type", "the application must be of the type API Services"),
    ("client_id", "client_unknown", "the client id is unknown to the org, or the app is deactivated"),
];

/// Whether the org does not hold the key that signed.
pub(super) fn key_is_unknown(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Refused(Missing { reason: "key_unknown", .. }))
}

/// Turns a refused token request into an error (§2). Only `error` and the status decide.
pub(super) fn of_token(answer: &Answer) -> ProviderError {
    if let Some(trouble) = trouble(answer) {
        return trouble;
    }
    let Some(error) = token_error(answer) else {
        return match answer.status {
            404 => refused("host_unknown", false, "there is no Okta org at this host"),
            _ => ProviderError::Protocol("a token error without a name"),
        };
    };
    match error.error.as_str() {
        "invalid_client" => {
            let about = ABOUT.iter().find(|(words, ..)| error.error_description.contains(words));
            let (reason, advice) =
                about.map_or(("client_refused", "Okta refuses the service app"), |row| (row.1, row.2));
            refused(reason, false, advice)
        }
        "consent_required" => refused(
            "consent_missing",
            true,
            "none of our scopes is granted; grant okta.users.read under Okta API scopes of the service app",
        ),
        "invalid_scope" => refused("consent_missing", true, "the org does not know one of our scopes"),
        "unauthorized_client" | "unsupported_grant_type" => refused(
            "client_type",
            false,
            "the application may not use client credentials; it must be of the type API Services",
        ),
        "access_denied" => refused(
            "network_zone",
            false,
            "the service app is restricted to network zones that do not contain our address",
        ),
        "invalid_dpop_proof" => {
            refused("dpop_refused", false, "the org refuses our DPoP proof; check the clock of this machine")
        }
        "temporarily_unavailable" | "server_error" => ProviderError::Unavailable { status: answer.status },
        _ => ProviderError::Protocol("an unknown token error"),
    }
}

fn refused(reason: &'static str, not_granted: bool, message: &str) -> ProviderError {
    ProviderError::Refused(Missing { reason, message: message.into(), not_granted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Answer { status, headers: map, body: body.to_owned().into() }
    }

    fn reason(error: &ProviderError) -> &'static str {
        match error {
            ProviderError::Refused(missing) => missing.reason,
            ProviderError::Throttled { .. } => "throttled",
            ProviderError::Unavailable { .. } => "unavailable",
            _ => "protocol",
        }
    }

    #[test]
    fn a_missing_scope_is_named() {
        let challenge = r#"Bearer authorization_uri="http://acme.okta.com/oauth2/v1/authorize", realm="http://acme.okta.com", scope="okta.groups.read", error="insufficient_scope", error_description="The access token provided does not contain the required scopes.", resource="/api/v1/groups/12345""#;
        let ProviderError::Refused(missing) = of(&answer(403, &[("www-authenticate", challenge)], "")) else {
            panic!("not refused");
        };
        assert_eq!(missing.reason, "consent_missing");
        assert!(missing.not_granted && missing.message.contains("okta.groups.read"));
    }

    #[test]
    fn an_empty_403_is_about_scopes_and_e0000006_about_the_role() {
        let body = r#"{"errorCode":"E0000006","errorSummary":"You do not have permission"}"#;
        assert_eq!(reason(&of(&answer(403, &[], body))), "role_missing");
        assert_eq!(reason(&of(&answer(403, &[], ""))), "protocol");
    }

    #[test]
    fn a_dead_token_is_told_from_a_feature_the_org_lacks() {
        let dead = [("www-authenticate", r#"Bearer error="invalid_token""#)];
        assert!(token_is_dead(&answer(401, &dead, "")));
        assert!(token_is_dead(&answer(401, &[], r#"{"errorCode":"E0000011"}"#)));
        assert!(!token_is_dead(&answer(401, &[], r#"{"errorCode":"E0000015"}"#)));
    }

    #[test]
    fn throttles_and_outages_are_not_refusals() {
        assert_eq!(reason(&of(&answer(429, &[], r#"{"errorCode":"E0000047"}"#))), "throttled");
        assert_eq!(reason(&of(&answer(503, &[], r#"{"errorCode":"E0000010"}"#))), "unavailable");
        assert_eq!(
            reason(&of_token(&answer(400, &[], r#"{"error":"temporarily_unavailable"}"#))),
            "unavailable"
        );
    }

    #[test]
    fn a_gateways_body_and_odd_causes_are_survived() {
        assert_eq!(
            reason(&of(&answer(404, &[], r#"{"status":404,"message":"Resource not found"}"#))),
            "protocol"
        );
        let odd = r#"{"errorCode":"E0000006","errorCauses":{"errorSummary":"x"}}"#;
        assert_eq!(reason(&of(&answer(403, &[], odd))), "role_missing");
    }

    #[test]
    fn a_code_that_is_not_okta_shaped_is_never_repeated() {
        assert_eq!(code(&answer(403, &[], r#"{"errorCode":"hunter2"}"#)), None);
    }

    #[test]
    fn every_description_of_the_catalogue_leads_to_its_advice() {
        for (description, expected) in [
            ("Invalid value for 'client_id' parameter.", "client_unknown"),
            ("The issuer claim for client_assertion is not a valid client_id.", "client_unknown"),
            (
                "The audience claim for client_assertion must be the endpoint invoked for the request.",
                "host_mismatch",
            ),
            ("The client_assertion token is expired.", "clock"),
            ("The client_assertion token has an expiration too far into the future.", "clock"),
            ("The client_assertion token must be issued before the current time.", "clock"),
            ("The client_assertion signature is invalid.", "key_unknown"),
            ("The client_assertion JWT kid is invalid.", "key_unknown"),
            ("The client JWKSet is invalid.", "key_missing"),
            (
                "The client does not have a JWKSet configured, but the client_assertion requires one.",
                "key_missing",
            ),
            ("Error retrieving the client JWKSet from jwks_uri.", "jwks_unreachable"),
            ("The client JWKSet from jwks_uri must contain at least one key.", "jwks_unreachable"),
            ("Something new.", "client_refused"),
        ] {
            let body = serde_json::json!({"error": "invalid_client", "error_description": description});
            assert_eq!(reason(&of_token(&answer(401, &[], &body.to_string()))), expected, "{description}");
        }
        let none = r#"{"error":"consent_required","error_description":"You are not allowed any of the requested scopes."}"#;
        assert_eq!(reason(&of_token(&answer(400, &[], none))), "consent_missing");
    }
}
