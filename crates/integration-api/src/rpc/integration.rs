//! IntegrationService: what each call decides and stores.

use shared::{
    audit::{self, Event, Outcome},
    db::{Db, StoreError, Tx},
    id::{CauseId, IntegrationId, SyncRunId, TenantId},
    integration::Connection,
    sealing::{Owner, column},
    wire::{internal::TestConnectionResponse, v1},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    convert, edit, id,
    integration_events::{health_in, request_sync, status_changed, tested_event},
    integration_view, is_text, optional_id, watch,
};
use crate::{
    auth::Caller,
    catalogue,
    error::{ApiError, Check},
    idempotent,
    integration::{Integration, Status as Derived},
    page::{self, Scope},
    peers::Peers,
    sealers::Sealers,
    store::{integrations, registry, syncs},
};

const LONGEST_CLIENT_SECRET: usize = 1024;

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
    /// Ends streams when the service stops.
    pub stop: CancellationToken,
}

impl Integrations {
    async fn shown(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        id: IntegrationId,
    ) -> Result<v1::Integration, ApiError> {
        let integration =
            integrations::get(tx, tenant, id).await?.ok_or(ApiError::NotFound("integration"))?;
        Ok(self.shown_all(tx, tenant, vec![integration]).await?.remove(0))
    }

    async fn shown_all(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        rows: Vec<Integration>,
    ) -> Result<Vec<v1::Integration>, ApiError> {
        let ids: Vec<_> = rows.iter().map(|i| i.id).collect();
        let (runs, accounts) = syncs::summaries(tx, tenant, &ids).await?;
        let show = |row: Integration| {
            let run = runs.iter().find(|r| r.integration_id == row.id);
            let count = accounts.iter().find(|(id, _)| *id == row.id).map_or(0, |(_, count)| *count);
            integration_view::integration(row, &self.public_url, run, count)
        };
        Ok(rows.into_iter().map(show).collect())
    }

