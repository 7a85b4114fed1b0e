//! One password, submitted once through the password grant (entra.md §4).

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{Entra, credential::Proof, token, verdict};
use crate::{
    limiter::AttemptPermit,
    provider::{
        Account, AttemptConnection, Attempted, PasswordAuthority, ProviderError, Signal, attempt::NoAnswer,
        http::Answer,
    },
    secret::SecretBytes,
    verdict::{Reason, Verdict},
};

impl Entra {
    /// The application that asks for passwords to be checked, and what proves it: an application of its own is public
    /// and sends nothing (entra.md §4.1).
    pub(super) fn ropc_client(&self) -> Result<(&str, Proof), ProviderError> {
        match &self.connection.ropc_client_id {
            Some(own) if *own != self.connection.client_id => Ok((own, Proof::new())),
            _ => {
                let client_id = &self.connection.client_id;
                let audience =
                    format!("https://{}{}", self.connection.cloud.hosts().login, self.token_path());
                Ok((client_id, self.credential.fields(client_id, &audience)?))
            }
        }
    }

    /// The tenant's own token endpoint, below its host.
    pub(super) fn token_path(&self) -> String {
        format!("/{}/oauth2/v2.0/token", self.connection.tenant)
    }

    pub(super) async fn submit(
        &self,
        permit: AttemptPermit,
        connection: AttemptConnection,
        before: &Account,
        password: &SecretBytes,
    ) -> Attempted {
        if !submittable(password) {
            return unanswered(Verdict::NotTestable(Reason::SecretUnusable));
        }
        // The permit is spent either way: a key that cannot sign leaves the slot used and nothing proven.
        let Ok((client_id, proof)) = self.ropc_client() else {
            return unanswered(Verdict::Inconclusive(Reason::Configuration));
        };
        let body = form(client_id, &proof, &before.login, password);
        let sent =
            connection.post(permit, &self.token_path(), "application/x-www-form-urlencoded", body).await;
        match sent {
            Ok(answer) => judge(&answer, before.authority == PasswordAuthority::Federated),
            Err(NoAnswer::TooLarge) => unanswered(Verdict::Inconclusive(Reason::UnreadableAnswer)),
            Err(NoAnswer::TooLate | NoAnswer::Lost) => unanswered(Verdict::Inconclusive(Reason::Unknown)),
        }
    }
}

/// The grant does not support passwords with white space at either end (entra.md §4.2).
fn submittable(password: &SecretBytes) -> bool {
    password.expose_str().is_some_and(|text| !text.is_empty() && text.trim() == text)
}

/// The form of the password grant. A public application proves nothing.
pub(super) fn form(
    client_id: &str,
    proof: &Proof,
    username: &str,
    password: &SecretBytes,
) -> Zeroizing<Vec<u8>> {
    let fields = [
        ("grant_type", b"password".as_slice()),
        ("scope", b"openid"),
        ("client_id", client_id.as_bytes()),
        ("username", username.as_bytes()),
        ("password", password.expose()),
    ];
    token::form(&fields, proof)
}

/// What an answer proves. Tokens in it are dropped unread.
pub(super) fn judge(answer: &Answer, federated: bool) -> Attempted {
    let now = OffsetDateTime::now_utc();
    let wait = answer.asks_for_patience();
    let verdict::Ruling { verdict, code, signal } =
        verdict::rule(answer.status, &answer.body, wait, federated, now);
    Attempted {
        verdict,
        status: Some(answer.status),
        code: code.map(|code| format!("AADSTS{code}")),
        request_id: trace_id(&answer.body),
        signal,
    }
}

/// Microsoft's id of the request; only its documented form, a GUID, is kept.
fn trace_id(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Trace {
        trace_id: String,
    }
    let Trace { trace_id } = serde_json::from_slice(body).ok()?;
    uuid::Uuid::try_parse(&trace_id).ok().map(|id| id.to_string())
}

fn unanswered(verdict: Verdict) -> Attempted {
    Attempted { verdict, status: None, code: None, request_id: None, signal: Signal::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn the_form_carries_every_character_and_a_public_client_sends_no_secret() {
        let body = form("app", &Proof::new(), "ann+x@contoso.example", &secret("a&b=c %+\"\\ü"));
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
        let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("username"), Some("ann+x@contoso.example"));
        assert_eq!(get("password"), Some("a&b=c %+\"\\ü"));
        assert_eq!(get("client_secret"), None);
        let confidential =
            form("app", &vec![("client_secret", Zeroizing::new(b"s3cret~".to_vec()))], "a", &secret("p"));
        assert!(String::from_utf8_lossy(&confidential).contains("client_secret=s3cret"));
    }

    #[test]
    fn the_buffer_of_the_form_never_grows() {
        let room = |text: &str| form("app", &Proof::new(), "ann@x.example", &secret(text)).capacity();
        let body = form("app", &Proof::new(), "ann@x.example", &secret(&"ü".repeat(100)));
        assert_eq!(body.capacity(), room(&"ü".repeat(100)));
        assert!(body.len() <= body.capacity());
    }

    #[test]
    fn passwords_the_grant_cannot_carry_are_not_sent() {
        for text in ["", " x", "x ", "\tx"] {
            assert!(!submittable(&secret(text)), "{text:?}");
        }
        assert!(!submittable(&SecretBytes::new(vec![0xff, 0xfe])));
        assert!(submittable(&secret("in the middle")));
    }
}
