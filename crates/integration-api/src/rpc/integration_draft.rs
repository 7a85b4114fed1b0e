//! What is asked of a directory about a configuration that is not saved: tests of drafts, previews of scopes.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use shared::{
    audit::{self, Event, Outcome, names},
    db::Tx,
    id::{IntegrationId, TenantId},
    integration::{Connection, Settings, ValidationSettings},
    sealing::{Owner, column},
    wire::{internal::Draft, v1},
};
use tonic::Status;
use zeroize::Zeroizing;

use super::{
    daily_max, edit, id,
    integration::Integrations,
    integration_events::health_in,
    integration_view,
    integration_write::{changed, connection_of, secret_in, unsaved},
};
use crate::{
    auth::Caller,
    error::ApiError,
    integration::{CapabilityState, Integration},
    store::{integrations, registry},
};

/// What a caller of PreviewScope receives.
pub type Preview = Pin<Box<dyn Stream<Item = Result<v1::PreviewScopeResponse, Status>> + Send>>;

impl Integrations {
    /// Tests a change of a saved integration, or a configuration that is not saved. Stores nothing but that it was
    /// tested.
    pub(super) async fn test_draft(
        &self,
        caller: &Caller,
        request: v1::TestIntegrationRequest,
    ) -> Result<v1::TestIntegrationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::TestIntegrationRequest { id: text, integration, update_mask, credentials } = request;
        let secret = secret_in(credentials)?;
        let sent = integration.unwrap_or_default();
        let mut tx = self.db.tenant(tenant).await?;
        let package = registry::package(&mut tx, tenant).await?;
        let now = tx.clock().await?;
        let mut draft = if text.is_empty() {
            let connection = connection_of(&sent, secret.is_some(), &self.okta_domains)?;
            if matches!(connection, Connection::Okta(_)) {
                return Err(ApiError::Precondition {
                    reason: "SAVE_FIRST",
                    message:
                        "save the Okta integration first: its application needs the JWKS URL that it then has"
                            .into(),
                });
            }
            if secret.is_none() {
                return Err(ApiError::field("credentials", "give the credentials to test with"));
            }
            let settings = edit::settings_in(sent.settings, &package)?;
            edit::check_settings(connection.provider(), &settings, None, &package)?;
            unsaved(sent.name, connection, settings, caller, now)
        } else {
            let saved = id("id", &text)?;
            let before =
                integrations::get(&mut tx, tenant, saved).await?.ok_or(ApiError::NotFound("integration"))?;
            let paths = update_mask.unwrap_or_default().paths;
            let after = changed(&before, sent, &paths, secret.is_some(), &package, &self.okta_domains)?;
            let wanted = after.settings.validation.daily_max;
            daily_max::below_half_of_the_threshold(&mut tx, tenant, &before, wanted).await?;
            after
        };
        let asked = self.draft(&mut tx, tenant, &draft, secret.as_ref()).await?;
        tx.rollback().await?;
        let report = self.peers.test(tenant, draft.id, Some(asked)).await?;

        draft.health = Vec::new();
        let passed =
            draft.tested(report.results.into_iter().filter_map(|r| health_in(r, now)).collect(), now);
        let mut event = Event::new(
            Some(tenant),
            names::INTEGRATION_DRAFT_TESTED,
            caller.actor(),
            if passed { Outcome::Success } else { Outcome::Failure },
            if passed {
                "a configuration that is not saved passed its test"
            } else {
                "a configuration that is not saved did not pass its test"
            },
        );
        if !text.is_empty() {
            event = event.integration(draft.id).object("integration", draft.id);
        }
        let mut tx = self.db.tenant(tenant).await?;
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        Ok(v1::TestIntegrationResponse {
            results: integration_view::health(&draft),
            passed,
            warnings: report.warnings,
            edition: report.edition,
            ..v1::TestIntegrationResponse::default()
        })
    }

    /// Refuses a scope that the directory does not let us read: it must not replace one that works.
    pub(super) async fn scope_is_readable(
        &self,
        tenant: TenantId,
        after: &Integration,
    ) -> Result<(), ApiError> {
        // Nothing but reading is asked for.
        let settings = Settings {
            validation: ValidationSettings { manual: false, ..ValidationSettings::default() },
            scope: after.settings.scope.clone(),
            ..Settings::default()
        };
        let reading = Integration { settings, ..after.clone() };
        let mut tx = self.db.tenant(tenant).await?;
        let draft = self.draft(&mut tx, tenant, &reading, None).await?;
        let now = tx.clock().await?;
        tx.rollback().await?;
        let report = self.peers.test(tenant, after.id, Some(draft)).await?;
        let failed = report
            .results
            .into_iter()
            .filter_map(|result| health_in(result, now))
            .find(|health| health.state != CapabilityState::Working);
        match failed {
            None => Ok(()),
            Some(health) => Err(ApiError::Precondition {
                reason: "SCOPE_NOT_READABLE",
                message: format!("the new scope cannot be read, the old one stays: {}", health.message),
            }),
        }
    }

    async fn draft(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        of: &Integration,
        secret: Option<&Zeroizing<String>>,
    ) -> Result<Draft, ApiError> {
        let unwritable = |_| ApiError::Internal("a draft cannot be written");
        let sealed_secret = match secret {
            None => Vec::new(),
            Some(secret) => {
                // No saved secret has version 0: what was sealed for a test never opens as one.
                let owner = Owner {
                    tenant: Some(tenant),
                    table: column::INTEGRATION_SECRET,
                    row: of.id.uuid(),
                    version: 0,
                };
                self.sealers.integration(tx, tenant).await?.seal(&owner, secret.as_bytes())?
            }
        };
        Ok(Draft {
            connection_json: serde_json::to_string(&of.connection).map_err(unwritable)?,
            settings_json: serde_json::to_string(&of.settings).map_err(unwritable)?,
            sealed_secret,
        })
    }

    pub(super) async fn preview(
        &self,
        caller: &Caller,
        request: v1::PreviewScopeRequest,
    ) -> Result<Preview, ApiError> {
        let tenant = caller.tenant()?;
        let integration: IntegrationId = id("integration_id", &request.integration_id)?;
        let scope = edit::scope_in(request.scope.unwrap_or_default());
        let mut tx = self.db.tenant(tenant).await?;
        let found = integrations::get(&mut tx, tenant, integration)
            .await?
            .ok_or(ApiError::NotFound("integration"))?;
        tx.rollback().await?;
        edit::check_scope("scope.group_ids", found.provider, &scope)?;
        let answers = self.peers.preview(tenant, integration, scope.group_ids).await?;
        Ok(Box::pin(answers.map(|answer| match answer {
            Ok(answer) => Ok(answer.preview.unwrap_or_default()),
            Err(status) => Err(refusal(&status).into()),
        })))
    }
}

fn refusal(status: &Status) -> ApiError {
    match status.code() {
        tonic::Code::FailedPrecondition => {
            ApiError::Precondition { reason: "SCOPE_NOT_READABLE", message: status.message().to_owned() }
        }
        _ => ApiError::Unavailable("the directory cannot be read now; try the preview again"),
    }
}