    pub(super) async fn create(
        &self,
        caller: &Caller,
        mut request: v1::CreateIntegrationRequest,
    ) -> Result<v1::CreateIntegrationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let secret = client_secret(request.credentials.take())?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let sent = request.integration.unwrap_or_default();
        let mut check = Check::default();
        check.require(is_text(&sent.name, 120), "integration.name", "give 1 to 120 printable characters");
        check.take(idempotent::check_key(&key))?;
        let connection = match sent.config {
            None => {
                check.require(false, "integration.config", "say which directory: entra or okta");
                None
            }
            Some(config) => check.take(edit::connection_in(config).and_then(|mut c| {
                edit::check_connection(&mut c)?;
                Ok(c)
            }))?,
        };
        if let Some(connection) = &connection {
            check.take(secret_fits(connection, secret.is_some()))?;
        }
        check.done()?;
        let connection = connection.ok_or(ApiError::Internal("a checked request has gaps"))?;
        let (name, settings) = (sent.name.trim().to_owned(), sent.settings);
        let work = |mut tx: Tx| async move {
            let package = registry::package_locked(&mut tx, tenant).await?;
            let provider = edit::kind_of(&connection);
            if !package.providers.contains(&provider) {
                return Err(ApiError::NotEntitled {
                    entitlement: provider.to_string(),
                    contact: package.contact,
                });
            }
            let count = integrations::count(&mut tx, tenant).await?;
            if count >= i64::from(package.integration_cap) {
                return Err(ApiError::CapReached {
                    cap: "integrations",
                    limit: package.integration_cap.into(),
                    contact: package.contact,
                });
            }
            let settings = edit::settings_in(settings, &package)?;
            edit::check_settings(provider, &settings, None, &package)?;
            let now = tx.clock().await?;
            let mut new = Integration {
                id: IntegrationId::new(),
                name,
                provider,
                connection,
                settings,
                status: Derived::Disabled,
                status_reason: String::new(),
                status_message: String::new(),
                status_since: now,
                disabled_by: None,
                disabled_reason: None,
                tested_at: None,
                test_passed: None,
                proven_at: None,
                connection_since: now,
                directory_id: None,
                directory_name: None,
                version: 1,
                created_at: now,
                updated_at: now,
                updated_by: caller.claims.subject.clone(),
                secret_version: None,
                health: Vec::new(),
            };
            new.derive_status();
            integrations::insert(&mut tx, tenant, &new).await.map_err(name_taken)?;
            if let Some(secret) = &secret {
                self.seal(&mut tx, tenant, &mut new, secret).await?;
            }
            if matches!(new.connection, Connection::Okta(_)) {
                integrations::want_client_key(&mut tx, tenant, new.id).await?;
            }
            let event = Event::new(
                Some(tenant),
                "integration.created",
                caller.actor(),
                Outcome::Success,
                format!("integration {} created", new.name),
            )
            .integration(new.id)
            .object("integration", new.id)
            .detail("provider", provider)
            .detail("credentials", if secret.is_some() { "given" } else { "none" });
            audit::record(&mut tx, &event).await?;
            let integration = Some(self.shown(&mut tx, tenant, new.id).await?);
            Ok((tx, v1::CreateIntegrationResponse { integration }))
        };
        let (answer, new): (v1::CreateIntegrationResponse, _) =
            idempotent::once(&self.db, tenant, "CreateIntegration", &key, &fingerprint, work).await?;
        if let Some(made) = answer.integration.as_ref().filter(|i| new && !i.jwks_url.is_empty()) {
            self.make_client_key(tenant, id("id", &made.id)?).await;
        }
        Ok(answer)
    }

    // Known to the caller's Okta as soon as possible; if the worker is away, the loop asks again.
    async fn make_client_key(&self, tenant: TenantId, id: IntegrationId) {
        let made = async {
            self.peers.ensure_client_key(tenant, id).await?;
            let mut tx = self.db.system().await?;
            integrations::client_key_made(&mut tx, id).await?;
            tx.commit().await?;
            Ok::<_, ApiError>(())
        };
        if let Err(error) = made.await {
            tracing::info!(integration.id = %id, %error, "the client key is made later");
        }
    }

    async fn seal(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        of: &mut Integration,
        secret: &Zeroizing<String>,
    ) -> Result<(), ApiError> {
        let version = of.secret_version.unwrap_or(0) + 1;
        let owner = Owner {
            tenant: Some(tenant),
            table: column::INTEGRATION_SECRET,
            row: of.id.uuid(),
            version: version.unsigned_abs(),
        };
        let sealed = self.sealers.integration(tx, tenant).await?.seal(&owner, secret.as_bytes())?;
        integrations::set_secret(tx, tenant, of.id, version, &sealed).await?;
        of.secret_version = Some(version);
        Ok(())
    }

    pub(super) async fn update(
        &self,
        caller: &Caller,
        mut request: v1::UpdateIntegrationRequest,
    ) -> Result<v1::UpdateIntegrationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let secret = client_secret(request.credentials.take())?;
        let sent = request.integration.unwrap_or_default();
        let integration = id("integration.id", &sent.id)?;
        let etag = sent.etag.clone();
        let paths = request.update_mask.unwrap_or_default().paths;
        if paths.is_empty() || paths.len() > 64 {
            return Err(ApiError::field("update_mask", "name the fields to change"));
        }
        let new_secret = paths.iter().any(|p| p == "credentials");
        if new_secret != secret.is_some() {
            return Err(ApiError::field(
                "credentials",
                "send credentials together with `credentials` in the mask",
            ));
        }
        let mut tx = self.db.tenant(tenant).await?;
        let before = locked(&mut tx, tenant, integration, &etag).await?;
        let package = registry::package(&mut tx, tenant).await?;
        let mut after = before.clone();
        edit::merge(&mut after, sent, &paths, &package)?;
        let mut check = Check::default();
        check.require(is_text(&after.name, 120), "integration.name", "give 1 to 120 printable characters");
        check.take(edit::check_connection(&mut after.connection))?;
        if new_secret {
            check.take(secret_fits(&after.connection, true))?;
        }
        check.done()?;
        edit::check_settings(after.provider, &after.settings, Some(&before.settings), &package)?;
        let changes = edit::differences(&before, &after);
        if changes.is_empty() && !new_secret {
            tx.rollback().await?;
            return self
                .get(tenant, integration)
                .await
                .map(|i| v1::UpdateIntegrationResponse { integration: Some(i) });
        }
        let moved = before.connection != after.connection;
        if moved || new_secret {
            let now = tx.clock().await?;
            after.undo_test(now);
            integrations::set_health(&mut tx, tenant, integration, &[]).await?;
        }
        if moved {
            after.directory_id = None;
            after.directory_name = None;
        }
        if let Some(secret) = &secret {
            self.seal(&mut tx, tenant, &mut after, secret).await?;
        }
        after.version += 1;
        after.updated_by.clone_from(&caller.claims.subject);
        after.derive_status();
        integrations::update(&mut tx, tenant, &after).await.map_err(name_taken)?;
        let mut event = Event::new(
            Some(tenant),
            "integration.updated",
            caller.actor(),
            Outcome::Success,
            format!("integration {} changed", after.name),
        )
        .integration(integration)
        .object("integration", integration);
        for (path, old, new) in changes {
            event = event.detail(format!("before.{path}"), old).detail(format!("after.{path}"), new);
        }
        if new_secret {
            event = event.detail("credentials", "changed");
        }
        if before.proven_at.is_some() && after.proven_at.is_none() {
            event = event.detail("test", "undone: it has to pass again");
        }
        audit::record(&mut tx, &event).await?;
        status_changed(&mut tx, tenant, caller, &before, &after).await?;
        let shown = self.shown(&mut tx, tenant, integration).await?;
        tx.commit().await?;
        Ok(v1::UpdateIntegrationResponse { integration: Some(shown) })
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
        let report = self.peers.test(tenant, integration).await?;
        let mut tx = self.db.tenant(tenant).await?;
        let before = locked(&mut tx, tenant, integration, "").await?;
        // A result counts only for what was tested.
        if before.version != begun.version {
            return Err(ApiError::Stale("the integration was changed while the test ran; test again"));
        }
        let now = tx.clock().await?;
        let TestConnectionResponse { results, directory_id, directory_name } = report;
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
        let mut after = before.clone();
        after.disabled_by = disabled.is_some().then(|| caller.claims.subject.clone());
        after.disabled_reason.clone_from(&disabled);
        after.version += 1;
        after.updated_by.clone_from(&caller.claims.subject);
        after.derive_status();
        integrations::update(&mut tx, tenant, &after).await?;
        let (kind, what) = if disabled.is_some() {
            ("integration.disabled", "disabled")
        } else {
            ("integration.enabled", "enabled")
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

    pub(super) async fn delete(
        &self,
        caller: &Caller,
        request: v1::DeleteIntegrationRequest,
    ) -> Result<(), ApiError> {
        let tenant = caller.tenant()?;
        let integration = id("id", &request.id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let gone = locked(&mut tx, tenant, integration, &request.etag).await?;
        integrations::delete(&mut tx, tenant, integration).await?;
        let event = Event::new(
            Some(tenant),
            "integration.deleted",
            caller.actor(),
            Outcome::Success,
            format!("integration {} deleted with its credentials", gone.name),
        )
        .integration(integration)
        .object("integration", integration)
        .detail("name", &gone.name)
        .detail("provider", gone.provider)
        .detail("directory_id", gone.directory_id.unwrap_or_default());
        audit::record(&mut tx, &event).await?;
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
        let mut tx = self.db.tenant(tenant).await?;
        integrations::get(&mut tx, tenant, integration).await?.ok_or(ApiError::NotFound("integration"))?;
        let run = match asked {
            Some(run) => run,
            None => {
                syncs::newest(&mut tx, tenant, integration)
                    .await?
                    .ok_or(ApiError::NotFound("sync run"))?
                    .run_id
            }
        };
        tx.rollback().await?;
        Ok(watch::stream(self.db.clone(), self.stop.clone(), tenant, integration, run))
    }

    pub(super) async fn providers(&self, caller: &Caller) -> Result<v1::ListProvidersResponse, ApiError> {
        let mut tx = self.db.tenant(caller.tenant()?).await?;
        let package = registry::package(&mut tx, caller.tenant()?).await?;
        tx.rollback().await?;
        Ok(v1::ListProvidersResponse { providers: catalogue::providers(&package.providers) })
    }
}

async fn locked(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    etag: &str,
) -> Result<Integration, ApiError> {
    let found = integrations::lock(tx, tenant, id).await?.ok_or(ApiError::NotFound("integration"))?;
    if !etag.is_empty() && etag != found.version.to_string() {
        return Err(ApiError::Stale("somebody changed the integration since you read it; read it again"));
    }
    Ok(found)
}

fn name_taken(error: StoreError) -> ApiError {
    match error {
        StoreError::Duplicate { .. } => {
            ApiError::Exists { reason: "NAME_TAKEN", message: "another integration has this name".into() }
        }
        other => other.into(),
    }
}

fn client_secret(
    credentials: Option<v1::IntegrationCredentials>,
) -> Result<Option<Zeroizing<String>>, ApiError> {
    let Some(v1::integration_credentials::Credentials::Entra(mut entra)) =
        credentials.and_then(|c| c.credentials)
    else {
        return Ok(None);
    };
    let secret = Zeroizing::new(std::mem::take(&mut entra.client_secret));
    let printable = secret.bytes().all(|b| b.is_ascii_graphic());
    if secret.is_empty() || secret.len() > LONGEST_CLIENT_SECRET || !printable {
        return Err(ApiError::field(
            "credentials.entra.client_secret",
            "give the secret's value as Entra ID shows it",
        ));
    }
    Ok(Some(secret))
}

fn secret_fits(connection: &Connection, given: bool) -> Result<(), ApiError> {
    match connection {
        Connection::Okta(_) if given => Err(ApiError::field(
            "credentials",
            "Okta needs none: Parapet has its own key for each integration",
        )),
        Connection::EntraId(_) | Connection::Okta(_) => Ok(()),
    }
}
