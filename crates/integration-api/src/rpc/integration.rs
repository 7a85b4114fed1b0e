//! IntegrationService: what each call that reads, tests, switches, syncs or deletes decides and stores.

use std::time::{Duration, Instant};

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, Tx},
    id::{CauseId, IntegrationId, SyncRunId, TenantId},
    integration::Connection,
    provider::okta::host::ApprovedDomains,
    wire::{internal::TestConnectionResponse, v1},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    client_keys, convert, daily_max, edit, id,
    integration_events::{health_in, let_go, request_sync, status_changed, tested_event},
    integration_view, integration_warnings, mitigation_warnings, optional_id, watch,
};
use crate::{
    auth::Caller,
    catalogue,
    error::ApiError,
    idempotent,
    integration::{Integration, Status as Derived},
    page::{self, Scope},
    peers::Peers,
    sealers::Sealers,
    store::{self, integrations, registry, syncs},
};

/// How long the first run of an active integration may be on its way.
const FIRST_RUN_WITHIN: Duration = Duration::from_secs(15);
const STALE_ETAG: &str = "STALE_ETAG";

/// The service.
#[derive(Clone, Debug)]
pub struct Integrations {
    /// The database.
    pub db: Db,
    /// Seals credentials.
    pub sealers: Sealers,
    /// The directory worker.
    pub peers: Peers,
    /// Base of JWKS URLs.
    pub public_url: String,
    /// Custom domains of Okta orgs that may be connected.
    pub okta_domains: ApprovedDomains,
    /// Ends streams when the service stops.
    pub stop: CancellationToken,
}

impl Integrations {
    pub(super) async fn shown(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        id: IntegrationId,
    ) -> Result<v1::Integration, ApiError> {
        let integration =
            integrations::get(tx, tenant, id).await?.ok_or(ApiError::NotFound("integration"))?;
        Ok(self.shown_all(tx, tenant, vec![integration]).await?.remove(0))
    }

    pub(super) async fn shown_all(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        rows: Vec<Integration>,
    ) -> Result<Vec<v1::Integration>, ApiError> {
        let ids: Vec<_> = rows.iter().map(|i| i.id).collect();
        let runs = syncs::newest_of(tx, tenant, &ids).await?;
        let activity = store::hub::activity(tx, tenant, &ids).await?;
        let now = tx.clock().await?;
        let readings = syncs::readings(tx, tenant, &ids).await?;
        let thresholds = store::daily_max::thresholds(tx, tenant, &ids).await?;
        let mut asked = store::daily_max::waiting(tx, tenant, &ids).await?;
        let package = registry::package(tx, tenant).await?;
        let attention = store::mitigations::attention(tx, tenant, &ids).await?;
        let (rotations, keys) = store::client_keys::of(tx, tenant, &ids).await?;
        let mut shown = Vec::with_capacity(rows.len());
        for row in rows {
            let reading = readings.iter().find(|r| r.integration_id == row.id);
            let run = runs.iter().find(|r| r.integration_id == row.id);
            let threshold = thresholds.iter().find(|(id, _)| *id == row.id).map(|(_, read)| *read);
            let mut warnings = daily_max::warnings(tx, &row, threshold).await?;
            warnings.extend(integration_warnings::warnings(&row, reading, threshold, now));
            let look_at = attention.iter().find(|a| a.integration_id == row.id);
            warnings.extend(look_at.map(mitigation_warnings::warnings).into_iter().flatten());
            if let Err(left_out) = edit::check_provider(row.provider, &package) {
                let message = format!("nothing is done for it: {left_out}");
                warnings.push(v1::ConnectionWarning { reason: "not_entitled".to_owned(), message });
            }
            let client_keys = client_keys::shown(row.id, &rotations, &keys);
            warnings.extend(client_keys.as_ref().and_then(client_keys::warning));
            let waiting =
                asked.iter().position(|r| r.integration_id == row.id).map(|at| asked.swap_remove(at));
            let accounts = match reading.and_then(|reading| reading.accounts) {
                Some(counted) => counted,
                None => syncs::accounts_so_far(tx, tenant, row.id).await?,
            };
            let done = activity.iter().find(|a| a.integration_id == row.id);
            let counts = v1::IntegrationCounts {
                accounts,
                identities: reading.and_then(|r| r.identities).unwrap_or_default(),
                identifiers: reading.and_then(|r| r.identifiers).unwrap_or_default(),
                identifiers_skipped: run.map_or(0, |run| run.skipped_by_cap),
                counted_at: reading.and_then(|r| r.counted_at).map(convert::timestamp),
                attempts_today: done.map_or(0, |a| a.attempts_today),
                deferred: done.map_or(0, |a| a.deferred),
                approvals: done.map_or(0, |a| a.approvals) + i64::from(waiting.is_some()),
            };
            shown.push(v1::Integration {
                warnings,
                client_keys,
                counts: Some(counts),
                daily_max_request: waiting.map(daily_max::shown),
                ..integration_view::integration(row, &self.public_url, run, reading, accounts)
            });
        }
        Ok(shown)
    }

