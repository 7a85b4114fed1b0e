//! Containing an account, taking it back, and reading what shows the effect (entra.md §12, §14).

use http::Method;
use serde_json::json;

use super::{
    Entra,
    account::{User, date, object_id_segment},
    graph::{self, Details},
};
use crate::provider::{AccountState, Acted, Action, Containment, Missing, ProviderError, http::Answer};

impl Entra {
    pub(super) async fn carry_out(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        let id = object_id_segment(object_id)?;
        let answer = match action {
            Action::RevokeSessions => {
                self.graph
                    .write(Method::POST, &format!("/users/{id}/revokeSignInSessions"), &json!({}))
                    .await?
            }
            Action::DisableAccount => self.set_enabled(&id, false).await?,
            Action::MarkCompromised => self.mark("confirmCompromised", &id).await?,
        };
        self.outcome(action, &answer).await
    }

    /// Ended sessions stay ended. Dismissing wipes every risk of the user, genuine detections included: callers take back
    /// their own mark only.
    pub(super) async fn take_back(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        let id = object_id_segment(object_id)?;
        let answer = match action {
            Action::RevokeSessions => {
                return Ok(Acted::Refused {
                    reason: "not_undoable",
                    message: "Revoked sessions cannot be given back; their owner signs in again.".into(),
                    request_id: None,
                });
            }
            Action::DisableAccount => self.set_enabled(&id, true).await?,
            Action::MarkCompromised => self.mark("dismiss", &id).await?,
        };
        self.outcome(action, &answer).await
    }

    async fn set_enabled(&self, id: &str, enabled: bool) -> Result<Answer, ProviderError> {
        self.graph.write(Method::PATCH, &format!("/users/{id}"), &json!({"accountEnabled": enabled})).await
    }

    async fn mark(&self, verb: &str, id: &str) -> Result<Answer, ProviderError> {
        let path = format!("/identityProtection/riskyUsers/{verb}");
        self.risk.turn().await?;
        let answer = self.graph.write(Method::POST, &path, &json!({"userIds": [id]})).await;
        self.risk.forget().await;
        answer
    }

    /// Any 2xx is success: others than the documented ones were seen (entra.md §12.1).
    async fn outcome(&self, action: Action, answer: &Answer) -> Result<Acted, ProviderError> {
        let request_id = answer.request_id();
        let refused = |reason, message: &str| {
            Ok(Acted::Refused { reason, message: message.to_owned(), request_id: request_id.clone() })
        };
        let details = Details::of(answer);
        match answer.status {
            200..=299 => Ok(Acted::Done { request_id }),
            404 => refused("account_gone", "The account does not exist in the directory any more."),
            400 if details.says("on-premises mastered") => refused(
                "ad_mastered",
                "The account is mastered in Active Directory and must be disabled there.",
            ),
            400 if details.code == "Request_ResourceNotFound" => {
                refused("account_gone", "The account does not exist in the directory any more.")
            }
            403 => match graph::error(answer) {
                ProviderError::Refused(Missing { reason: "licence_missing", .. }) => refused(
                    "licence_missing",
                    "The tenant's licence does not include Identity Protection (Entra ID P2).",
                ),
                // The same answer stands for a missing permission and for a protected target (entra.md §12.2).
                _ if self.permitted(action).await? != Some(false) => refused(
                    "admin_target",
                    "The account is protected: the application's service principal needs a directory role that may \
                     act on administrators.",
                ),
                _ => refused("permission_missing", "The application lacks the permission for this action."),
            },
            _ => Err(graph::error(answer)),
        }
    }

    /// Whether our token carries what an action needs; `None` when that cannot be known.
    pub(super) async fn permitted(&self, action: Action) -> Result<Option<bool>, ProviderError> {
        let Some(granted) = self.graph.permissions().await? else { return Ok(None) };
        Ok(Some(
            super::permission::needs(action.capability())
                .iter()
                .any(|set| set.iter().all(|p| granted.contains(p.name))),
        ))
    }

    pub(super) async fn read_containment(
        &self,
        object_id: &str,
        of: Action,
    ) -> Result<Option<Containment>, ProviderError> {
        let id = object_id_segment(object_id)?;
        let path = format!("/users/{id}?$select=id,accountEnabled,signInSessionsValidFromDateTime");
        let Some(answer) = self.graph.find(&path).await? else { return Ok(None) };
        let user: User = answer.json()?;
        let (compromised, changed_at) =
            if of == Action::MarkCompromised { self.is_compromised(&id).await? } else { (None, None) };
        Ok(Some(Containment {
            state: if user.account_enabled == Some(false) {
                AccountState::Disabled
            } else {
                AccountState::Active
            },
            sessions_valid_from: date(user.sign_in_sessions_valid_from_date_time.as_deref()),
            compromised,
            changed_at,
        }))
    }
}
