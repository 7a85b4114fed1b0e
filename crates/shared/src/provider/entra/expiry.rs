//! When the application's credential ends: told by a certificate itself, and of a secret by the tenant, where we may
//! read applications.

use serde::Deserialize;
use time::OffsetDateTime;

use super::{Entra, account::date, optional};
use crate::provider::ProviderError;

/// A secret as the tenant lists it (Graph v1.0, resource type `passwordCredential`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    /// The first three characters of the value.
    hint: Option<String>,
    end_date_time: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Application {
    #[serde(default)]
    password_credentials: Vec<Listed>,
}

impl Entra {
    /// `None` when it cannot be known.
    pub(super) async fn expiry(&self) -> Result<Option<OffsetDateTime>, ProviderError> {
        let Some(hint) = self.credential.hint() else { return Ok(self.credential.not_after()) };
        let path =
            format!("/applications(appId='{}')?$select=id,passwordCredentials", self.connection.client_id);
        // An application of another tenant is not listed in this one.
        let Some(Some(answer)) = optional(self.graph.find(&path).await)? else { return Ok(None) };
        let Application { password_credentials } = answer.json()?;
        Ok(end_of(&hint, password_credentials))
    }
}

/// Of several secrets that begin like ours, the one that ends last: an old one would warn for ever.
fn end_of(hint: &str, listed: Vec<Listed>) -> Option<OffsetDateTime> {
    let ours = listed.into_iter().filter(|secret| secret.hint.as_deref() == Some(hint));
    ours.filter_map(|secret| date(secret.end_date_time.as_deref())).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_found_by_its_hint_and_the_last_end_counts() {
        let listed = || {
            let secret =
                |hint: &str, end: &str| Listed { hint: Some(hint.into()), end_date_time: Some(end.into()) };
            vec![
                secret("abc", "2026-01-01T00:00:00Z"),
                secret("xyz", "2030-01-01T00:00:00Z"),
                secret("abc", "2027-01-01T00:00:00Z"),
                Listed { hint: None, end_date_time: None },
            ]
        };
        assert_eq!(end_of("abc", listed()), Some(time::macros::datetime!(2027-01-01 00:00 UTC)));
        assert_eq!(end_of("no-", listed()), None);
    }
}