    pub(super) async fn get(&self, tenant: TenantId, id: IntegrationId) -> Result<v1::Integration, ApiError> {
        let mut tx = self.db.tenant(tenant).await?;
        let shown = self.shown(&mut tx, tenant, id).await?;
        tx.rollback().await?;
        Ok(shown)
    }

    pub(super) async fn list(
        &self,
        caller: &Caller,
        mut request: v1::ListIntegrationsRequest,
    ) -> Result<v1::ListIntegrationsResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("integrations", &request);
        let after = scope.read::<(OffsetDateTime, Uuid)>(&token)?.map(|(at, id)| (at, IntegrationId(id)));
        let provider = convert::provider_in("provider", request.provider)?;
        let status = match v1::IntegrationStatus::try_from(request.status) {
            Ok(v1::IntegrationStatus::Unspecified) => None,
            Ok(v1::IntegrationStatus::Active) => Some(Derived::Active),
            Ok(v1::IntegrationStatus::Disabled) => Some(Derived::Disabled),
            Ok(v1::IntegrationStatus::Error) => Some(Derived::Error),
            Err(_) => return Err(ApiError::field("status", "give a known status")),
        };
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = integrations::list(&mut tx, tenant, provider, status, after, size + 1).await?;
        let next_page_token = scope.cut(&mut rows, size, |i| (i.created_at, i.id.uuid()))?;
        let integrations = self.shown_all(&mut tx, tenant, rows).await?;
        tx.rollback().await?;
        Ok(v1::ListIntegrationsResponse { integrations, next_page_token })
    }

    pub(super) async fn test(
        &self,
        caller: &Caller,
        integration: IntegrationId,
    ) -> Result<v1::TestIntegrationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let begun = integrations::get(&mut tx, tenant, integration)
            .await?
            .ok_or(ApiError::NotFound("integration"))?;
        edit::check_provider(begun.provider, &registry::package(&mut tx, tenant).await?)?;
        tx.rollback().await?;
        match &begun.connection {
            Connection::EntraId(_) if begun.secret_version.is_none() => {
                return Err(ApiError::Precondition {
                    reason: "CREDENTIALS_MISSING",
                    message: "give the client secret with UpdateIntegration first".into(),
                });
            }
            Connection::Okta(okta) if okta.client_id.is_empty() => {
                return Err(ApiError::Precondition {
                    reason: "CLIENT_ID_MISSING",
                    message: "create the Okta app with this integration's JWKS URL, then give its client id"
                        .into(),
                });
            }
            Connection::EntraId(_) | Connection::Okta(_) => {}
        }
        let report = self.peers.test(tenant, integration, None).await?;
        let mut tx = self.db.tenant(tenant).await?;
        let before = locked(&mut tx, tenant, integration, "").await?;
        // A result counts only for what was tested.
        if before.version != begun.version {
            return Err(ApiError::Stale {
                reason: STALE_ETAG,
                message: "the integration was changed while the test ran; test again",
            });
        }
        let now = tx.clock().await?;
        let TestConnectionResponse { results, directory_id, directory_name, warnings, edition } = report;
        let mut after = before.clone();
        let passed = after.tested(results.into_iter().filter_map(|r| health_in(r, now)).collect(), now);
        if !directory_id.is_empty() {
            after.directory_id = Some(directory_id);
            after.directory_name = Some(directory_name).filter(|n| !n.is_empty());
        }
        integrations::set_health(&mut tx, tenant, integration, &after.health).await?;
        integrations::update(&mut tx, tenant, &after).await?;
        let event = tested_event(tenant, caller, &after, passed);
        let cause = CauseId(audit::record(&mut tx, &event).await?.uuid());
        status_changed(&mut tx, tenant, caller, &before, &after).await?;
        let mut sync_run_id = String::new();
        if before.proven_at.is_none() && after.status == Derived::Active {
            sync_run_id = request_sync(&mut tx, tenant, caller, integration, true, cause).await?.to_string();
        }
        let shown = self.shown(&mut tx, tenant, integration).await?;
        tx.commit().await?;
        Ok(v1::TestIntegrationResponse {
            results: integration_view::health(&after),
            integration: Some(shown),
            passed,
            sync_run_id,
            warnings,
            edition,
        })
    }

    pub(super) async fn switch(
        &self,
        caller: &Caller,
        integration: IntegrationId,
        disabled: Option<String>,
    ) -> Result<v1::Integration, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let before = locked(&mut tx, tenant, integration, "").await?;
        if before.disabled_by.is_some() == disabled.is_some() {
            let shown = self.shown(&mut tx, tenant, integration).await?;
            tx.rollback().await?;
            return Ok(shown);
        }
        if disabled.is_none() {
            edit::check_provider(before.provider, &registry::package(&mut tx, tenant).await?)?;
        }
        let mut after = before.clone();
        after.disabled_by = disabled.is_some().then(|| caller.claims.subject.clone());
        after.disabled_reason.clone_from(&disabled);
        after.version += 1;
        after.updated_by.clone_from(&caller.claims.subject);
        after.derive_status();
        integrations::update(&mut tx, tenant, &after).await?;
        let (kind, what) = if disabled.is_some() {
            (names::INTEGRATION_DISABLED, "disabled")
        } else {
            (names::INTEGRATION_ENABLED, "enabled")
        };
        let event = Event::new(
            Some(tenant),
            kind,
            caller.actor(),
            Outcome::Success,
            format!("integration {} {what}", after.name),
        )
        .integration(integration)
        .object("integration", integration)
        .detail("before.status", before.status)
        .detail("after.status", after.status);
        let event = match disabled.filter(|r| !r.is_empty()) {
            Some(reason) => event.detail("reason", reason),
            None => event,
        };
        let cause = CauseId(audit::record(&mut tx, &event).await?.uuid());
        if after.status == Derived::Active {
            request_sync(&mut tx, tenant, caller, integration, false, cause).await?;
        }
        let shown = self.shown(&mut tx, tenant, integration).await?;
        tx.commit().await?;
        Ok(shown)
    }

    pub(super) async fn prepare_deletion(
        &self,
        caller: &Caller,
        request: v1::PrepareDeletionRequest,
    ) -> Result<v1::PrepareDeletionResponse, ApiError> {
        let tenant = caller.tenant()?;
        let integration = id("id", &request.id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let found = locked(&mut tx, tenant, integration, "").await?;
        let subject = &caller.claims.subject;
        let (confirmation, expires_at) =
            integrations::ask_deletion(&mut tx, tenant, integration, subject, found.version).await?;
        let shown = self.shown(&mut tx, tenant, integration).await?;
        tx.commit().await?;
        Ok(v1::PrepareDeletionResponse {
            integration: Some(shown),
            confirmation: confirmation.to_string(),
            expires_at: Some(convert::timestamp(expires_at)),
        })
    }

    pub(super) async fn delete(
        &self,
        caller: &Caller,
        request: v1::DeleteIntegrationRequest,
    ) -> Result<(), ApiError> {
        let tenant = caller.tenant()?;
        let integration = id("id", &request.id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let gone = locked(&mut tx, tenant, integration, &request.etag).await?;
        let confirmation = optional_id("confirmation", &request.confirmation)?;
        let subject = &caller.claims.subject;
        if !integrations::confirmed(&mut tx, tenant, integration, confirmation, subject, gone.version).await?
        {
            return Err(ApiError::Precondition {
                reason: "CONFIRMATION_NEEDED",
                message: "ask PrepareDeletion what goes with it, and delete with its confirmation within ten minutes, before \
                          anything about the integration changes"
                    .into(),
            });
        }
        integrations::delete(&mut tx, tenant, integration).await?;
        let event = Event::new(
            Some(tenant),
            names::INTEGRATION_DELETED,
            caller.actor(),
            Outcome::Success,
            format!("integration {} deleted with its credentials", gone.name),
        )
        .integration(integration)
        .object("integration", integration)
        .detail("name", &gone.name)
        .detail("provider", gone.provider)
        .detail("directory_id", gone.directory_id.unwrap_or_default());
        let cause = CauseId(audit::record(&mut tx, &event).await?.uuid());
        let_go(&mut tx, tenant, integration, cause).await?;
        Ok(tx.commit().await?)
    }

    pub(super) async fn start_sync(
        &self,
        caller: &Caller,
        mut request: v1::StartSyncRequest,
    ) -> Result<v1::StartSyncResponse, ApiError> {
        let tenant = caller.tenant()?;
        let integration = id("integration_id", &request.integration_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let work = |mut tx: Tx| async move {
            let found = locked(&mut tx, tenant, integration, "").await?;
            edit::check_provider(found.provider, &registry::package(&mut tx, tenant).await?)?;
            if found.status != Derived::Active {
                return Err(ApiError::Precondition {
                    reason: "INTEGRATION_NOT_ACTIVE",
                    message: format!("the integration is {} ({})", found.status, found.status_reason),
                });
            }
            let run_id = request_sync(&mut tx, tenant, caller, integration, request.full, CauseId::new())
                .await?
                .to_string();
            Ok((tx, v1::StartSyncResponse { run_id }))
        };
        Ok(idempotent::once(&self.db, tenant, "StartSync", &key, &fingerprint, work).await?.0)
    }

    pub(super) async fn watch(
        &self,
        caller: &Caller,
        request: v1::WatchSyncRequest,
    ) -> Result<watch::Progress, ApiError> {
        let tenant = caller.tenant()?;
        let integration = id("integration_id", &request.integration_id)?;
        let asked: Option<SyncRunId> = optional_id("run_id", &request.run_id)?;
        let patience = Instant::now() + FIRST_RUN_WITHIN;
        let run = loop {
            let mut tx = self.db.tenant(tenant).await?;
            let found = integrations::get(&mut tx, tenant, integration)
                .await?
                .ok_or(ApiError::NotFound("integration"))?;
            let newest = syncs::newest(&mut tx, tenant, integration).await?.map(|run| run.run_id);
            tx.rollback().await?;
            match asked.or(newest) {
                Some(run) => break run,
                // Its first run is on its way to the worker: whoever just activated it asks for exactly that.
                None if found.status == Derived::Active && Instant::now() < patience => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                None => return Err(ApiError::NotFound("sync run")),
            }
        };
        Ok(watch::stream(self.db.clone(), self.stop.clone(), tenant, integration, run))
    }

    pub(super) async fn providers(&self, caller: &Caller) -> Result<v1::ListProvidersResponse, ApiError> {
        let mut tx = self.db.tenant(caller.tenant()?).await?;
        let package = registry::package(&mut tx, caller.tenant()?).await?;
        tx.rollback().await?;
        Ok(v1::ListProvidersResponse { providers: catalogue::providers(&package.providers) })
    }
}

pub(super) async fn locked(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    etag: &str,
) -> Result<Integration, ApiError> {
    let found = integrations::lock(tx, tenant, id).await?.ok_or(ApiError::NotFound("integration"))?;
    if !etag.is_empty() && etag != found.version.to_string() {
        return Err(ApiError::Stale {
            reason: STALE_ETAG,
            message: "somebody changed the integration since you read it; read it again",
        });
    }
    Ok(found)
}
