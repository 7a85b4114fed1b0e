//! Containment: ending sessions, suspending, setting the risk, and taking these back (§5).

use http::Method;

use super::{Okta, failure, listing::user_path, risk};
use crate::provider::{AccountState, Acted, Action, ProviderError, http::Answer};

impl Okta {
    pub(super) async fn carry_out(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        let user = user_path(object_id)?;
        match action {
            Action::RevokeSessions => {
                let path = format!("{user}/sessions?oauthTokens=true");
                let answer = self.client.call(Method::DELETE, "user_write", &path).await?;
                self.outcome(answer, object_id, None).await
            }
            Action::DisableAccount => {
                let path = format!("{user}/lifecycle/suspend");
                let answer = self.client.call(Method::POST, "user_write", &path).await?;
                self.outcome(answer, object_id, Some(AccountState::Disabled)).await
            }
            Action::MarkCompromised => {
                let answer = risk::set(&self.client, object_id, &risk::COMPROMISED).await?;
                self.outcome(answer, object_id, None).await
            }
        }
    }

    pub(super) async fn take_back(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        match action {
            Action::DisableAccount => {
                let path = format!("{}/lifecycle/unsuspend", user_path(object_id)?);
                let answer = self.client.call(Method::POST, "user_write", &path).await?;
                self.outcome(answer, object_id, Some(AccountState::Active)).await
            }
            Action::RevokeSessions => Ok(refused(
                "not_undoable",
                "ended sessions cannot be brought back; the owner signs in again",
                None,
            )),
            Action::MarkCompromised => {
                let answer = risk::set(&self.client, object_id, &risk::WITHDRAWN).await?;
                self.outcome(answer, object_id, None).await
            }
        }
    }

    /// What the answer to an effect means. `target` is the state asked for: being in it already is success.
    async fn outcome(
        &self,
        answer: Answer,
        object_id: &str,
        target: Option<AccountState>,
    ) -> Result<Acted, ProviderError> {
        let id = answer.request_id();
        let code = failure::code(&answer);
        Ok(match (answer.status, code.as_deref()) {
            (200..=299, _) => Acted::Done { request_id: id },
            // Wrong state, in the wordings of the various life-cycle calls.
            (400, Some("E0000001")) | (403, Some("E0000038" | "E0000107" | "E0000016")) => {
                let state = self.read(object_id).await?.map(|account| account.state);
                match state {
                    Some(state) if Some(state) == target => Acted::Done { request_id: id },
                    Some(state) => refused(
                        "wrong_state",
                        &format!("Okta allows this for active accounts only; this one is {}", state.as_str()),
                        id,
                    ),
                    None => refused("account_gone", "the account no longer exists", id),
                }
            }
            (403, Some("E0000006")) if self.admins().await?.contains(object_id) => refused(
                "admin_target",
                "the account is an administrator; only a super administrator may act on it",
                id,
            ),
            (403, Some("E0000006")) => refused(
                "permission_missing",
                "the service app's admin role does not allow this on this account (an administrator, perhaps, or \
                 outside the role's resource set)",
                id,
            ),
            (403, Some("E0000023" | "E0000077" | "E0000078")) => {
                refused("ad_mastered", "the account is mastered in another directory", id)
            }
            (401, Some("E0000015")) => refused("licence_missing", "the org does not have this feature", id),
            (404, Some("E0000007")) => refused("account_gone", "the account no longer exists", id),
            _ => match failure::of(&answer) {
                ProviderError::Refused(missing) if missing.not_granted => {
                    refused("permission_missing", &missing.message, id)
                }
                error => return Err(error),
            },
        })
    }
}

fn refused(reason: &'static str, message: &str, request_id: Option<String>) -> Acted {
    Acted::Refused { reason, message: message.to_owned(), request_id }
}
