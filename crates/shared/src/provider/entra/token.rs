//! App-only access tokens: cached, refreshed early, fetched by one caller at a time.

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    Hosts,
    credential::{Credential, Proof},
    verdict::codes,
};
use crate::{
    integration::EntraConnection,
    provider::{
        Missing, ProviderError,
        http::{self, Answer, Egress},
    },
};

/// Refresh this long before the end; a shorter life is used up by half.
const EARLY: Duration = Duration::from_mins(5);

/// Fetches and keeps the token of one application.
pub(super) struct Tokens {
    egress: Egress,
    url: String,
    client_id: String,
    scope: String,
    credential: Arc<Credential>,
    /// Held while fetching, so that callers wait for one request instead of sending their own.
    cached: Mutex<Option<Arc<Token>>>,
}

/// One access token.
pub(super) struct Token {
    value: Zeroizing<String>,
    refresh_at: Instant,
    expires_at: Instant,
    /// The granted application permissions the token carries; `None` when it cannot be read, since it is opaque by
    /// contract.
    pub permissions: Option<BTreeSet<String>>,
    /// Object id of our service principal, likewise.
    pub principal: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl Token {
    /// The header's value.
    pub fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.value.as_str()))
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Tokens {
    pub fn new(
        egress: Egress,
        hosts: Hosts,
        connection: &EntraConnection,
        credential: Arc<Credential>,
    ) -> Self {
        Self {
            egress,
            url: format!("https://{}/{}/oauth2/v2.0/token", hosts.login, connection.tenant),
            client_id: connection.client_id.clone(),
            scope: format!("https://{}/.default", hosts.graph),
            credential,
            cached: Mutex::new(None),
        }
    }

    /// A token that is still good for a while.
    pub async fn get(&self) -> Result<Arc<Token>, ProviderError> {
        let mut cached = self.cached.lock().await;
        let now = Instant::now();
        match &*cached {
            Some(token) if now < token.refresh_at => return Ok(token.clone()),
            _ => {}
        }
        match self.fetch().await {
            Ok(token) => Ok(cached.insert(Arc::new(token)).clone()),
            // The old one is still good: an outage of the login host must not stop us before it has to.
            Err(error) if !matches!(error, ProviderError::Refused(_)) => match &*cached {
                Some(token) if now < token.expires_at => Ok(token.clone()),
                _ => Err(error),
            },
            Err(refused) => {
                *cached = None;
                Err(refused)
            }
        }
    }

    /// Forgets a token that was refused, unless another caller has replaced it already.
    pub async fn discard(&self, refused: &Arc<Token>) {
        let mut cached = self.cached.lock().await;
        if cached.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            *cached = None;
        }
    }

    async fn fetch(&self) -> Result<Token, ProviderError> {
        let fields = [
            ("grant_type", b"client_credentials".as_slice()),
            ("client_id", self.client_id.as_bytes()),
            ("scope", self.scope.as_bytes()),
        ];
        let proof = self.credential.fields(&self.client_id, &self.url)?;
        let request = self
            .egress
            .request(::http::Method::POST, &self.url)
            .header(::http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(bytes::Bytes::from_owner(form(&fields, &proof)));
        let answer = http::send(request).await?;
        let now = Instant::now();
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        let Granted { access_token, expires_in } = answer.json()?;
        let access_token = Zeroizing::new(access_token);
        let life = Duration::from_secs(expires_in.clamp(1, 86_400));
        let claims = claims(&access_token);
        Ok(Token {
            principal: claims.as_ref().and_then(|claims| claims.oid.clone()),
            permissions: claims.map(|claims| claims.roles),
            value: access_token,
            refresh_at: now + life.saturating_sub(EARLY).max(life / 2),
            expires_at: now + life,
        })
    }
}

