//! The risk of a user, where the org has Identity Threat Protection (§5): how Okta is told that an account is compromised.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{client::Client, failure, listing::user_path};
use crate::provider::{ProviderError, http::Answer};

/// What setting a risk and seeing it take.
pub(super) const SCOPES: [&str; 2] = ["okta.userRisk.manage", "okta.userRisk.read"];
const BUCKET: &str = "user_risk";

/// A level with the reason that the org's administrators see.
pub(super) struct Risk {
    level: &'static str,
    reason: &'static str,
}

pub(super) const COMPROMISED: Risk = Risk { level: "HIGH", reason: "Leaked credential confirmed" };
/// The lowest level that can be set: no call takes a risk away.
pub(super) const WITHDRAWN: Risk = Risk { level: "LOW", reason: "Leaked credential withdrawn" };

impl Risk {
    fn body(&self) -> Value {
        json!({"riskLevel": self.level, "riskReason": self.reason})
    }
}

/// Sets a user's risk.
pub(super) async fn set(client: &Client, object_id: &str, risk: &Risk) -> Result<Answer, ProviderError> {
    let path = format!("{}/risk", user_path(object_id)?);
    client.call_with(Method::PUT, BUCKET, &path, &risk.body()).await
}

/// Whether the org holds a user to be compromised; `None` where it does not tell us.
pub(super) async fn is_compromised(client: &Client, object_id: &str) -> Result<Option<bool>, ProviderError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Level {
        risk_level: String,
    }
    let path = format!("{}/risk", user_path(object_id)?);
    let answer = client.call(Method::GET, BUCKET, &path).await?;
    match answer.status {
        200 => Ok(Some(answer.json::<Level>()?.risk_level == COMPROMISED.level)),
        _ => match failure::of(&answer) {
            ProviderError::Refused(_) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_hold_only_what_okta_accepts() {
        for risk in [COMPROMISED, WITHDRAWN] {
            assert!(["HIGH", "MEDIUM", "LOW"].contains(&risk.level));
            let fits = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "-,.".contains(c);
            assert!(risk.reason.len() <= 500 && risk.reason.chars().all(fits));
        }
    }
}
