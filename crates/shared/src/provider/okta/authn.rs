//! One password submission to `/api/v1/authn`, without any token (§4.1).

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    Okta, rate, sign_ins,
    verdict::{self, Beyond, Meaning},
};
use crate::{
    limiter::AttemptPermit,
    provider::{Account, AttemptConnection, Attempted, ProviderError, Signal, attempt::NoAnswer},
    secret::SecretBytes,
    verdict::{Reason, Verdict},
};

pub(super) const PATH: &str = "/api/v1/authn";
/// The rate-limit bucket of sign-ins.
pub(super) const BUCKET: &str = "authn";
/// How long reading the account after a refusal may take, its pauses included.
const AFTER_WITHIN: Duration = Duration::from_secs(30);
const AFTER_TRIES: u32 = 3;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Submission<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    pub(super) options: Options,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Options {
    multi_optional_factor_enroll: bool,
    warn_before_password_expired: bool,
}

pub(super) async fn attempt(
    okta: &Okta,
    permit: AttemptPermit,
    connection: AttemptConnection,
    before: &Account,
    password: &SecretBytes,
) -> Attempted {
    let Some(body) = password.expose_str().and_then(|password| body(&before.login, password)) else {
        // Nothing is sent, and the slot is spent all the same.
        return without_answer(Verdict::NotTestable(Reason::SecretUnusable));
    };
    let begun = okta.client.server_time();
    let answer = match connection.post(permit, PATH, "application/json", body).await {
        Ok(answer) => answer,
        Err(NoAnswer::TooLate | NoAnswer::Lost) => {
            return without_answer(Verdict::Inconclusive(Reason::Unknown));
        }
        Err(NoAnswer::TooLarge) => return without_answer(Verdict::Inconclusive(Reason::UnreadableAnswer)),
    };
    okta.client.learn(BUCKET, &answer);
    let reading = verdict::read(answer.status, &answer.body);
    let mut throttled = None;
    let (verdict, beyond) = match reading.meaning {
        Meaning::Proves(verdict) => (verdict, reading.beyond),
        Meaning::SecondFactor => (Verdict::Inconclusive(Reason::Refused), reading.beyond),
        Meaning::Refusal => {
            let ruled = verdict::refusal(before, read_after(okta, &before.object_id).await.as_ref());
            let logged = match ruled.0 {
                Verdict::Invalid => sign_ins::refusal(&okta.client, &before.object_id, begun).await,
                _ => None,
            };
            verdict::logged(ruled, logged.as_deref())
        }
        Meaning::Throttled => {
            let wait = rate::throttled_for(&answer);
            throttled = Some(wait);
            (Verdict::Deferred(OffsetDateTime::now_utc() + wait, Reason::Throttled), reading.beyond)
        }
    };
    let signal = match (throttled, beyond) {
        (Some(wait), _) => Signal::Throttled(wait),
        (None, Beyond::Nothing) => Signal::None,
        (None, Beyond::Locked) => Signal::Locked,
        (None, Beyond::Configuration) => Signal::Configuration,
        (None, Beyond::UnknownCode) => Signal::UnknownCode,
    };
    Attempted {
        verdict,
        status: Some(answer.status),
        code: reading.code.map(|code| code.to_string()),
        request_id: answer.request_id(),
        signal,
    }
}

fn without_answer(verdict: Verdict) -> Attempted {
    Attempted { verdict, status: None, code: None, request_id: None, signal: Signal::None }
}

/// The request body, in one allocation that is wiped: growing would leave copies behind.
fn body(username: &str, password: &str) -> Option<Zeroizing<Vec<u8>>> {
    // JSON escapes make at most six bytes of one.
    let mut body = Zeroizing::new(Vec::with_capacity(128 + 6 * (username.len() + password.len())));
    serde_json::to_writer(&mut *body, &Submission { username, password, options: Options::default() })
        .ok()?;
    Some(body)
}

/// The account after a refusal. An attempt was spent on this answer, so reading is tried more than once.
async fn read_after(okta: &Okta, object_id: &str) -> Option<Account> {
    let reading = async {
        for left in (0..AFTER_TRIES).rev() {
            let wait = match okta.read_back(object_id).await {
                Ok(account) => return account,
                Err(ProviderError::Throttled { retry_after }) => retry_after,
                Err(ProviderError::Paced { wait }) => Some(wait),
                Err(
                    ProviderError::NotSent(_) | ProviderError::Lost(_) | ProviderError::Unavailable { .. },
                ) => None,
                Err(_) => return None,
            };
            if left > 0 {
                tokio::time::sleep(wait.unwrap_or(Duration::from_secs(1))).await;
            }
        }
        None
    };
    tokio::time::timeout(AFTER_WITHIN, reading).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_okta_documents_and_never_grows() {
        let password = "p\u{1}\"\\ä ".repeat(40);
        let made = body("ann@example.com", &password).unwrap();
        assert!(made.len() <= 128 + 6 * (15 + password.len()));
        let read: serde_json::Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"username": "ann@example.com", "password": password,
                "options": {"multiOptionalFactorEnroll": false, "warnBeforePasswordExpired": false}})
        );
    }
}