/// A form with the fields that prove the application, built in memory that is wiped. Empty fields are left out.
pub(super) fn form(fields: &[(&str, &[u8])], proof: &Proof) -> Zeroizing<Vec<u8>> {
    let proof = proof.iter().map(|(name, value)| (*name, value.as_slice()));
    let fields: Vec<_> = fields.iter().copied().chain(proof).filter(|(_, value)| !value.is_empty()).collect();
    // Room for every byte escaped: a buffer that grows would leave copies behind.
    let room = fields.iter().map(|(name, value)| name.len() + 2 + 3 * value.len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    for (name, value) in fields {
        if !body.is_empty() {
            body.push(b'&');
        }
        body.extend_from_slice(name.as_bytes());
        body.push(b'=');
        for part in url::form_urlencoded::byte_serialize(value) {
            body.extend_from_slice(part.as_bytes());
        }
    }
    body
}

/// What is read of a token. One without `roles` carries no permission at all; `oid` is the object id of the application's
/// service principal (entra.md §2.4).
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    roles: BTreeSet<String>,
    oid: Option<String>,
}

fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// What a token request's refusal means.
pub(super) fn refusal(answer: &Answer) -> ProviderError {
    if let Some(trouble) = answer.trouble() {
        return trouble;
    }
    let Some(code) = codes(&answer.body).and_then(|codes| codes.first().copied()) else {
        return ProviderError::Protocol("the token endpoint's refusal is unreadable");
    };
    ProviderError::Refused(explain(code))
}

/// `(code, reason, what to do)` for refusals of an application's own credentials (entra.md §3.2, §5.3).
const EXPLAINED: &[(u32, &str, &str)] = &[
    (50_034, "app_missing", "The tenant does not know the account or application."),
    (500_011, "graph_missing", "The tenant has no service principal for Microsoft Graph in this cloud."),
    (
        700_016,
        "app_missing",
        "The application is not in this tenant: check the client id and grant admin consent.",
    ),
    (700_038, "app_missing", "The client id is not a usable application id."),
    (
        700_024,
        "clock",
        "The clock of the worker's machine is wrong: Entra ID takes the certificate's signature for outdated or early.",
    ),
    (
        700_025,
        "client_type",
        "The application is public, but a secret was sent: use a confidential application.",
    ),
    (700_027, "credential_invalid", "The application's certificate is unknown or expired."),
    (900_023, "tenant_missing", "The tenant must be its GUID or one of its verified domains."),
    (90_002, "tenant_missing", "No such tenant in this cloud: check the tenant and the cloud."),
    (7_000_112, "app_disabled", "The application is disabled in the tenant."),
    (
        7_000_215,
        "secret_invalid",
        "The client secret is wrong. Use the secret's value, not its id; a new one works after a minute.",
    ),
    (7_000_218, "client_type", "The application is confidential, but no secret was sent."),
    (
        7_000_222,
        "secret_expired",
        "The client secret has expired: create a new one and update the integration.",
    ),
    (
        9_001_023,
        "tenant_missing",
        "Password checks need the tenant's own endpoint: give its GUID or a domain.",
    ),
];

/// A refusal for a person.
pub(super) fn explain(code: u32) -> Missing {
    let (reason, text) = EXPLAINED.iter().find(|(known, ..)| *known == code).map_or(
        ("credential_refused", "The login host refuses the application's credentials."),
        |(_, r, t)| (*r, *t),
    );
    Missing { reason, message: format!("{text} (AADSTS{code})"), not_granted: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_read_from_the_roles_claim_and_absent_roles_mean_none() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        let granted = claims(&token(r#"{"roles":["User.Read.All"],"oid":"x"}"#)).unwrap();
        assert_eq!(granted.roles, BTreeSet::from(["User.Read.All".to_owned()]));
        assert_eq!(granted.oid.as_deref(), Some("x"));
        assert_eq!(claims(&token(r#"{"tid":"x"}"#)).unwrap().roles, BTreeSet::new());
        assert!(claims("opaque").is_none());
    }

    #[test]
    fn every_explanation_ends_with_its_code_and_names_no_secret() {
        for (code, ..) in EXPLAINED {
            assert!(explain(*code).message.ends_with(&format!("(AADSTS{code})")));
        }
        assert_eq!(explain(123).reason, "credential_refused");
    }
}
