//! IntegrationService: what creating and changing an integration decides and stores.

use shared::{
    audit::{self, Event, Outcome, names},
    db::{StoreError, Tx},
    id::{CauseId, IntegrationId, TenantId},
    integration::{Connection, Settings},
    provider::{entra::Certificate, okta::host::ApprovedDomains},
    sealing::{Owner, column},
    wire::v1,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    daily_max, edit, id,
    integration::{Integrations, locked},
    integration_events::{request_sync, status_changed, updated_event},
    is_text,
};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    idempotent,
    integration::{Integration, Status as Derived},
    store::{integrations, registry},
};

const LONGEST_CLIENT_SECRET: usize = 1024;
const LONGEST_CERTIFICATE: usize = 32 * 1024;

impl Integrations {
    pub(super) async fn create(
        &self,
        caller: &Caller,
        mut request: v1::CreateIntegrationRequest,
    ) -> Result<v1::CreateIntegrationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let secret = secret_in(request.credentials.take())?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let sent = request.integration.unwrap_or_default();
        let mut check = Check::default();
        check.require(is_text(&sent.name, 120), "integration.name", "give 1 to 120 printable characters");
        check.take(idempotent::check_key(&key))?;
        let connection = check.take(connection_of(&sent, secret.is_some(), &self.okta_domains))?;
        check.done()?;
        let connection = connection.ok_or(ApiError::Internal("a checked request has gaps"))?;
        let (name, settings) = (sent.name.trim().to_owned(), sent.settings);
        let work = |mut tx: Tx| async move {
            let package = registry::package_locked(&mut tx, tenant).await?;
            let provider = connection.provider();
            edit::check_provider(provider, &package)?;
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
            let mut new = unsaved(name, connection, settings, caller, now);
            integrations::insert(&mut tx, tenant, &new).await.map_err(name_taken)?;
            if let Some(secret) = &secret {
                self.seal(&mut tx, tenant, &mut new, secret).await?;
            }
            if matches!(new.connection, Connection::Okta(_)) {
                integrations::want_client_key(&mut tx, tenant, new.id).await?;
            }
            let event = Event::new(
                Some(tenant),
                names::INTEGRATION_CREATED,
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
        let secret = secret_in(request.credentials.take())?;
        let sent = request.integration.unwrap_or_default();
        let integration = id("integration.id", &sent.id)?;
        let etag = sent.etag.clone();
        let paths = request.update_mask.unwrap_or_default().paths;
        let new_secret = secret.is_some();
        let mut tx = self.db.tenant(tenant).await?;
        let mut before = locked(&mut tx, tenant, integration, &etag).await?;
        let package = registry::package(&mut tx, tenant).await?;
        let mut after = changed(&before, sent, &paths, new_secret, &package, &self.okta_domains)?;
        let rescoped = before.settings.scope != after.settings.scope;
        let proven = before.proven_at.is_some() && before.connection == after.connection && !new_secret;
        if rescoped && proven {
            // Nothing is locked while the directory is asked; what was changed meanwhile is not overwritten.
            tx.rollback().await?;
            self.scope_is_readable(tenant, &after).await?;
            tx = self.db.tenant(tenant).await?;
            before = locked(&mut tx, tenant, integration, &before.version.to_string()).await?;
        }
        daily_max::below_half_of_the_threshold(&mut tx, tenant, &before, after.settings.validation.daily_max)
            .await?;
        if edit::differences(&before, &after).is_empty() && !new_secret {
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
        let mut event = updated_event(tenant, caller, &before, &after);
        if new_secret {
            event = event.detail("credentials", "changed");
        }
        if before.proven_at.is_some() && after.proven_at.is_none() {
            event = event.detail("test", "undone: it has to pass again");
        }
        let cause = CauseId(audit::record(&mut tx, &event).await?.uuid());
        status_changed(&mut tx, tenant, caller, &before, &after).await?;
        if rescoped && after.status == Derived::Active {
            request_sync(&mut tx, tenant, caller, integration, true, cause).await?;
        }
        let shown = self.shown(&mut tx, tenant, integration).await?;
        tx.commit().await?;
        Ok(v1::UpdateIntegrationResponse { integration: Some(shown) })
    }
}

/// The connection that a configuration describes, checked.
pub(super) fn connection_of(
    sent: &v1::Integration,
    secret_given: bool,
    okta_domains: &ApprovedDomains,
) -> Result<Connection, ApiError> {
    let config = sent
        .config
        .clone()
        .ok_or_else(|| ApiError::field("integration.config", "say which directory: entra or okta"))?;
    let mut connection = edit::connection_in(config)?;
    let mut check = Check::default();
    check.take(edit::check_connection(&mut connection, okta_domains))?;
    check.take(secret_fits(&connection, secret_given))?;
    check.done()?;
    Ok(connection)
}

/// A new integration that nothing is known about yet.
pub(super) fn unsaved(
    name: String,
    connection: Connection,
    settings: Settings,
    caller: &Caller,
    now: OffsetDateTime,
) -> Integration {
    let mut new = Integration {
        id: IntegrationId::new(),
        name,
        provider: connection.provider(),
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
    new
}

/// What an integration would be after a change, checked.
pub(super) fn changed(
    before: &Integration,
    sent: v1::Integration,
    paths: &[String],
    secret_given: bool,
    package: &registry::Package,
    okta_domains: &ApprovedDomains,
) -> Result<Integration, ApiError> {
    if paths.is_empty() || paths.len() > 64 {
        return Err(ApiError::field("update_mask", "name the fields to change"));
    }
    if paths.iter().any(|p| p == "credentials") != secret_given {
        return Err(ApiError::field(
            "credentials",
            "send credentials together with `credentials` in the mask",
        ));
    }
    let mut after = before.clone();
    edit::merge(&mut after, sent, paths, package)?;
    let mut check = Check::default();
    check.require(is_text(&after.name, 120), "integration.name", "give 1 to 120 printable characters");
    check.take(edit::check_connection(&mut after.connection, okta_domains))?;
    check.take(secret_fits(&after.connection, secret_given))?;
    check.done()?;
    edit::check_settings(after.provider, &after.settings, Some(&before.settings), package)?;
    // INVARIANT: what two people agreed on for one directory is not carried to another.
    if !before.connection.same_place(&after.connection) {
        let daily_max = &mut after.settings.validation.daily_max;
        *daily_max = (*daily_max).min(daily_max::MOST_ALONE);
    }
    Ok(after)
}

fn name_taken(error: StoreError) -> ApiError {
    match error {
        StoreError::Duplicate { .. } => {
            ApiError::Exists { reason: "NAME_TAKEN", message: "another integration has this name".into() }
        }
        other => other.into(),
    }
}

/// The secret among credentials, in the form in which it is sealed: a client secret's value, or PEM.
pub(super) fn secret_in(
    credentials: Option<v1::IntegrationCredentials>,
) -> Result<Option<Zeroizing<String>>, ApiError> {
    let Some(v1::integration_credentials::Credentials::Entra(mut entra)) =
        credentials.and_then(|c| c.credentials)
    else {
        return Ok(None);
    };
    let secret = Zeroizing::new(std::mem::take(&mut entra.client_secret));
    let certificate = Zeroizing::new(std::mem::take(&mut entra.certificate_pem));
    if !certificate.is_empty() {
        let usable = if !secret.is_empty() {
            Err("give a client secret or a certificate, not both".to_owned())
        } else if certificate.len() > LONGEST_CERTIFICATE {
            Err("give at most 32 KiB: one certificate and its key".to_owned())
        } else {
            Certificate::read_valid(&certificate, OffsetDateTime::now_utc())
                .map_err(|error| error.to_string())
        };
        usable.map_err(|remedy| ApiError::field("credentials.entra.certificate_pem", remedy))?;
        return Ok(Some(certificate));
    }
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
